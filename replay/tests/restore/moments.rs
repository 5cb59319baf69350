//! The right moment, and proof of it.

use anyhow::Result;
use replay::find::Target;
use replay::target::postgres::{Left, RestoreError};

use crate::source::{BaseWishes, Source, builder};

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_holds_what_was_there_at_each_moment_and_starts_without_the_archive() -> Result<()> {
    let mut source = Source::new(builder().segment_mb(1), BaseWishes::default()).await?;
    let mut moments = Vec::new();
    for round in 0..3 {
        let rows =
            "INSERT INTO t SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 4000) n";
        let xid = source.transaction(rows)?;
        moments.push((xid, source.cluster.record("postgres")?));
        source.transaction(&format!("UPDATE t SET x = 'x' WHERE n % 3 = {round}"))?;
    }
    let latest = source.cluster.record("postgres")?;
    source.log().await?;
    for (at, (xid, moment)) in moments.iter().enumerate() {
        let plan = source.plan(Target::Xid(*xid), false).await?;
        let report = source.restore(&plan, &format!("copy{at}")).await?;
        assert_eq!(report.left, Left::Stopped);
        assert_eq!(report.exit(), 0, "{}", report.text());
        assert!(report.checks.len() >= 4, "{}", report.text());
        assert!(report.checks.iter().all(|check| check.ok), "{}", report.text());
        assert_eq!(report.new_timeline.map(|timeline| timeline.0), Some(2));
        let copy = source.open(&report.folder)?;
        copy.assert_holds(moment)?;
        assert_eq!(copy.value("postgres", "SHOW archive_mode")?, "off");
        let left = "SELECT current_setting('restore_command') || \
                    current_setting('recovery_target_lsn') || '.'";
        assert_eq!(copy.value("postgres", left)?, ".");
    }
    let plan = source.plan(Target::Latest, false).await?;
    let report = source.restore(&plan, "latest").await?;
    println!("{}", report.text());
    source.open(&report.folder)?.assert_holds(&latest)?;

    let before = source.plan(Target::Xid(moments[1].0), true).await?;
    let report = source.restore(&before, "before").await?;
    assert_eq!(report.exit(), 0, "{}", report.text());
    let copy = source.open(&report.folder)?;
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t")?, "4000");

    let again = source.restore(&before, "before").await;
    assert!(matches!(again, Err(RestoreError::Finished { .. })), "it is done already");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_plan_is_found_by_the_checks() -> Result<()> {
    let mut source = Source::new(builder(), BaseWishes::default()).await?;
    let first = source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    let second = source.transaction("INSERT INTO t VALUES (2, 'b')")?;
    source.log().await?;
    let mut plan = source.plan(Target::Xid(first), false).await?;
    let other = source.plan(Target::Xid(second), false).await?;
    plan.target.last_kept = other.target.last_kept;
    let report = source.restore(&plan, "copy").await?;
    assert_eq!(report.exit(), 12, "{}", report.text());
    assert!(report.text().contains("WRONG"), "{}", report.text());
    Ok(())
}
