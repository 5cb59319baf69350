//! A moment is found by the index of the log's segments: what cannot hold it is not opened.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bson::{Timestamp, doc};
use proto::archive::layout::SegmentName;
use tests::mongod::{ReplicaSet, blocking};
use tests::programs::pitr;

use super::{archived, moment, restored};

/// So many rounds, each of which fills about a segment.
const ROUNDS: i32 = 10;

/// A source, and the moments behind each round.
fn written() -> Result<(ReplicaSet, restored::Taken, Vec<Timestamp>)> {
    let source = ReplicaSet::single()?;
    let client = source.client()?;
    let taken = blocking(restored::base(&client))?;
    let text = "x".repeat(1 << 20);
    let mut moments = Vec::new();
    for round in 0..ROUNDS {
        let documents: Vec<_> =
            (0..2).map(|n| doc! { "_id": round * 2 + n, "text": &text }).collect();
        source.run("shop", doc! { "insert": "a", "documents": documents })?;
        let note = doc! { "appendOplogNote": 1, "data": { "msg": format!("round {round}") } };
        source.run("admin", note)?;
        moments.push(blocking(moment::last_write(&client))?);
        // The next one is of another second.
        std::thread::sleep(std::time::Duration::from_millis(2100));
    }
    source.run("shop", doc! { "insert": "a", "documents": [{ "_id": "last" }] })?;
    Ok((source, taken, moments))
}

fn sealed(archive: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for group in std::fs::read_dir(format!("{archive}/lineage/1/log/00000001"))? {
        for file in std::fs::read_dir(group?.path())? {
            found.push(file?.path());
        }
    }
    found.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    Ok(found)
}

#[test]
fn a_moment_is_found_without_opening_the_segments_that_cannot_hold_it() -> Result<()> {
    let (source, taken, moments) = written()?;
    let log = restored::log(source.primary()?, &taken.base)?;
    let archive = blocking(archived::archive(&taken, &log))?;
    let middle = moments[moments.len() / 2];
    let time = proto::timestamp::Timestamp((i64::from(middle.time) + 1) * 1_000_000).to_string();
    let name = format!("round {}", moments.len() / 2);
    let asks = [["--at", &time], ["--at-name", &name]];
    let plan = |ask: &[&str; 2]| {
        pitr(&[&["plan", "--archive", &archive, "--json"][..], &ask[..]].concat())
    };
    let of = |ask: &[&str; 2]| anyhow::Ok(plan(ask)?.ok()?.json()?["target"].clone());
    let without = [of(&asks[0])?, of(&asks[1])?];
    let reindex = || anyhow::Ok(pitr(&["reindex", "--archive", &archive, "--json"])?.ok()?.json()?);
    let files = sealed(&archive)?;
    ensure!(files.len() > 6, "{files:?}");
    let made = reindex()?;
    ensure!(made["made"] == files.len() && made["unreadable"] == serde_json::json!([]), "{made}");
    ensure!(reindex()?["made"] == 0, "made a second time");
    ensure!([of(&asks[0])?, of(&asks[1])?] == without, "the index says something else");

    // What stands far from the moment is made unreadable, but for the end of the log.
    let until = without[1]["until"].as_str().context("a timestamp")?.parse()?;
    let name = format!("{}.zst", SegmentName::mongodb(until).name);
    let at = files.partition_point(|path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().as_ref() <= name.as_str())
    });
    let near = at.saturating_sub(2)..=at + 1;
    let mut harmed = 0;
    for (number, path) in files[..files.len() - 1].iter().enumerate() {
        if !near.contains(&number) {
            let mut bytes = std::fs::read(path)?;
            let half = bytes.len() / 2;
            bytes[..half].fill(0);
            std::fs::remove_file(path)?;
            std::fs::write(path, bytes)?;
            harmed += 1;
        }
    }
    ensure!(harmed >= 3, "{harmed} of {}", files.len());
    ensure!([of(&asks[0])?, of(&asks[1])?] == without, "another moment was found");
    // Without the index they are opened, and the damage is met.
    std::fs::remove_dir_all(format!("{archive}/lineage/1/index"))?;
    for ask in &asks {
        ensure!(plan(ask)?.code != Some(0), "nothing was opened");
    }
    let made = reindex()?;
    let unreadable = made["unreadable"].as_array().map_or(0, Vec::len);
    ensure!(unreadable == harmed, "{made}");
    Ok(())
}
