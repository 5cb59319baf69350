//! What the commands print, and what they refuse.

use std::ffi::OsString;

use super::status::postgres as status;
use super::{Code, Parsed, list, parse, verify};
use crate::fixture::{Archive, LINEAGE, ONE, at, sealed, size, whole};
use crate::verify::{Options, Progress};
use proto::postgres::lsn::{Lsn, SegmentId};

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn refused(line: &str) -> super::CliError {
    match parse(words(line), None) {
        Err(error) => error,
        Ok(parsed) => panic!("{line} was understood: {parsed:?}"),
    }
}

fn understood(line: &str) -> super::Cli {
    match parse(words(line), None) {
        Ok(Parsed::Command(cli)) => *cli,
        other => panic!("{line} was not understood: {other:?}"),
    }
}

/// The text without the archive's own folder.
fn shown(archive: &Archive, text: &str) -> String {
    text.replace(archive.path(), "/archive")
}

async fn status_of(archive: &Archive, seconds: i64) -> String {
    let status = status::collect(&archive.catalog().await, at(seconds)).await.expect("readable");
    shown(archive, &status::text(&status, false))
}

#[test]
fn a_command_of_pitrd_names_it() {
    for name in super::PROGRAM.of_other {
        let error = refused(&format!("pitr --json {name} --slot x"));
        assert_eq!(error.code, Code::OtherProgram);
        assert!(error.what.contains(&format!("pitrd {name}")), "{error}");
    }
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    for line in [
        "pitr status --archive s3://key:hush@bucket/prefix",
        "pitr restore --into mongodb://me:hush@host/",
        "pitr list --archive=s3://b?password=hush",
    ] {
        let error = refused(line);
        assert_eq!(error.code, Code::Secret);
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    understood("pitr plan --at-name a@b:c --archive /archive");
}

#[test]
fn a_command_line_that_is_not_understood_says_what_and_how() {
    insta::assert_snapshot!(refused("pitr status --colour"), @"
    error PITR-U001: unexpected argument '--colour' found
      next: Usage: pitr status [OPTIONS]
    ");
    insta::assert_snapshot!(refused("pitr plan --latest --at-xid 7"), @"
    error PITR-U001: the argument '--latest' cannot be used with '--at-xid <XID>'
      next: Usage: pitr plan --latest
    ");
    insta::assert_snapshot!(refused("pitr"), @"
    error PITR-U001: no command is given
      next: run `pitr --help`
    ");
    insta::assert_snapshot!(refused("pitr restroe"), @"
    error PITR-U001: unrecognized subcommand 'restroe'
      next: a similar subcommand exists: 'restore'. Usage: pitr [OPTIONS] <COMMAND>
    ");
}

#[test]
fn the_file_is_weaker_than_the_command_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pitr.toml");
    let text = "archive = \"/from/file\"\njson = true\njobs = 3\nat = \"2026-11-20T14:00:00Z\"\n\
                tablespace = [\"/a=/b\", \"/c=/d\"]\n";
    std::fs::write(&path, text).expect("written");
    let config = format!("--config {}", path.display());
    let cli = understood(&format!("pitr {config} restore --latest --into /new"));
    assert_eq!(cli.global.archive.as_deref(), Some("/from/file"));
    assert!(cli.global.json);
    let super::Command::Restore(args) = cli.command else { panic!("another command") };
    assert_eq!((args.jobs, args.target.latest, args.target.at), (Some(3), true, None));
    assert_eq!(args.tablespace, ["/a=/b", "/c=/d"]);
    let cli = understood(&format!("pitr list --archive /given {config}"));
    assert_eq!(cli.global.archive.as_deref(), Some("/given"));
    // The variable names the file as well.
    let parsed = parse(words("pitr list"), Some(path.clone().into())).expect("understood");
    let Parsed::Command(cli) = parsed else { panic!("help") };
    assert_eq!(cli.global.archive.as_deref(), Some("/from/file"));

    std::fs::write(&path, "archiv = \"/x\"\n").expect("written");
    assert_eq!(refused(&format!("pitr {config} list")).code, Code::ConfigKey);
    std::fs::write(&path, "archive = [[\n").expect("written");
    assert_eq!(refused(&format!("pitr {config} list")).code, Code::ConfigFile);
    assert_eq!(refused("pitr --config /no/such/file list").code, Code::ConfigFile);
}

#[tokio::test]
async fn status_of_a_protected_database() {
    let (archive, _) = whole().await;
    insta::assert_snapshot!(status_of(&archive, 130).await, @"
    PROTECTED  restorable until 2026-11-20 14:01:58Z
    archive  /archive  lineage 1  postgresql 15  cluster 7412345678901234567
    lag      12 s (by this machine's clock: approximate where clocks differ)
    durable  0/00600C28 on timeline 1, complete up to 2026-11-20 14:01:58Z
    window   2026-11-20 14:00:21Z .. 2026-11-20 14:01:58Z
    bases    1, 23 B; no gap
    writer   pitrd 0.1.0 on db1 since 2026-11-20 14:00:00Z (epoch 1); 3 objects in the open segment
    ");
}

#[tokio::test]
async fn status_when_nothing_is_proven_any_more() {
    let (archive, _) = whole().await;
    let text = status_of(&archive, 1000).await;
    insta::assert_snapshot!(text.lines().next().unwrap_or_default(), @"NOT PROTECTED since 2026-11-20 14:01:58Z: the newest proof is 14 min 42 s old; restorable until 2026-11-20 14:01:58Z");
}

#[tokio::test]
async fn status_behind_a_gap_without_a_new_base() {
    let (archive, _) = whole().await;
    archive.remove(&sealed(4));
    archive.gap(Lsn(size().start_of(4).0 + 8), size().start_of(5)).await;
    insta::assert_snapshot!(status_of(&archive, 130).await, @"
    NOT PROTECTED since 2026-11-20 14:00:30Z: the log is lost from 0/00400008 on (the slot was lost), and no base follows; restorable until 2026-11-20 14:00:30Z
    archive  /archive  lineage 1  postgresql 15  cluster 7412345678901234567
    lag      12 s (by this machine's clock: approximate where clocks differ)
    durable  0/00600C28 on timeline 1, complete up to 2026-11-20 14:01:58Z
    window   2026-11-20 14:00:21Z .. 2026-11-20 14:00:30Z
    bases    1, 23 B; 1 gap
    writer   pitrd 0.1.0 on db1 since 2026-11-20 14:00:00Z (epoch 1); 3 objects in the open segment

     TIMELINE  LOST FROM   TO          RECORDED              REASON
     1         0/00400008  0/00500000  2026-11-20 14:00:00Z  the slot was lost
    ");
}

#[tokio::test]
async fn a_segment_that_is_on_its_way_takes_no_protection_and_one_that_stays_away_does() {
    let (archive, _) = whole().await;
    archive.remove(&sealed(5));
    let soon = status::collect(&archive.catalog().await, at(50)).await.expect("readable");
    assert!(soon.protected, "{soon:?}");
    assert_eq!(soon.durable.position.map(|place| place.lsn), Some(size().start_of(5)));
    let late = status::collect(&archive.catalog().await, at(900)).await.expect("readable");
    assert!(!late.protected);
    assert_eq!(late.reason.as_deref(), Some("the log has a hole, and no base follows"));
}

/// Tails whose data, whose header is damaged, one that is lost, a base and an entry of the ledger.
#[tokio::test]
async fn what_is_damaged_is_told_with_its_key_once() {
    let tail = |seq| LINEAGE.tail(&SegmentId { timeline: ONE, number: 6 }.name(size()), seq);
    for harmed in ["data", "header", "lost"] {
        let (archive, _) = whole().await;
        match harmed {
            "data" => archive.damage(&tail(1), 245),
            "header" => archive.damage(&tail(1), 20),
            _ => archive.remove(&tail(0)),
        }
        archive.put(&LINEAGE.base_complete("torn"), b"{".to_vec()).await;
        archive.put(&LINEAGE.ledger_entry(2), b"{".to_vec()).await;
        let keys = [tail(1), LINEAGE.base_complete("torn"), LINEAGE.ledger_entry(2)];
        let texts = [status_of(&archive, 130).await, list_of(&archive).await];
        let (catalog, progress) = (archive.catalog().await, Progress::default());
        let report = crate::verify::verify(&catalog, Options::default(), &progress).await;
        let verified = verify::text(&report.expect("readable"), false);
        let texts = texts.into_iter().chain([verified]);
        for text in texts {
            for key in &keys {
                assert_eq!(text.matches(key.as_str()).count(), 1, "{harmed}: {key} in {text}");
            }
        }
    }
}

#[tokio::test]
async fn status_without_a_base() {
    let archive = Archive::begun(2).await;
    let text = status_of(&archive, 130).await;
    insta::assert_snapshot!(text.lines().next().unwrap_or_default(), @"NOT PROTECTED since 2026-11-20 14:00:00Z: no log is archived; nothing can be restored");
}

#[tokio::test]
async fn status_as_json_has_what_is_promised() {
    let (archive, _) = whole().await;
    let status = status::collect(&archive.catalog().await, at(130)).await.expect("readable");
    let json = serde_json::to_value(&status).expect("JSON");
    for key in ["engine", "identity", "lag_seconds", "gaps", "writer"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["lag_seconds"], 12.0);
    assert_eq!(json["windows"][0]["from"], "2026-11-20T14:00:21.000000Z");
    assert_eq!(json["windows"][0]["to"], "2026-11-20T14:01:58.000000Z");
    assert!(json["durable"]["position"].is_object() && json["durable"]["time"].is_string());
    for key in ["id", "start", "stop", "bytes"] {
        assert!(json["bases"][0].get(key).is_some(), "{key}");
    }
}

async fn list_of(archive: &Archive) -> String {
    let listing = list::collect(&archive.catalog().await).await.expect("readable");
    shown(archive, &list::text(&listing, false))
}

#[tokio::test]
async fn list_in_plain_columns() {
    let (archive, _) = whole().await;
    archive.remove(&sealed(5));
    archive.gap(size().start_of(5), size().start_of(6)).await;
    insta::assert_snapshot!(list_of(&archive).await, @"
    archive /archive  lineage 1

    RESTORABLE
     FROM                  TO                    FROM LSN    TO LSN
     2026-11-20 14:00:21Z  2026-11-20 14:00:40Z  0/00200050  0/00500000

    BASES
     ID                FINISHED              TIMELINE  START       STOP        STORED  UNPACKED  STATE
     20261120T140016Z  2026-11-20 14:00:21Z  1         0/00200000  0/00200050  23 B    19.5 KiB  complete

    GAPS
     TIMELINE  LOST FROM   TO          RECORDED              REASON
     1         0/00500000  0/00600000  2026-11-20 14:00:00Z  the slot was lost

    TIMELINES
     TIMELINE  PARENT  BRANCH  SEGMENTS  STORED    LOG FROM    LOG TO      REASON
     1         -       -       4         14.1 KiB  0/00600000  0/00600C28  -
    ");
}

#[tokio::test]
async fn verify_names_each_finding() {
    let (archive, _) = whole().await;
    archive.remove(&sealed(4));
    let (catalog, progress) = (archive.catalog().await, Progress::default());
    let report = crate::verify::verify(&catalog, Options::default(), &progress).await;
    insta::assert_snapshot!(verify::text(&report.expect("the store works"), false), @"
    MISSING lineage/1/log/00000001/00000000/000000010000000000000004.zst
      expected: a segment, for the log goes on behind it
      found:    nothing from 0/00400000 to 0/00500000
    1 FINDING: 4 segments, 3 tails, 1 bases with 1 objects, 0 indexes: structure only; --read-data reads every byte
    ");
}

async fn planned(archive: &Archive, line: &str) -> Result<String, super::CliError> {
    let super::Command::Plan(args) = understood(line).command else { panic!("another command") };
    let wanted = super::plan::wanted(&args, at(200), |_| None)?;
    let plan = crate::plan::make(&archive.catalog().await, &wanted, at(200)).await?;
    Ok(shown(archive, &plan.summary()))
}

async fn plan_refused(archive: &Archive, line: &str) -> super::CliError {
    planned(archive, line).await.expect_err(line)
}

#[tokio::test]
async fn plan_of_a_time_in_the_middle() {
    let (archive, _) = whole().await;
    let text = planned(&archive, "pitr plan --at 2026-11-20T15:00:45+01:00").await;
    insta::assert_snapshot!(text.expect("a plan"), @"
    target     --at 2026-11-20T14:00:45.000000Z
    stops      before the record at 0/00500028 on timeline 1
    last kept  transaction 104 at 2026-11-20T14:00:40.000000Z (LSN 0/00400028)
    left out   transaction 105 at 2026-11-20T14:00:50.000000Z (LSN 0/00500028)
    base       20261120T140016Z (finished 2026-11-20T14:00:21.000000Z, PostgreSQL 15)
    log        4 segments, 000000010000000000000002 to 000000010000000000000005; frozen at 0/00600C28
    fetch      17.8 KiB (23 B base, 17.8 KiB log); disk 4.0 MiB and what the database grows by
    archive    /archive  lineage 1  cluster 7412345678901234567
    ");
}

#[tokio::test]
async fn plan_refuses_what_cannot_be_restored_and_names_the_nearest() {
    let (archive, _) = whole().await;
    for (line, exit) in [
        ("pitr plan --at 2026-11-20T14:00:01Z", super::Exit::NotRestorable),
        ("pitr plan --at 2030-01-01T00:00:00Z", super::Exit::NotRestorable),
        ("pitr plan --at-name nobody", super::Exit::NotRestorable),
        ("pitr plan --at-xid 99", super::Exit::NotRestorable),
        ("pitr plan --latest --base nothing", super::Exit::NotRestorable),
        ("pitr plan --at 2026-11-20T14:00:45", super::Exit::Usage),
        ("pitr plan --at-lsn x", super::Exit::Usage),
        ("pitr plan", super::Exit::Usage),
    ] {
        let error = plan_refused(&archive, line).await;
        assert_eq!(error.exit(), exit, "{line}: {error}");
    }
    let late = plan_refused(&archive, "pitr plan --at 2026-11-20T14:02:00Z").await;
    insta::assert_snapshot!(late, @"
    error PITR-N001: 2026-11-20T14:02:00.000000Z is later than what is archived: complete up to 2026-11-20T14:01:58.000000Z, LSN 0/00600C28; the latest before it is 2026-11-20T14:01:58.000000Z (LSN 0/00600C28)
      next: --latest restores the newest moment; `pitr status` tells the lag
    ");
    let early = plan_refused(&archive, "pitr plan --at 2026-11-20T14:00:01Z").await;
    insta::assert_snapshot!(early, @"
    error PITR-N001: 2026-11-20T14:00:01.000000Z lies before the first moment that a base can be replayed to; the earliest after it is 2026-11-20T14:00:21.000000Z (LSN 0/00200050)
      next: give one of the moments named; `pitr list` shows all windows
    ");
}

#[test]
fn a_time_before_now_is_recorded_as_the_moment_that_it_is() {
    let super::Command::Plan(args) = understood("pitr plan --at -15m").command else {
        panic!("another command")
    };
    let wanted = super::plan::wanted(&args, at(0), |_| None).expect("a moment");
    assert_eq!(wanted.asked, "--at 2026-11-20T13:45:00.000000Z (-15m)");
}

#[test]
fn a_word_is_quoted_as_a_shell_takes_it() {
    assert_eq!(super::plan::quoted("s3://b/p"), "s3://b/p");
    assert_eq!(super::plan::quoted("before it's late"), r"'before it'\''s late'");
}

#[test]
fn a_tablespace_needs_an_old_and_a_new_place() {
    use super::restore::tablespaces;
    let pairs =
        |words: &[&str]| tablespaces(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
    let found = pairs(&["/old=/new", "16400=/other"]).expect("two pairs");
    assert_eq!(found["16400"], std::path::Path::new("/other"));
    for words in [&["/old"][..], &["=/new"], &["/old="], &["/a=/b", "/a=/c"]] {
        assert_eq!(pairs(words).expect_err("refused").code, Code::Usage, "{words:?}");
    }
}

#[test]
fn recovery_never_takes_a_misspelt_fetch_for_the_end_of_the_log() {
    let line = ["pitr", "--jsno", "wal-fetch", "a", "b"];
    assert_eq!(super::run(line.iter().map(OsString::from).collect()), 200);
    let line = ["pitr", "--json", "wal-fetch", "nonsense", "/no/such/folder/x"];
    assert_eq!(super::run(line.iter().map(OsString::from).collect()), 200);
}
