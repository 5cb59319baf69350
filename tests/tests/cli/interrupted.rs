//! What breaks in on `pitr` before it has written anything: Ctrl-C, and a store that goes away.

use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::postgres::Cluster;
use tests::process::{self, Signal};
use tests::programs::{self, Pitrd};
use tests::scope;
use tests::scratch::Folder;
use tests::seaweed::{BUCKET, Identity, Seaweed};
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{Deadline, until};

/// An archive with a base, behind a proxy.
struct Archive {
    folder: Folder,
    proxy: TcpProxy,
    url: String,
    bin: String,
}

impl Archive {
    fn make() -> Result<Self> {
        let cluster = Cluster::start_new(scope::newest_postgres())?;
        let (store, folder) = (Seaweed::shared()?, Folder::new("interrupted")?);
        let prefix = folder.path().file_name().context("a name")?.to_string_lossy().into_owned();
        let mut pitrd = Pitrd::builder(&cluster.replication_url(), &store.url(BUCKET, &prefix))
            .envs(Identity::Writer.environment())
            .start()?;
        pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
        pitrd.sigterm(&Deadline::seconds(60))?;
        let proxy = TcpProxy::start(store.port())?;
        let url = store.url_via(proxy.port(), BUCKET, &prefix);
        let bin = cluster.bin_dir().display().to_string();
        Ok(Self { folder, proxy, url, bin })
    }

    /// Runs `pitr` until it is in the middle of reading the archive, does this to it, and gives
    /// its exit code and what it said.
    fn broken_in_on(
        &self,
        words: &[&str],
        act: impl FnOnce(&Child) -> Result<()>,
    ) -> Result<(Option<i32>, String)> {
        let into = self.folder.path().join("into");
        let into_text = into.display().to_string();
        let mut command = programs::command("pitr")?;
        command.args(words).args(["--archive", &self.url]);
        if words[0] == "restore" {
            command.args(["--into", &into_text, "--pg-bin", &self.bin]);
            command.args(tests::user::run_as().iter().flat_map(|user| ["--run-as", user]));
        }
        let log = self.folder.path().join("log");
        command.envs(Identity::Reader.environment()).stdout(std::process::Stdio::null());
        command.stderr(std::fs::File::create(&log)?);
        self.proxy.set(Behaviour::Latency(Duration::from_millis(200)));
        let before = self.proxy.requests();
        let mut child = process::spawn(command)?;
        until(&Deadline::seconds(60), "it to be in the middle of its reading", || {
            Ok((self.proxy.requests() >= before + 4).then_some(()))
        })?;
        act(&child)?;
        let status = process::wait_for(&mut child, "pitr", &Deadline::seconds(300))?;
        let said = std::fs::read_to_string(&log)?;
        println!("pitr {}: {status}\n{said}", words.join(" "));
        ensure!(!into.exists(), "something was written");
        ensure!(said.matches("error PITR-").count() == 1, "one message: {said}");
        ensure!(said.contains("  next: "), "it does not say what next: {said}");
        Ok((status.code(), said))
    }
}

#[test]
fn a_signal_while_pitr_plans_or_looks_is_told_as_an_interruption() -> Result<()> {
    let archive = Archive::make()?;
    for (words, signal) in [
        (&["plan", "--latest"][..], Signal::INT),
        (&["restore", "--latest"][..], Signal::INT),
        (&["restore", "--latest"][..], Signal::TERM),
        (&["status"][..], Signal::INT),
        (&["verify", "--read-data"][..], Signal::TERM),
    ] {
        let (code, said) = archive.broken_in_on(words, |child| process::signal(child, signal))?;
        ensure!(code == Some(5) && said.contains("error PITR-R002"), "{words:?}: {code:?} {said}");
    }
    Ok(())
}

#[test]
fn a_store_that_goes_away_while_pitr_plans_is_told_as_unreachable() -> Result<()> {
    let archive = Archive::make()?;
    for words in [&["plan", "--latest"][..], &["restore", "--latest"][..]] {
        let faults = archive.proxy.faults();
        let (code, said) = archive.broken_in_on(words, |_| {
            archive.proxy.set(Behaviour::Cut);
            Ok(())
        })?;
        ensure!(archive.proxy.faults() > faults, "nothing was cut");
        ensure!(code == Some(8) && said.contains("error PITR-S001"), "{words:?}: {code:?} {said}");
        ensure!(said.contains("  why:  "), "it does not say why: {said}");
    }
    Ok(())
}
