//! What goes wrong in the middle: recovery never ends early, and the same command goes on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use proto::store::fault::{Fault, FaultStore, Kind, Op, Rule};
use proto::store::{Class, Store};
use replay::find::Target;
use replay::plan::Plan;
use replay::target::postgres::{Left, Report, RestoreError, restore_from};
use replay::target::progress::Silent;
use tests::postgres::Moment;
use tokio_util::sync::CancellationToken;

use crate::source::{BaseWishes, Source, builder};

async fn from_store(
    source: &Source,
    store: Arc<dyn Store>,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<Report, RestoreError> {
    Box::pin(restore_from(store, plan, &source.options("copy"), &Silent, stop)).await
}

/// A source with a few dozen segments, and what it held at the end.
async fn long_log() -> Result<(Source, Moment, Plan)> {
    let mut source = Source::new(builder().segment_mb(1), BaseWishes::default()).await?;
    for _ in 0..8 {
        let rows =
            "INSERT INTO t SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 3000) n";
        source.transaction(rows)?;
    }
    let moment = source.cluster.record("postgres")?;
    source.log().await?;
    let plan = source.plan(Target::Latest, false).await?;
    anyhow::ensure!(plan.segments.len() > 10, "{} segments", plan.segments.len());
    Ok((source, moment, plan))
}

fn recovers(source: &Source) -> bool {
    source.place("copy").join("recovery.signal").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_or_lies_stops_recovery_and_never_ends_it() -> Result<()> {
    let (source, moment, plan) = long_log().await?;
    let stop = CancellationToken::new();
    let middle = plan.segments[plan.segments.len() / 2].name.clone();
    let kinds = [
        (Fault::FailBefore(Class::Config), Kind::FailBefore, 3),
        (Fault::Omit, Kind::Omit, 1),
        (Fault::Flip, Kind::Flip, 1),
        (Fault::Short, Kind::Short, 1),
    ];
    for (fault, kind, exit) in kinds {
        let (store, faults) = FaultStore::new(source.archive.store.clone(), 7);
        faults.script(Rule::once(Op::Get, fault).on(middle.as_str()).times(9999));
        let error = from_store(&source, store, &plan, &stop).await.err().context("it succeeded")?;
        assert!(matches!(error, RestoreError::NoLog { .. }), "{fault:?}: {error}");
        assert_eq!(error.exit(), exit, "{fault:?}: {error}");
        assert!(error.to_string().contains(&middle), "{fault:?}: {error}");
        assert!(faults.fired(kind) > 0, "{fault:?}");
        assert!(recovers(&source), "{fault:?}: recovery was ended");
        println!("{fault:?}: {error}");
    }
    let store = source.archive.store.clone();
    let report = from_store(&source, store, &plan, &stop).await?;
    assert!(report.resumed && report.exit() == 0, "{}", report.text());
    source.open(&report.folder)?.assert_holds(&moment)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_recovery_stops_its_server_and_goes_on() -> Result<()> {
    let (source, moment, plan) = long_log().await?;
    let slow = Fault::Delay(Duration::from_millis(400));
    let (store, faults) = FaultStore::new(source.archive.store.clone(), 7);
    faults.script(Rule::once(Op::Get, slow).on("/log/").times(9999));
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let pid_file = source.place("copy").join("postmaster.pid");
    let stopper = tokio::spawn(async move {
        while !pid_file.exists() || faults.fired(Kind::Delay) < 6 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stopping.cancel();
    });
    let error = from_store(&source, store, &plan, &stop).await.err().context("it succeeded")?;
    stopper.await?;
    assert_eq!(error.exit(), 5, "{error}");
    assert!(!source.place("copy").join("postmaster.pid").exists(), "its server still runs");
    assert!(recovers(&source));
    // The archive has moved on meanwhile: the moment must not.
    let mut later = plan.clone();
    later.target.lsn = proto::postgres::lsn::Lsn(plan.target.lsn.0 + 1);
    let stop = CancellationToken::new();
    let report = from_store(&source, source.archive.store.clone(), &later, &stop).await?;
    assert_eq!(report.target_lsn, plan.target.lsn, "the frozen plan");
    source.open(&report.folder)?.assert_holds(&moment)
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_grew_after_the_base_are_raised_for_the_log_that_needs_them() -> Result<()> {
    let mut source = Source::new(builder(), BaseWishes::default()).await?;
    source.cluster.sql("ALTER SYSTEM SET max_connections = 234")?;
    source.cluster.sql("ALTER SYSTEM SET max_locks_per_transaction = 77")?;
    source.cluster.restart()?;
    source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    let moment = source.cluster.record("postgres")?;
    source.log().await?;
    let mut plan = source.plan(Target::Latest, false).await?;
    // As if no index had told.
    plan.settings.clear();
    let report = source.restore(&plan, "copy").await?;
    assert_eq!(report.exit(), 0, "{}", report.text());
    let copy = source.open(&report.folder)?;
    copy.assert_holds(&moment)?;
    assert_eq!(copy.value("postgres", "SHOW max_connections")?, "234");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_only_laid_out_recovers_by_itself_from_the_archive() -> Result<()> {
    let (source, moment, plan) = long_log().await?;
    let mut options = source.options("copy");
    options.then = replay::target::postgres::Then::LayOut;
    let report = source.restore_with(&plan, &options).await?;
    assert_eq!(report.left, Left::LaidOut);
    assert!(recovers(&source));
    // The server runs wal-fetch by its own user, which must be able to read the archive.
    open_to_all(&source.folder.path().join("archive"))?;
    let copy = tests::postgres::Cluster::open(source.cluster.major(), &source.place("copy"))?;
    copy.start()?;
    let paused = "SELECT pg_get_wal_replay_pause_state()";
    tests::wait::until(&tests::wait::Deadline::seconds(60), "recovery pauses", || {
        Ok((copy.value("postgres", paused)? == "paused").then_some(()))
    })?;
    copy.assert_holds(&moment)
}

fn open_to_all(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        if path.is_dir() {
            open_to_all(&path)?;
        }
    }
    Ok(())
}

/// As PostgreSQL 14 leaves a folder when it is stopped between removing the signal and writing the
/// new timeline's history.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_cut_off_behind_its_signal_goes_on_and_opens_nothing_beyond_the_target()
-> Result<()> {
    let mut source = Source::new(builder(), BaseWishes::default()).await?;
    let first = source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    let moment = source.cluster.record("postgres")?;
    source.transaction("INSERT INTO t VALUES (2, 'b')")?;
    source.log().await?;
    let plan = source.plan(Target::Xid(first), false).await?;
    let mut options = source.options("copy");
    options.then = replay::target::postgres::Then::Pause;
    let paused = source.restore_with(&plan, &options).await?;
    assert_eq!(paused.left, Left::Paused, "{}", paused.text());
    crate::copies::stop(&source, &paused.folder)?;
    std::fs::remove_file(paused.folder.join("recovery.signal"))?;
    let report = source.restore(&plan, "copy").await?;
    assert_eq!(report.exit(), 0, "{}", report.text());
    assert_eq!(report.new_timeline.map(|timeline| timeline.0), Some(2), "{}", report.text());
    source.open(&report.folder)?.assert_holds(&moment)
}

/// `pitr restore` as a process of its own.
fn command(source: &Source) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pitr"));
    command.args(["restore", "--latest", "--archive"]).arg(source.place("archive"));
    command.arg("--into").arg(source.place("copy"));
    command.arg("--pg-bin").arg(source.cluster.bin_dir());
    command.args(tests::user::run_as().iter().flat_map(|user| ["--run-as", user]));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_again_and_again_goes_on_to_the_same_end() -> Result<()> {
    let (source, moment, _) = long_log().await?;
    let (mut killed, mut during_recovery) = (0, 0);
    for attempt in 1_u64.. {
        let mut child = command(&source).spawn()?;
        tokio::time::sleep(Duration::from_millis(150 * attempt)).await;
        if let Some(status) = child.try_wait()? {
            let said = String::from_utf8(child.wait_with_output()?.stderr)?;
            // Killed behind the last step, there is nothing left to do.
            let was_finished = status.code() == Some(4) && said.contains("is finished");
            let ended = status.success() || was_finished;
            anyhow::ensure!(ended, "attempt {attempt}: {status}: {said}");
            break;
        }
        killed += 1;
        during_recovery += u32::from(source.place("copy").join("postmaster.pid").exists());
        child.kill()?;
        child.wait()?;
        anyhow::ensure!(attempt < 60, "it never comes to its end");
    }
    println!("{killed} kills, {during_recovery} of them while its server ran");
    assert!(during_recovery > 0, "no kill met the recovery");
    assert!(!source.place("copy").join("recovery.signal").exists());
    let copy = source.open(&source.place("copy"))?;
    copy.assert_holds(&moment)?;
    assert_eq!(copy.value("postgres", "SELECT current_setting('restore_command') || '.'")?, ".");
    Ok(())
}
