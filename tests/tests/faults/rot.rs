//! Objects that are not any more what was put: bits turned over at rest, behind the store's back.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use tests::archive::Archive;
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::programs::{self, Output, PitrdBuilder};
use tests::s3_front::{Manner, S3Front};
use tests::scope;
use tests::scratch::Folder;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;

fn pitr(archive: &str, arguments: &[String]) -> Result<Output> {
    let mut all = arguments.to_vec();
    all.extend(["--archive".to_owned(), archive.to_owned()]);
    programs::run("pitr", &all, &[])
}

fn verify(archive: &str, more: &[&str]) -> Result<Output> {
    let all: Vec<String> = ["verify"].iter().chain(more).map(|&word| word.to_owned()).collect();
    pitr(archive, &all)
}

/// The end of a server's life: a base, some sealed segments, and tails.
fn rotten<E: Engine>(prefixes: &[&str]) -> Result<()> {
    let folder = Folder::new("rot")?;
    let root = folder.path().join("archive");
    let mut guarded = Guarded::<E>::start(Archive::at(&root), |builder| builder)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.note()?;
    guarded.server.assert_archived(&mut guarded.pitrd, &guarded.archive)?;
    let ended = guarded.pitrd.sigterm(&Deadline::seconds(60))?;
    ensure!(ended.success(), "{}", guarded.pitrd.log());
    let archive = root.display().to_string();
    // The control: nothing is found where nothing is wrong.
    verify(&archive, &["--read-data"])?.ok()?;
    for prefix in prefixes {
        for _ in 0..scope::scale(2, 40) {
            let keys = guarded.archive.keys(prefix)?;
            // Tails of a segment that is sealed are a copy which nothing reads.
            let open = |key: &str| key.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            let newest = keys.last().and_then(|key| open(key));
            // What a base says of itself is there twice, or says itself that it is wrong.
            let data = |key: &&String| {
                !key.ends_with(".json") && (!key.contains("/tail/") || open(key) == newest)
            };
            let keys: Vec<&String> = keys.iter().filter(data).collect();
            let key = *keys.choose(&mut rand::rng()).with_context(|| (*prefix).to_owned())?;
            let path: PathBuf = root.join(key);
            let whole = std::fs::read(&path)?;
            let at = rand::rng().random_range(0..whole.len());
            let mut rotten = whole.clone();
            rotten[at] ^= 1 << rand::rng().random_range(0..8);
            std::fs::write(&path, &rotten)?;
            let found = verify(&archive, &["--read-data"])?.code_is(9);
            let found = found.with_context(|| format!("byte {at} of {} of {key}", whole.len()))?;
            let said = format!("{}{}", found.stdout, found.stderr);
            let name = key.rsplit('/').next().unwrap_or(key);
            ensure!(said.contains(name), "{key} is not named: {said}");
            // It may lie before what this restore needs: then what it makes is right.
            let code = guarded.try_latest()?;
            println!("byte {at} of {key}: restore {code:?}");
            let needed = key.contains("/base.tar.") || key.contains(".bson.zst.0");
            ensure!(code != Some(0) || !needed, "a rotten base was restored");
            std::fs::write(&path, &whole)?;
        }
    }
    guarded.pitrd.start()?;
    guarded.pass("every bit back in its place")
}

#[test]
fn a_bit_that_rots_at_rest_is_found_and_never_restored() -> Result<()> {
    rotten::<Cluster>(&["lineage/1/log/", "lineage/1/tail/", "lineage/1/base/"])
}

#[test]
fn a_bit_that_rots_in_an_archived_oplog_is_found_and_never_restored() -> Result<()> {
    rotten::<ReplicaSet>(&["lineage/1/tail/", "lineage/1/base/"])
}

fn flip(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let (at, mut byte) = (file.metadata()?.len() / 2, [0]);
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 0x08;
    Ok(file.write_all_at(&byte, at)?)
}

/// Turns a bit over in each sealed file of a spool, once there are so many.
fn flip_sealed(spool: &std::path::Path, count: usize) -> Result<usize> {
    let sealed = || -> Result<Vec<PathBuf>> {
        let paths = std::fs::read_dir(spool)?.map(|entry| Ok(entry?.path()));
        let paths = paths.collect::<Result<Vec<_>>>()?;
        let is_sealed = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "sealed");
        Ok(paths.into_iter().filter(is_sealed).collect())
    };
    let files = wait::until(&Deadline::seconds(60), "sealed files", || {
        Ok(Some(sealed()?).filter(|files| files.len() >= count))
    })?;
    files.iter().try_for_each(|path| flip(path))?;
    Ok(files.len())
}

/// While the store is away the spool alone holds the log, for as long as it takes.
#[test]
fn a_bit_that_flips_in_the_spool_of_a_running_sidecar_never_reaches_the_archive() -> Result<()> {
    for codec in ["zstd:3", "none"] {
        let front = S3Front::start(Seaweed::shared()?.port())?;
        let prefix = format!("flips-{}", &codec[..4]);
        let seaweed = Seaweed::shared()?;
        let archive = Archive::on_s3(seaweed, &prefix).via(seaweed, front.port(), &prefix);
        let with = |builder: PitrdBuilder| builder.args(["--compression", codec]);
        let mut guarded = Guarded::<Cluster>::start(archive, with)?;
        let load = guarded.server.load()?;
        await_flow(&mut guarded.pitrd)?;
        guarded.note()?;
        front.set(Manner::Storm(100));
        guarded.server.fill_log(6)?;
        let files = flip_sealed(&guarded.spool, 6)?;
        front.set(Manner::Pass);
        guarded.pitrd.wait_for_log("is not what was written to it", &Deadline::seconds(120))?;
        await_flow(&mut guarded.pitrd)?;
        drop(load);
        guarded.pass(&format!("{codec}: {files} files flipped"))?;
    }
    Ok(())
}

/// What the disk did is mended by building the pipeline anew: which takes a store that lets us in.
#[test]
fn a_disk_that_fails_while_the_store_refuses_us_does_not_end_the_sidecar() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    let front = S3Front::start(seaweed.port())?;
    let archive = Archive::on_s3(seaweed, "refused").via(seaweed, front.port(), "refused");
    let mut guarded = Guarded::<Cluster>::start(archive, |builder| builder)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    front.set(Manner::Refuse(403, "AccessDenied"));
    guarded.server.fill_log(3)?;
    flip_sealed(&guarded.spool, 3)?;
    guarded.pitrd.wait_for_log("not yet: waiting", &Deadline::seconds(120))?;
    guarded.note()?;
    front.set(Manner::Pass);
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    let what = format!("{} requests refused", front.refused());
    guarded.pass(&what)
}
