//! Catching up on at least 1 GB of pgbench WAL into a folder: pitrd against pg_receivewal on the
//! same WAL, in turn, with a slot of its own for each run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use benches::measure::{Cost, median, run};
use proto::postgres::lsn::Lsn;
use tests::postgres::Cluster;
use tests::programs;
use tests::scratch::Folder;

const ROUNDS: usize = 3;
const BYTES: u64 = 1 << 30;
/// DESIGN's promise: at least as fast with lz4, and memory that stays flat.
const RATIO_MIN: f64 = 1.0;
const MEMORY_MAX: u64 = 64 << 20;

fn main() -> Result<()> {
    let cluster = Cluster::builder(15)
        .conf("max_wal_size", "16GB")
        .conf("max_replication_slots", "20")
        .conf("checkpoint_timeout", "1h")
        .conf("synchronous_commit", "off")
        .start()?;
    let folder = Folder::new("ingest")?;
    // Both have followed before, and come back to what was written meanwhile.
    for round in 0..ROUNDS {
        cluster.sql(&format!("SELECT pg_create_physical_replication_slot('peer{round}', true)"))?;
        for codec in ["lz4", "zstd"] {
            pitrd(&cluster, &folder.sub(&format!("{codec}-{round}"))?, codec, round)?;
        }
    }
    let from = cluster.flush_position()?;
    cluster.pgbench_init("postgres", 60)?;
    loop {
        // Behind a checkpoint the first change of a page brings the whole page, as in real life.
        cluster.sql("CHECKPOINT")?;
        if cluster.flush_position()?.since(from).0 >= BYTES {
            break;
        }
        cluster.pgbench("postgres", &["-n", "-c", "8", "-T", "10"])?;
    }
    cluster.sql("SELECT pg_switch_wal()")?;
    let to = cluster.flush_position()?;
    let bytes = to.since(from).0;
    println!("{:.0} MB of WAL, {ROUNDS} rounds", bytes as f64 / 1e6);

    let (mut peer, mut lz4, mut zstd) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        peer.push(receivewal(&cluster, &folder.sub(&format!("peer{round}"))?, round, to)?);
        lz4.push(pitrd(&cluster, &folder.path().join(format!("lz4-{round}")), "lz4", round)?);
        zstd.push(pitrd(&cluster, &folder.path().join(format!("zstd-{round}")), "zstd", round)?);
    }
    let (peer, lz4, zstd) = (median(peer)?, median(lz4)?, median(zstd)?);
    println!(
        "| program | MB/s | against the peer | CPU s/GB | peak memory |\n|---|---|---|---|---|"
    );
    let row = |name: &str, cost: &Cost| {
        println!(
            "| {name} | {:.0} | {:.2} | {:.2} | {:.1} MiB |",
            bytes as f64 / 1e6 / cost.wall.as_secs_f64(),
            peer.wall.as_secs_f64() / cost.wall.as_secs_f64(),
            cost.cpu.as_secs_f64() / (bytes as f64 / 1e9),
            cost.peak_bytes as f64 / f64::from(1 << 20),
        );
    };
    row("pg_receivewal -Z lz4", &peer);
    row("pitrd lz4", &lz4);
    row("pitrd zstd:3", &zstd);
    let ratio = peer.wall.as_secs_f64() / lz4.wall.as_secs_f64();
    ensure!(ratio >= RATIO_MIN, "lz4 reaches {ratio:.2} of the peer, {RATIO_MIN} is promised");
    let memory = lz4.peak_bytes.max(zstd.peak_bytes);
    ensure!(memory <= MEMORY_MAX, "{memory} bytes of memory, {MEMORY_MAX} are promised");
    Ok(())
}

fn receivewal(cluster: &Cluster, dir: &Path, round: usize, to: Lsn) -> Result<Cost> {
    tests::user::hand_over(dir)?;
    let mut command = cluster.tool("pg_receivewal");
    command
        .args(["-h"])
        .arg(cluster.socket_dir())
        .args(["-p", &cluster.port().to_string(), "-U", "postgres", "--no-loop", "-Z", "lz4"])
        .arg(format!("--slot=peer{round}"))
        .arg(format!("--endpos={to}"))
        .arg("-D")
        .arg(dir);
    run(command)
}

fn pitrd(cluster: &Cluster, dir: &Path, codec: &str, round: usize) -> Result<Cost> {
    let mut command: Command = programs::command("pitrd")?;
    command
        .args(["run", "--once", "--no-base", "--compression", codec, "--listen", "127.0.0.1:0"])
        .arg("--source")
        .arg(cluster.socket_url("postgres", "postgres"))
        .arg("--archive")
        .arg(dir.join("archive"))
        .arg("--spool")
        .arg(dir.join("spool"))
        .arg("--slot")
        .arg(format!("{codec}{round}"))
        .stderr(std::fs::File::create(dir.join("log"))?);
    run(command).with_context(|| std::fs::read_to_string(dir.join("log")).unwrap_or_default())
}
