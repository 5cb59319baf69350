//! Passwords and keys appear nowhere: no log, however loud, no metric, no process list, no error, no
//! object of the archive.

use anyhow::{Result, ensure};
use tests::postgres::Cluster;
use tests::programs::{self, PitrdBuilder};
use tests::scope;
use tests::scratch::Folder;
use tests::seaweed::{BUCKET, Identity, Seaweed};
use tests::wait::Deadline;

const PASSWORD: &str = "hush-hush-database";

fn clean(what: &str, text: &str) -> Result<()> {
    for secret in [PASSWORD, Identity::Admin.secret_key()] {
        if let Some(at) = text.find(secret) {
            let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
            let line = text[line..].lines().next().unwrap_or_default();
            anyhow::bail!("a secret stands in {what}: {line}");
        }
    }
    Ok(())
}

#[test]
fn a_secret_appears_nowhere() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .hba("host all,replication guarded 127.0.0.1/32 scram-sha-256")
        .start()?;
    let role = format!("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
    cluster.sql(&role)?;
    let seaweed = Seaweed::shared()?;
    let archive = seaweed.url(BUCKET, "secrets");
    let folder = Folder::new("secrets")?;
    // In a file, in a variable, and in the source itself where nobody else can read it.
    let config = folder.path().join("pitrd.toml");
    let source =
        cluster.url("guarded", "postgres").replace("guarded@", &format!("guarded:{PASSWORD}@"));
    std::fs::write(&config, format!("source = \"{source}\"\nno-base = false\n"))?;
    let mut pitrd = PitrdBuilder::default()
        .args(["run", "--archive", &archive])
        .args(["--config".to_owned(), config.display().to_string()])
        .envs(seaweed.environment())
        .env("PGPASSWORD", PASSWORD)
        .env("PITR_LOG", "trace")
        .start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
    clean("the metrics", pitrd.metrics()?.text())?;
    let line = std::fs::read(format!("/proc/{}/cmdline", pitrd.pid()?))?;
    clean("the process list", &String::from_utf8_lossy(&line))?;
    pitrd.sigterm(&Deadline::seconds(60))?;
    clean("the log", &pitrd.log())?;
    ensure!(pitrd.log().len() > 100_000, "the log was not loud");

    let mut environment = seaweed.environment();
    environment.push(("PGPASSWORD".to_owned(), PASSWORD.to_owned()));
    environment.push(("PITR_LOG".to_owned(), "trace".to_owned()));
    environment.push(("PITR_SOURCE".to_owned(), source.clone()));
    environment.push(("PITR_ARCHIVE".to_owned(), archive));
    for (program, arguments) in [
        ("pitrd", vec!["check"]),
        ("pitrd", vec!["check", "--json"]),
        ("pitrd", vec!["run", "--help"]),
        ("pitrd", vec!["point", "here"]),
        ("pitr", vec!["status"]),
        ("pitr", vec!["list", "--json"]),
        ("pitr", vec!["plan", "--latest"]),
    ] {
        let output = programs::run(program, &arguments, &environment)?;
        clean(&output.command, &format!("{}{}", output.stdout, output.stderr))?;
    }
    // Nobody answers there; the error names the place and not the password.
    let away = source.replace(&format!(":{}", cluster.port()), ":1");
    environment.push(("PITR_SOURCE".to_owned(), away));
    let output = programs::run("pitrd", &["point", "here"], &environment)?.code_is(8)?;
    clean("an error", &output.stderr)?;
    for key in seaweed.keys(BUCKET, "secrets/")? {
        if key.ends_with(".json") || key.ends_with(".md") {
            clean(&key, &String::from_utf8_lossy(&seaweed.get(BUCKET, &key)?))?;
        }
    }
    Ok(())
}
