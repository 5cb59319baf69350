//! Databases that refuse, lack something, or are away.

use anyhow::Result;
use tests::ports::Port;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::scratch::Folder;
use tests::wait::Deadline;

use super::refused::{Attempt, nothing_is_left};

const CONFIG: i32 = 3;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 8;

/// A folder with room for an archive and a spool that do not exist yet.
struct Place {
    folder: Folder,
}

impl Place {
    fn new() -> Result<Self> {
        Ok(Self { folder: Folder::new("refused")? })
    }

    fn archive(&self) -> String {
        self.folder.path().join("archive").display().to_string()
    }

    fn once(&self, source: &str) -> Attempt {
        Attempt::once(source, &self.archive(), &self.folder.path().join("spool"))
    }

    fn is_untouched(&self, cluster: Option<&Cluster>) -> Result<()> {
        nothing_is_left(cluster, &self.folder.path().join("archive"))
    }
}

#[test]
fn a_role_that_may_not_enter_or_replicate_is_told_so() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .hba("host all,replication guarded 127.0.0.1/32 scram-sha-256")
        .hba("host all,replication nobody 127.0.0.1/32 reject")
        .start()?;
    cluster.sql(
        "CREATE ROLE guarded LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE plain LOGIN; \
         CREATE ROLE nobody LOGIN REPLICATION",
    )?;
    let place = Place::new()?;
    let as_role = |role: &str| place.once(&cluster.url(role, "postgres"));
    let wrong = as_role("guarded").env("PGPASSWORD", "hush");
    wrong.is_refused("PITRD-C004", CONFIG, &["refuses the connection", "password", "28P01"])?;
    wrong.never_says("hush")?;
    as_role("guarded").is_refused("PITRD-C004", CONFIG, &["wants a password", ".pgpass"])?;
    as_role("nobody").is_refused("PITRD-C004", CONFIG, &["pg_hba.conf"])?;
    as_role("ghost").is_refused("PITRD-C004", CONFIG, &["ghost"])?;
    as_role("plain").is_refused("PITRD-C005", CONFIG, &["42501", "ALTER ROLE"])?;
    place.is_untouched(Some(&cluster))?;
    // In the background it is refused as well: nobody would read the log.
    let archive = place.archive();
    let mut pitrd = Pitrd::builder(&cluster.url("plain", "postgres"), &archive).start()?;
    let status = pitrd.await_exit(&Deadline::seconds(60))?;
    anyhow::ensure!(status.code() == Some(CONFIG), "{status}: {}", pitrd.log());
    place.is_untouched(Some(&cluster))
}

#[test]
fn a_server_that_cannot_be_archived_says_what_it_lacks() -> Result<()> {
    let major = scope::newest_postgres();
    let place = Place::new()?;
    let minimal = Cluster::builder(major)
        .conf("wal_level", "minimal")
        .conf("max_wal_senders", "0")
        .start()?;
    let says = ["max_wal_senders = 0", "wal_level = minimal", "restart the server"];
    place.once(&minimal.replication_url()).is_refused("PITRD-C007", CONFIG, &says)?;
    place.is_untouched(Some(&minimal))?;
    drop(minimal);

    let slotless = Cluster::builder(major).conf("max_replication_slots", "0").start()?;
    let attempt = place.once(&slotless.replication_url());
    attempt.is_refused("PITRD-C006", CONFIG, &["raise max_replication_slots"])?;
    place.is_untouched(Some(&slotless))
}

#[test]
fn a_slot_that_cannot_be_had_is_told() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .conf("max_replication_slots", "1")
        .conf("wal_level", "logical")
        .start()?;
    let place = Place::new()?;
    let source = cluster.replication_url();
    cluster.sql("SELECT pg_create_physical_replication_slot('other', true)")?;
    let full = place.once(&source);
    full.is_refused("PITRD-C006", CONFIG, &["max_replication_slots", "53400"])?;

    // Somebody else's stream: not ours to begin an archive on.
    let mut receiver = cluster.tool("pg_receivewal");
    let folder = cluster.scratch("received")?;
    receiver.args(["--slot=other", "-U", "postgres", "-h"]).arg(cluster.socket_dir());
    receiver.arg(format!("--port={}", cluster.port())).arg("-D").arg(folder);
    let mut receiver = tests::process::spawn(receiver)?;
    let active = "SELECT active FROM pg_replication_slots";
    tests::wait::until(&Deadline::seconds(60), "the slot to be in use", || {
        Ok((cluster.value("postgres", active)? == "t").then_some(()))
    })?;
    let taken = place.once(&source).arg("--slot=other");
    taken.is_refused("PITRD-R001", REFUSED, &["55006", "--slot"])?;
    tests::process::end(&mut receiver);

    cluster.sql(
        "SELECT pg_drop_replication_slot('other'); \
         SELECT pg_create_logical_replication_slot('other', 'pgoutput')",
    )?;
    let logical = place.once(&source).arg("--slot=other");
    logical.is_refused("PITRD-C007", CONFIG, &["logical", "--slot"])?;
    cluster.sql("SELECT pg_drop_replication_slot('other')")?;
    place.is_untouched(Some(&cluster))
}

#[test]
fn a_server_that_is_away_ends_once_and_is_waited_for_by_run() -> Result<()> {
    let port = Port::take()?;
    let source = format!("postgresql://postgres@127.0.0.1:{}/", port.number());
    let place = Place::new()?;
    let says = ["cannot connect", "refused", "can be reached"];
    place.once(&source).is_refused("PITRD-S001", UNREACHABLE, &says)?;
    let nowhere = place.once("postgresql://postgres@no-such-host.invalid/");
    nowhere.is_refused("PITRD-S001", UNREACHABLE, &["no-such-host.invalid"])?;
    place.is_untouched(None)?;

    let mut pitrd = Pitrd::builder(&source, &place.archive()).start()?;
    pitrd.wait_for_log("waiting", &Deadline::seconds(60))?;
    // The metrics are there although nothing has begun.
    pitrd.wait_for_metrics("the state", &Deadline::seconds(60), |metrics| {
        metrics.labelled("pitr_archiver_state", "state=\"connecting\"") == Some(1.0)
    })?;
    anyhow::ensure!(pitrd.health()? == "ok\n");
    // Long enough for ten attempts: only the first few are told.
    std::thread::sleep(std::time::Duration::from_secs(8));
    let told = pitrd.log().matches("PITRD-S001").count();
    anyhow::ensure!((1..=4).contains(&told), "{told} lines: {}", pitrd.log());
    let status = pitrd.sigterm(&Deadline::seconds(60))?;
    anyhow::ensure!(status.code() == Some(0), "{status}: {}", pitrd.log());
    place.is_untouched(None)
}

#[test]
fn a_certificate_that_proves_nothing_is_refused() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres()).tls().start()?;
    let place = Place::new()?;
    let authority = cluster.authority().map(|authority| authority.certificate());
    let authority = authority.unwrap_or_default().display().to_string();
    let stranger = Folder::new("stranger")?;
    let other = tests::certificates::Authority::new(stranger.path(), "another authority")?;
    let other = other.certificate().display().to_string();
    let with = |mode: &str, root: &str| {
        place.once(&cluster.url_with("postgres", "", &[("sslmode", mode), ("sslrootcert", root)]))
    };
    let says = ["TLS", "sslrootcert"];
    with("verify-full", &other).is_refused("PITRD-C004", CONFIG, &says)?;
    with("verify-ca", &other).is_refused("PITRD-C004", CONFIG, &says)?;
    with("verify-full", "/no/such/ca.crt").is_refused(
        "PITRD-C004",
        CONFIG,
        &["/no/such/ca.crt"],
    )?;
    let wanted =
        [("sslmode", "verify-full"), ("sslrootcert", &authority), ("hostaddr", "127.0.0.1")];
    let elsewhere =
        cluster.url_with("postgres", "", &wanted).replace("@127.0.0.1", "@elsewhere.invalid");
    let says = ["elsewhere.invalid", "certificate", "the host in --source"];
    place.once(&elsewhere).is_refused("PITRD-C004", CONFIG, &says)?;
    let plain = Cluster::start_new(scope::newest_postgres())?;
    let source = plain.url_with("postgres", "", &[("sslmode", "require")]);
    place.once(&source).is_refused("PITRD-C004", CONFIG, &["TLS"])?;
    place.is_untouched(Some(&cluster))
}
