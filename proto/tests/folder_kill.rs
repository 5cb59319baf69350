//! The folder store under SIGKILL: this program starts itself as the writer that is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use proto::store::folder::FolderStore;
use proto::store::{Access, Body, Key, Put, Range, Store, conformance, list_all};

const ROOT: &str = "PITR_TEST_KILLED_WRITER_ROOT";
const OBJECT_BYTES: usize = 300_000;

fn key(number: u64) -> Key {
    Key::new(format!("log/{:02}/{number:08}", number % 7))
}

fn bytes(number: u64) -> Vec<u8> {
    conformance::noise(OBJECT_BYTES, number)
}

/// The writer: puts until it is killed, and says what it was told is durable.
#[tokio::test]
async fn writer() -> Result<()> {
    let Some(root) = std::env::var_os(ROOT) else { return Ok(()) };
    let root = Path::new(&root);
    let store = FolderStore::open(root.join("archive"), Access::ReadWrite).await?;
    let known = list_all(&store, "").await?.len() as u64;
    for number in known.. {
        let body = if number % 2 == 0 {
            Body::from(bytes(number))
        } else {
            let path = root.join(format!("sealed-{number}-{}", std::process::id()));
            std::fs::write(&path, bytes(number))?;
            Body::File { path, len: OBJECT_BYTES as u64 }
        };
        assert_eq!(store.put(&key(number), &body).await?, Put::Created);
        println!("durable {number}");
    }
    Ok(())
}

fn start_writer(root: &Path) -> Result<Child> {
    let mut writer = Command::new(std::env::current_exe()?);
    writer.args(["--exact", "writer", "--nocapture"]).env(ROOT, root);
    Ok(writer.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

#[tokio::test]
async fn whenever_a_writer_is_killed_every_object_is_whole_and_what_it_was_told_is_there()
-> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut told = 0u64;
    for round in 0..15u64 {
        let mut writer = start_writer(dir.path())?;
        let said = writer.stdout.take().context("stdout is piped")?;
        // Killed while the next put is under way.
        let told_this_time = BufReader::new(said)
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("durable ")?.parse::<u64>().ok());
        told = told_this_time.take(2 + round as usize % 5).last().context("it wrote nothing")?;
        writer.kill()?;
        writer.wait()?;

        let store = FolderStore::open(dir.path().join("archive"), Access::ReadOnly).await?;
        let found = list_all(&store, "").await?;
        assert!(found.len() as u64 > told, "round {round}: {} of {told}", found.len());
        assert!(found.iter().all(|object| object.bytes == OBJECT_BYTES as u64), "round {round}");
        for number in 0..found.len() as u64 {
            assert!(store.get(&key(number), Range::All).await? == bytes(number), "{number}");
        }
    }
    assert!(told > 30);
    Ok(())
}
