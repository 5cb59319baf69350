//! What a supervisor hears: readiness, status, life, the end; and a log that programs read.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::ports::Port;
use tests::postgres::Cluster;
use tests::programs::{Pitrd, PitrdBuilder};
use tests::scope;
use tests::scratch::Folder;
use tests::wait::{self, Deadline};

/// The supervisor's end of sd_notify(3).
struct Supervisor {
    socket: UnixDatagram,
    path: String,
    heard: Vec<String>,
}

impl Supervisor {
    fn new(folder: &Folder) -> Result<Self> {
        let path = folder.path().join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self { socket, path, heard: Vec::new() })
    }

    fn over(&self, builder: PitrdBuilder) -> PitrdBuilder {
        builder.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "1000000")
    }

    /// Waits until a message has this line.
    fn hears(&mut self, text: &str) -> Result<()> {
        wait::until(&Deadline::seconds(60), &format!("{text:?} to be told"), || {
            let mut buffer = [0; 4096];
            if let Ok(length) = self.socket.recv(&mut buffer) {
                self.heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            Ok(self.heard.iter().any(|told| told.contains(text)).then_some(()))
        })
        .with_context(|| format!("{:?}", self.heard))
    }
}

#[test]
fn a_supervisor_hears_readiness_status_life_and_the_end() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("supervised")?;
    let archive = folder.path().join("archive").display().to_string();
    let mut supervisor = Supervisor::new(&folder)?;
    let builder = Pitrd::builder(&cluster.replication_url(), &archive).arg("--no-base");
    let mut pitrd = supervisor.over(builder).args(["--log-format", "json"]).start()?;
    for text in ["READY=1", "WATCHDOG=1", "STATUS=streaming; durable 1:"] {
        supervisor.hears(text)?;
    }
    let status = pitrd.sigterm(&Deadline::seconds(60))?;
    supervisor.hears("STOPPING=1")?;
    ensure!(status.code() == Some(0), "{status}: {}", pitrd.log());

    let log = pitrd.log();
    ensure!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let json: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        ensure!(json["timestamp"].is_string() && json["level"].is_string(), "{line}");
        ensure!(json["fields"]["message"].is_string(), "{line}");
    }
    Ok(())
}

#[test]
fn a_database_that_is_away_is_no_failed_start() -> Result<()> {
    let port = Port::take()?;
    let folder = Folder::new("supervised")?;
    let archive = folder.path().join("archive").display().to_string();
    let source = format!("postgresql://postgres@127.0.0.1:{}/", port.number());
    let mut supervisor = Supervisor::new(&folder)?;
    let pitrd = supervisor.over(Pitrd::builder(&source, &archive)).start()?;
    for text in ["READY=1", "STATUS=waiting: cannot connect to 127.0.0.1", "WATCHDOG=1"] {
        supervisor.hears(text)?;
    }
    drop(pitrd);
    // A refusal is JSON too where the log is.
    let mut refused =
        Pitrd::builder("mysql://x", &archive).args(["--log-format", "json"]).start()?;
    let status = refused.await_exit(&Deadline::seconds(60))?;
    ensure!(status.code() == Some(3), "{status}");
    let json: serde_json::Value = serde_json::from_str(refused.log().trim())?;
    ensure!(json["error"]["code"] == "PITRD-C004" && json["exit"] == 3, "{json}");
    Ok(())
}
