//! Command lines, variables and configuration files that are wrong.

use anyhow::{Result, ensure};
use tests::scratch::Folder;

use super::refused::{Attempt, pitr, pitrd};

const USAGE: i32 = 2;
const CONFIG: i32 = 3;

#[test]
fn a_command_line_that_is_not_understood_is_refused() -> Result<()> {
    pitrd(&["run", "--colour"]).is_refused("PITRD-U001", USAGE, &["--colour"])?;
    pitr(&["status", "--colour"]).is_refused("PITR-U001", USAGE, &["--colour"])?;
    pitrd(&["rum"]).is_refused("PITRD-U001", USAGE, &["'rum'", "'run'"])?;
    pitrd(&["run", "--flush", "soon"]).is_refused("PITRD-U001", USAGE, &["'soon'", "--flush"])?;
    for flush in ["0s", "-1s", "1", "1y"] {
        let flush = format!("--flush={flush}");
        pitrd(&["run", &flush]).is_refused("PITRD-U001", USAGE, &["--flush"])?;
    }
    pitrd(&["run", "--compression", "zip"]).is_refused("PITRD-U001", USAGE, &["zip"])?;
    pitrd(&["run", "--spool-max", "much"]).is_refused("PITRD-U001", USAGE, &["much"])?;
    let place = ["--source", "postgresql://a@b/", "--archive", "/no/such", "--spool", "/no/such"];
    let with = |more: [&'static str; 2]| [&["run"], &place[..], &more].concat();
    let small = ["--spool-max", "1MiB"];
    pitrd(&with(small)).is_refused("PITRD-U001", USAGE, &["--spool-max 1.0 MiB", "64"])?;
    pitrd(&with(["--slot", "A b"])).is_refused("PITRD-U001", USAGE, &["\"A b\"", "--slot"])?;
    pitrd(&with(["--tls-min", "1.1"])).is_refused("PITRD-U001", USAGE, &["1.1", "1.3"])?;
    let nothing: [&str; 0] = [];
    pitr(&nothing).is_refused("PITR-U001", USAGE, &["no command is given", "--help"])?;
    pitrd(&nothing).is_refused("PITRD-U001", USAGE, &["no command is given", "--help"])
}

#[test]
fn a_command_of_the_other_program_names_it() -> Result<()> {
    pitrd(&["restore", "--latest"]).is_refused("PITRD-U003", USAGE, &["`pitr restore`"])?;
    pitr(&["run", "--once"]).is_refused("PITR-U003", USAGE, &["`pitrd run`"])
}

#[test]
fn what_is_needed_and_not_given_is_named() -> Result<()> {
    pitrd(&["run"]).is_refused("PITRD-U004", USAGE, &["no source", "PITR_SOURCE"])?;
    let source = ["run", "--source", "postgresql://a@b/"];
    pitrd(&source).is_refused("PITRD-U004", USAGE, &["no archive", "PITR_ARCHIVE"])?;
    let empty = [&source[..], &["--archive", ""]].concat();
    pitrd(&empty).is_refused("PITRD-U004", USAGE, &["no archive"])?;
    let empty = ["run", "--source", "", "--archive", "/no/such"];
    pitrd(&empty).is_refused("PITRD-U004", USAGE, &["no source"])?;
    pitr(&["status"]).is_refused("PITR-U005", USAGE, &["no archive", "PITR_ARCHIVE"])?;
    pitr(&["status", "--archive", ""]).is_refused("PITR-U005", USAGE, &["no archive"])
}

#[test]
fn an_address_that_is_none_says_what_one_looks_like() -> Result<()> {
    let folder = Folder::new("address")?;
    let spool = folder.path().join("spool").display().to_string();
    let run = |source: &str, archive: &str| {
        pitrd(&["run", "--source", source, "--archive", archive, "--spool", &spool])
    };
    let good = "postgresql://a@127.0.0.1:1/";
    run("mysql://a@b/", "/no/such").is_refused("PITRD-C004", CONFIG, &["--source"])?;
    run("postgresql://a@b/?sslmode=maybe", "/x").is_refused("PITRD-C004", CONFIG, &["sslmode"])?;
    run(good, "gs://bucket").is_refused("PITRD-C003", CONFIG, &["s3://bucket/prefix"])?;
    run(good, "file://relative").is_refused("PITRD-C003", CONFIG, &["three slashes"])?;
    pitr(&["list", "--archive", "gs://b"]).is_refused(
        "PITR-C003",
        CONFIG,
        &["s3://bucket/prefix"],
    )?;
    ensure!(!folder.path().join("spool").exists(), "a spool was made for nothing");
    Ok(())
}

#[test]
fn a_password_on_a_command_line_is_refused_and_not_repeated() -> Result<()> {
    for source in
        ["postgresql://me:hush@h/db", "host=h password=hush", "postgresql://h/?password=hush"]
    {
        let attempt = pitrd(&["run", "--source", source, "--archive", "/no/such"]);
        attempt.is_refused("PITRD-U002", USAGE, &["password", ".pgpass"])?;
        attempt.never_says("hush")?;
    }
    let attempt = pitr(&["status", "--archive", "s3://key:hush@bucket/prefix"]);
    attempt.is_refused("PITR-U002", USAGE, &["command line", "AWS"])?;
    attempt.never_says("hush")
}

#[test]
fn a_configuration_file_that_is_wrong_says_where() -> Result<()> {
    let folder = Folder::new("config")?;
    let path = folder.path().join("pitr.toml");
    let name = path.display().to_string();
    let write = |text: &str| std::fs::write(&path, text);
    type Program = fn(&[&str]) -> Attempt;
    let programs: [(Program, &str); 2] = [(|a| pitrd(a), "PITRD"), (|a| pitr(a), "PITR")];
    for (program, prefix) in programs {
        let command = if prefix == "PITRD" { "run" } else { "status" };
        let code = |kind: &str| format!("{prefix}-{kind}");
        let attempt = || program(&["--config", &name, command]);
        let absent = program(&["--config", "/no/such.toml", command]);
        absent.is_refused(&code("C001"), CONFIG, &["/no/such.toml", "No such file"])?;
        write("archive = \"/x\"\nsource = \"postgresql://me:hush@h/")?;
        attempt().is_refused(&code("C001"), CONFIG, &[&name, "line 2"])?;
        attempt().never_says("hush")?;
        write("archiv = \"/x\"\n")?;
        attempt().is_refused(&code("C002"), CONFIG, &["\"archiv\"", &name])?;
        write("[archive]\nurl = \"/x\"\n")?;
        attempt().is_refused(&code("C002"), CONFIG, &["archive", "neither a value nor a list"])?;
    }
    write("flush = \"soon\"\n")?;
    let attempt = pitrd(&["--config", &name, "run"]);
    attempt.is_refused("PITRD-C008", CONFIG, &["soon", "--flush", &name])?;
    let attempt = pitrd(&["run"]).env("PITR_FLUSH", "soon");
    attempt.is_refused("PITRD-C008", CONFIG, &["soon", "variable PITR_FLUSH"])?;
    write("lineage = \"first\"\n")?;
    let attempt = pitr(&["--config", &name, "status"]);
    attempt.is_refused("PITR-C006", CONFIG, &["first", "--lineage", &name])?;
    // On the command line the same is a question of usage.
    let attempt = pitrd(&["--config", &name, "run", "--flush", "soon"]);
    write("flush = \"2s\"\n")?;
    attempt.is_refused("PITRD-U001", USAGE, &["soon"])
}
