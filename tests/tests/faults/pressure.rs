//! A store that is away, slow or hanging: the spool takes the log, then its word lets the slot go.
//! The database goes on and stops when it is told to; nothing is lost, and what is about to
//! happen is said.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::archive::ledger::Event;
use proto::postgres::lsn::Lsn;
use tests::archive::Archive;
use tests::gate::Gate;
use tests::postgres::{Builder, Cluster, Stop};
use tests::programs::{self, Metrics, Pitrd, PitrdBuilder};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

pub(super) const MIB: u64 = 1 << 20;

/// A protected cluster with a base, a store that can be taken away, and a history to compare with.
pub(super) struct Pressed {
    pub(super) cluster: Cluster,
    pub(super) seaweed: Seaweed,
    pub(super) archive: Archive,
    pub(super) pitrd: Pitrd,
    pub(super) gate: Gate<Cluster>,
    pub(super) proxy: TcpProxy,
}

pub(super) fn minute() -> Deadline {
    Deadline::seconds(60)
}

pub(super) fn builder() -> Builder {
    Cluster::builder(scope::newest_postgres()).segment_mb(4)
}

impl Pressed {
    pub(super) fn start(name: &str, builder: Builder, arguments: &[&str]) -> Result<Self> {
        Self::start_as(name, builder, |pitrd| Ok(pitrd.args(arguments.iter().copied())))
    }

    pub(super) fn start_as(
        name: &str,
        builder: Builder,
        more: impl FnOnce(PitrdBuilder) -> Result<PitrdBuilder>,
    ) -> Result<Self> {
        let cluster = builder.start()?;
        cluster.add_rows(100)?;
        let seaweed = Seaweed::start_new()?;
        let proxy = TcpProxy::start(seaweed.port())?;
        let through = Archive::on_s3(&seaweed, name).via(&seaweed, proxy.port(), name);
        let archive = Archive::on_s3(&seaweed, name);
        let pitrd = Pitrd::builder(&cluster.replication_url(), through.url())
            .args(["--flush", "100ms", "--compression", "none"])
            .envs(archive.environment());
        let mut pitrd = more(pitrd)?.start()?;
        pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
        cluster.add_rows(100)?;
        let mut gate = Gate::new();
        gate.note(&cluster)?;
        pitrd.wait_caught_up(&cluster)?;
        Ok(Self { cluster, seaweed, archive, pitrd, gate, proxy })
    }

    /// Rows and a moment behind them, whatever the store does.
    pub(super) fn note(&mut self) -> Result<()> {
        self.cluster.add_rows(20)?;
        self.gate.note(&self.cluster).map(drop)
    }

    pub(super) fn await_received(&mut self, lsn: Lsn) -> Result<()> {
        self.pitrd.wait_for_metrics("the bytes to be received", &minute(), |metrics| {
            metrics.sum("pitr_received_position") >= Some(lsn.0 as f64)
        })
    }

    pub(super) fn slot(&self) -> Result<Lsn> {
        self.cluster.slot_restart("pitr")?.context("a slot that holds something")
    }

    /// Everything arrives, nothing presses any more, and the gate opens.
    pub(super) fn recovers(mut self, what: &str) -> Result<()> {
        self.note()?;
        self.pitrd.wait_caught_up(&self.cluster)?;
        self.pitrd.wait_state("streaming", &minute())?;
        let line = self.gate.pass(&self.cluster, &self.archive)?;
        println!("{what}: {line}; {}", self.archive.log()?.assert_unbroken()?);
        Ok(())
    }
}

fn finite(metrics: &Metrics, name: &str) -> bool {
    metrics.sum(name).is_some_and(f64::is_finite)
}

#[test]
fn a_slot_under_pressure_is_let_go_by_the_spool_and_never_delays_a_shutdown() -> Result<()> {
    let mut it = Pressed::start("pressure", builder(), &["--slot-max", "32MiB"])?;
    let stored = it.pitrd.durable().context("a position")?;
    it.seaweed.kill9()?;
    // Below half of --slot-max only the store counts: the control.
    let few = it.cluster.fill_log(8)?;
    it.await_received(few)?;
    it.pitrd.wait_state("store-away", &minute())?;
    let slot = it.slot()?;
    ensure!(slot <= stored, "the slot went to {slot} without need; stored is {stored}");
    it.note()?;
    let many = it.cluster.fill_log(16)?;
    it.pitrd.wait_state("slot-under-pressure", &minute())?;
    it.await_received(many)?;
    wait::until(&minute(), "the slot to pass what the store has", || {
        Ok(it.slot().ok().filter(|slot| slot.0 > stored.0 + 16 * MIB).map(drop))
    })?;
    let metrics = it.pitrd.metrics()?;
    ensure!(metrics.sum("pitr_slot_limit_bytes") == Some((32 * MIB) as f64), "slot-max");
    ensure!(metrics.sum("pitr_slot_held_bytes") < Some((16 * MIB) as f64), "it was let go");
    ensure!(it.pitrd.lag()? > 0.0, "what only the spool holds is not durable in the store");
    it.note()?;
    it.cluster.stop_within(Stop::Fast, &minute())?;
    it.pitrd.kill9()?;
    it.cluster.start()?;
    let (slot, spooled) = (it.slot()?, super::spooled(&it.pitrd.spool()?)?);
    ensure!(slot <= spooled, "the slot is at {slot}, and the spool holds up to {spooled}");
    it.seaweed.start()?;
    it.pitrd.start()?;
    it.recovers(&format!("stored {stored}, slot {slot}, spool {spooled}"))
}

#[test]
fn a_slow_link_is_forecast_and_what_only_the_spool_holds_is_named_until_it_arrives() -> Result<()> {
    let arguments = ["--slot-max", "16MiB", "--spool-max", "512MiB"];
    let mut it = Pressed::start("slow", builder(), &arguments)?;
    let at_rest = it.pitrd.metrics()?.sum("pitr_spool_full_seconds");
    ensure!(at_rest == Some(f64::INFINITY), "{at_rest:?}");
    it.proxy.set(Behaviour::Rate(100_000));
    let status = || {
        let arguments = ["status", "--json", "--archive", it.archive.url()];
        programs::run("pitr", &arguments, &it.archive.environment())?.json()
    };
    let named = wait::until(&Deadline::seconds(200), "pressure to be forecast and named", || {
        it.cluster.fill_log(1)?;
        std::thread::sleep(Duration::from_millis(200));
        let told = it.pitrd.log().contains("forecast: spool full in");
        let forecast = it.pitrd.metrics().is_ok_and(|metrics| {
            finite(&metrics, "pitr_spool_full_seconds")
                && finite(&metrics, "pitr_slot_full_seconds")
        });
        if !told || !forecast {
            return Ok(None);
        }
        let status = status()?;
        Ok((status["state"] == "slot-under-pressure").then_some(status))
    })?;
    let told = programs::run(
        "pitr",
        &["status", "--archive", it.archive.url()],
        &it.archive.environment(),
    )?;
    ensure!(told.stdout.contains("is held only in the sidecar's spool"), "{}", told.stdout);
    it.pitrd.wait_state("slot-under-pressure", &minute())?;
    let spooled = |event: &Event| matches!(event, Event::Spooled { from, to } if from < to);
    ensure!(it.archive.ledger()?.iter().any(spooled), "the ledger names no range");
    it.note()?;
    it.proxy.set(Behaviour::Pass);
    it.pitrd.wait_caught_up(&it.cluster)?;
    it.pitrd.wait_for_metrics("no forecast any more", &minute(), |metrics| {
        !finite(metrics, "pitr_spool_full_seconds")
    })?;
    let after = {
        let arguments = ["status", "--json", "--archive", it.archive.url()];
        programs::run("pitr", &arguments, &it.archive.environment())?.json()?
    };
    ensure!(after["state"].is_null() && after["spool_only"].is_null(), "{after}");
    it.recovers(&format!("a slow link, {}", named["spool_only"]))
}

#[test]
fn a_store_that_swallows_everything_costs_no_memory_and_sigterm_says_what_is_left() -> Result<()> {
    let arguments = ["--slot-max", "1GiB", "--spool-max", "64MiB"];
    let mut it = Pressed::start("swallow", builder(), &arguments)?;
    let before = it.pitrd.memory()?;
    it.seaweed.pause()?;
    it.cluster.fill_log(60)?;
    it.note()?;
    it.cluster.fill_log(60)?;
    it.pitrd.wait_state("held", &minute())?;
    it.note()?;
    // Long enough for a queue that grows to be seen.
    std::thread::sleep(Duration::from_secs(scope::scale(4, 600)));
    let after = it.pitrd.memory()?;
    let grown = after.resident.saturating_sub(before.resident);
    ensure!(grown < 64 * MIB && after.peak < 192 * MIB, "{before:?} became {after:?}");
    ensure!(it.pitrd.metrics()?.sum("pitr_spool_full_seconds") == Some(0.0), "it is full");
    ensure!(it.pitrd.sigterm(&minute())?.success(), "{}", it.pitrd.log());
    let log = it.pitrd.log();
    ensure!(log.contains("stay in the spool") && log.contains("spool_bytes="), "{log}");
    it.seaweed.resume()?;
    it.pitrd.start()?;
    it.recovers(&format!("{before:?}, {after:?}"))
}

#[test]
fn an_idle_database_has_no_lag_and_every_moment_of_it_can_be_restored() -> Result<()> {
    let mut it = Pressed::start("idle", builder(), &[])?;
    it.pitrd.wait_caught_up(&it.cluster)?;
    let mut moments = Vec::new();
    for _ in 0..scope::scale(4, 600) {
        std::thread::sleep(Duration::from_secs(1));
        let at = "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        moments.push(it.cluster.value("postgres", at)?);
        ensure!(it.pitrd.lag()? < 1.0, "{} without a write", it.pitrd.lag()?);
    }
    let metrics = it.pitrd.metrics()?;
    let position = |name| metrics.sum(name);
    let (received, durable) = ("pitr_received_position", "pitr_durable_position");
    ensure!(position(received) == position(durable), "{:?}", position(received));
    // Its first proof behind a start comes at once, the others once a minute.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(it.pitrd.sigterm(&minute())?.success(), "{}", it.pitrd.log());
    it.pitrd.start()?;
    for moment in &moments {
        wait::until(&Deadline::seconds(120), "an idle moment to be proved", || {
            let arguments = ["plan", "--at", moment, "--archive", it.archive.url()];
            let plan = programs::run("pitr", &arguments, &it.archive.environment())?;
            Ok((plan.code == Some(0)).then_some(()))
        })?;
    }
    it.recovers(&format!("{} idle moments", moments.len()))
}
