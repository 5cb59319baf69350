use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use archiver::source::postgres::{BackupEvent, BackupOptions, Checkpoint, MaxRate, Session};
use tests::postgres::{Cluster, Stop};
use tests::{process, scope};

use crate::common::session;

fn options() -> BackupOptions {
    BackupOptions { label: "it's a test".into(), checkpoint: Checkpoint::Fast, max_rate: None }
}

/// Every archive by name, the manifest as `backup_manifest`, and the last event.
async fn take(
    session: Session,
    options: &BackupOptions,
) -> Result<(BTreeMap<String, Vec<u8>>, BackupEvent, Session)> {
    let mut files = BTreeMap::<String, Vec<u8>>::new();
    let mut current = None;
    let mut backup = session.base_backup(options)?;
    let start = backup.next().await?.context("a start")?;
    let BackupEvent::Start { position: from, timeline, tablespaces, .. } = start else {
        anyhow::bail!("{start:?}")
    };
    while let Some(event) = backup.next().await? {
        match event {
            BackupEvent::Archive { name, tablespace } => {
                if let Some(tablespace) = tablespace {
                    ensure!(tablespaces.contains(&tablespace), "a tablespace that was announced");
                }
                current = Some(name);
            }
            BackupEvent::Data(bytes) => {
                let name = current.clone().context("an archive before its bytes")?;
                files.entry(name).or_default().extend_from_slice(&bytes);
            }
            BackupEvent::Manifest(bytes) => {
                files.entry("backup_manifest".into()).or_default().extend_from_slice(&bytes);
            }
            BackupEvent::Progress { .. } => {}
            BackupEvent::Start { .. } => anyhow::bail!("a second start"),
            BackupEvent::End { position, timeline: last, .. } => {
                ensure!(position > from && last == timeline);
                let session = backup.into_session().context("the session comes back")?;
                return Ok((files, event, session));
            }
        }
    }
    anyhow::bail!("no end")
}

fn lay_out(files: &BTreeMap<String, Vec<u8>>, folder: &Path) -> Result<()> {
    for (name, bytes) in files {
        let Some(stem) = name.strip_suffix(".tar") else {
            std::fs::write(folder.join(name), bytes)?;
            continue;
        };
        ensure!(bytes.len() % 512 == 0 && bytes.ends_with(&[0; 1024]), "{name} is a whole archive");
        let to =
            if stem == "base" { folder.to_path_buf() } else { folder.join("pg_tblspc").join(stem) };
        std::fs::create_dir_all(&to)?;
        let archive = folder.with_extension(name);
        std::fs::write(&archive, bytes)?;
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(&to);
        process::run(tar)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_framings_give_whole_archives_that_pg_verifybackup_accepts() -> Result<()> {
    let mut versions = scope::postgres_versions();
    versions.push(14);
    versions.sort_unstable();
    versions.dedup();
    for major in versions {
        let cluster = Cluster::builder(major).checksums(true).tablespace("elsewhere").start()?;
        cluster
            .sql("CREATE TABLE t TABLESPACE elsewhere AS SELECT generate_series(1, 10000) AS a")?;
        let (files, end, mut session) = take(session(&cluster).await?, &options()).await?;
        let BackupEvent::End { damage, .. } = end else { unreachable!("checked by take") };
        assert_eq!(damage, None);
        assert_eq!(files.len(), 3, "{major}: {:?}", files.keys());
        session.identify().await.context("the connection is usable afterwards")?;

        let folder = cluster.scratch("restored")?;
        lay_out(&files, &folder)?;
        let label = std::fs::read_to_string(folder.join("backup_label"))?;
        assert!(label.contains("LABEL: it's a test"), "{label}");
        assert!(folder.join("tablespace_map").is_file());
        let mut verify = Command::new(cluster.bin("pg_verifybackup"));
        verify.env("LD_LIBRARY_PATH", cluster.bin_dir().with_file_name("lib"));
        verify.arg("--no-parse-wal").arg(&folder);
        process::run(verify).with_context(|| format!("{major}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_told_and_do_not_spoil_the_copy() -> Result<()> {
    let mut versions = scope::postgres_versions();
    versions.push(14);
    for major in versions {
        let cluster = Cluster::builder(major).checksums(true).start()?;
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a; CHECKPOINT")?;
        let path = cluster.value("postgres", "SELECT pg_relation_filepath('t')")?;
        cluster.stop(Stop::Fast)?;
        let mut file = std::fs::OpenOptions::new().write(true).open(cluster.data().join(&path))?;
        file.seek(SeekFrom::Start(2 * 8192 + 4000))?;
        file.write_all(b"not what was here")?;
        drop(file);
        cluster.start()?;
        let (files, end, _) = take(session(&cluster).await?, &options()).await?;
        let BackupEvent::End { warnings, damage, .. } = end else {
            unreachable!("checked by take")
        };
        assert_eq!(
            damage.context("told")?.class(),
            archiver::source::postgres::Class::DamagedPages
        );
        let named =
            warnings.iter().any(|w| w.message.contains(&path) && w.message.contains("block 2"));
        assert!(named, "{major}: {warnings:?}");
        assert!(files.contains_key("backup_manifest"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_may_be_slowed_down() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let options = BackupOptions { max_rate: Some(MaxRate::kilobytes(1_048_576)?), ..options() };
    let (files, _, _) = take(session(&cluster).await?, &options).await?;
    assert!(files.contains_key("base.tar"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_does_not_wait_for_a_backup() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let options = BackupOptions { max_rate: Some(MaxRate::kilobytes(32)?), ..options() };
    let mut backup = session(&cluster).await?.base_backup(&options)?;
    while !matches!(backup.next().await?, Some(BackupEvent::Data(_))) {}
    let stop = || cluster.stop_within(Stop::Fast, &tests::wait::Deadline::seconds(20));
    tokio::task::block_in_place(stop)?;
    let error = loop {
        if let Err(error) = backup.next().await {
            break error;
        }
    };
    assert!(error.is_retryable(), "{error}");
    Ok(())
}
