//! A store that refuses because of what somebody set: keys that were revoked, a clock that is wrong,
//! a certificate that nobody trusts. Capture goes on into the spool, says so once a minute, and takes
//! up by itself what was corrected.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::certificates::Authority;
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::s3_front::{Manner, S3Front};
use tests::scope;
use tests::scratch::Folder;
use tests::seaweed::{Identity, Seaweed};
use tests::wait::Deadline;

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;

/// Requests that failed and were classified as somebody's to mend.
fn refusals<E: Engine>(guarded: &Guarded<E>) -> Result<f64> {
    let metrics = guarded.pitrd.metrics()?;
    Ok(metrics.labelled("pitr_store_errors_total", "class=\"config\"").unwrap_or_default())
}

/// Refused for a while: told as configuration, once, while the log goes into the spool.
fn refused_for_a_while<E: Engine>(guarded: &mut Guarded<E>) -> Result<()> {
    let before = refusals(guarded)?;
    // Whoever reads the log reads of every other trouble too.
    let warnings = |log: &str| log.lines().filter(|line| line.contains(" WARN ")).count();
    let told = warnings(&guarded.pitrd.log());
    guarded.pitrd.wait("refusals", &Deadline::seconds(120), |pitrd| {
        let metrics = pitrd.metrics()?;
        let now = metrics.labelled("pitr_store_errors_total", "class=\"config\"");
        Ok(now.unwrap_or_default() >= before + scope::scale(4.0, 12.0))
    })?;
    await_flow(&mut guarded.pitrd)?;
    let log = guarded.pitrd.log();
    let told = warnings(&log) - told;
    // An outage before it was another thing, and bases are looked for by somebody else.
    ensure!(told <= scope::scale(3, 6), "told {told} times: {log}");
    ensure!(log.contains("class=Config"), "not told as configuration: {log}");
    ensure!(guarded.pitrd.health()?.trim_end() == "ok", "a restart would help nobody");
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "it takes the place of the file before, as rotations do"
)]
fn credentials_file(path: &Path, who: Identity) -> Result<()> {
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        who.access_key(),
        who.secret_key()
    );
    // As whatever rotates them does: no reader ever finds half a file.
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(&new, path)?)
}

fn rotated<E: Engine>(prefix: &str) -> Result<()> {
    let folder = Folder::new("credentials")?;
    let path = folder.path().join("credentials");
    credentials_file(&path, Identity::Writer)?;
    let seaweed = Seaweed::start_new()?;
    let shown = path.display().to_string();
    let mut environment = vec![("AWS_SHARED_CREDENTIALS_FILE".to_owned(), shown)];
    environment.push(("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()));
    let archive = Archive::on_s3(&seaweed, prefix).known_by(environment);
    let mut guarded = Guarded::<E>::start(archive, |builder| builder)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    let pid = guarded.pitrd.pid()?;
    seaweed.knows(&[Identity::Admin])?;
    seaweed.kill9()?;
    seaweed.start()?;
    refused_for_a_while(&mut guarded)?;
    guarded.note()?;
    ensure!(!guarded.pitrd.log().contains("credentials were rotated"), "by whom?");
    credentials_file(&path, Identity::Admin)?;
    guarded.pitrd.wait_for_log("credentials were rotated", &Deadline::seconds(120))?;
    drop(load);
    ensure!(guarded.pitrd.pid()? == pid, "it was started again");
    let refused = refusals(&guarded)?;
    guarded.pass(&format!("{refused} refusals, then other keys"))
}

#[test]
fn credentials_that_expire_are_replaced_while_it_runs() -> Result<()> {
    rotated::<Cluster>("rotated")
}

#[test]
fn credentials_that_expire_cost_an_archived_oplog_nothing() -> Result<()> {
    rotated::<ReplicaSet>("rotated-oplog")
}

/// The codes are S3's own: a clock that is more than 15 minutes wrong, a policy that denies.
#[test]
fn a_wrong_clock_and_a_denial_are_told_once_a_minute_and_wait_for_somebody() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    let front = S3Front::start(seaweed.port())?;
    let archive = Archive::on_s3(seaweed, "skewed").via(seaweed, front.port(), "skewed");
    let mut guarded = Guarded::<Cluster>::start(archive, |builder| builder)?;
    let load = guarded.server.load()?;
    for code in ["RequestTimeTooSkewed", "AccessDenied"] {
        await_flow(&mut guarded.pitrd)?;
        guarded.note()?;
        front.set(Manner::Refuse(403, code));
        refused_for_a_while(&mut guarded)?;
        ensure!(guarded.pitrd.log().contains(code), "{code} is not told");
        front.set(Manner::Pass);
        let back = guarded.server.flush_position()?;
        guarded.pitrd.wait_durable(back)?;
    }
    load.stop()?;
    let what = format!("{} requests refused", front.refused());
    guarded.pass(&what)
}

#[test]
fn a_certificate_of_another_authority_is_told_as_configuration_and_waited_out() -> Result<()> {
    let (ours, theirs) = (Folder::new("ours")?, Folder::new("theirs")?);
    let authority = Authority::new(ours.path(), "ours")?;
    let right = authority.server("localhost")?;
    let wrong = Authority::new(theirs.path(), "theirs")?.server("localhost")?;
    let seaweed = Seaweed::shared()?;
    let front = S3Front::start(seaweed.port())?;
    front.show(&right)?;
    let archive = Archive::on_s3(seaweed, "authority").via(seaweed, front.port(), "authority");
    let archive = archive.over_tls(&authority.certificate());
    let mut guarded = Guarded::<Cluster>::start(archive, |builder| builder)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    front.show(&wrong)?;
    let before = front.requests();
    refused_for_a_while(&mut guarded)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(front.requests() <= before + 1, "it spoke to somebody that it does not trust");
    front.show(&right)?;
    let back = guarded.server.flush_position()?;
    guarded.pitrd.wait_durable(back)?;
    load.stop()?;
    let refused = refusals(&guarded)?;
    guarded.pass(&format!("{refused} connections refused"))
}
