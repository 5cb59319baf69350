use anyhow::{Context, Result};
use archiver::source::postgres::sql::WalStatus;
use archiver::source::postgres::{
    Acknowledged, Class, ConnectOptions, Environment, SqlSession, SyncState,
};
use proto::position::ByteCount;
use tests::postgres::Cluster;
use tests::scope;

use crate::common::{collect, options, session, slot, stream_from_here};

async fn sql(cluster: &Cluster) -> Result<SqlSession> {
    Ok(SqlSession::connect(&options(&cluster.replication_url())?).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_tells_what_it_holds_and_what_is_safe() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major).conf("max_slot_wal_keep_size", "64MB").start()?;
        let mut sql = sql(&cluster).await?;
        assert_eq!(sql.slot(&slot("pitr")).await?, None);
        session(&cluster).await?.create_slot(&slot("pitr")).await?;
        let state = sql.slot(&slot("pitr")).await?.context("the slot")?;
        assert!(state.restart.is_some(), "it holds the log from its creation on");
        assert_eq!((state.active, state.status), (false, Some(WalStatus::Reserved)));
        assert!(state.safe.is_some_and(|bytes| bytes > 0));
        let stream = stream_from_here(&cluster, Some(&slot("pitr"))).await?;
        let state = sql.slot(&slot("pitr")).await?.context("the slot")?;
        assert_eq!(state.active_pid, Some(stream.server().process_id));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_positions_are_read_in_their_units() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major)
            .conf("max_slot_wal_keep_size", "64MB")
            .conf("wal_sender_timeout", "30s")
            .start()?;
        let mut sql = sql(&cluster).await?;
        let settings = sql.settings().await?;
        assert_eq!(settings.max_slot_wal_keep_size, Some(ByteCount(64 << 20)));
        assert_eq!(settings.wal_sender_timeout, std::time::Duration::from_secs(30));
        assert_eq!(settings.wal_writer_delay, std::time::Duration::from_millis(200));
        assert_eq!(settings.hot_standby.len(), 5);
        let changed = sql.changed_settings().await?;
        assert!(changed.iter().any(|s| s.name == "wal_sender_timeout" && s.value.is_some()));
        assert!(sql.hba_rules().await?.is_some_and(|rules| !rules.is_empty()));

        let before = sql.position().await?;
        assert!(!before.in_recovery);
        let point = sql.create_restore_point("before 'the' \\end").await?;
        let after = sql.position().await?;
        assert!(Some(point) > before.written);
        assert!(after.clock > before.clock);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_tells_what_it_has_replayed() -> Result<()> {
    let primary = Cluster::start_new(scope::newest_postgres())?;
    let standby = primary.standby()?;
    standby.await_replay_of(&primary)?;
    let position = sql(&standby).await?.position().await?;
    assert!(position.in_recovery && position.flushed.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_whether_commits_wait_for_us() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let mut sql = sql(&cluster).await?;
    let mut stream = stream_from_here(&cluster, None).await?;
    let pid = stream.server().process_id;
    collect(&mut stream, cluster.flush_position()?, &mut Vec::new()).await?;
    assert_eq!(sql.sync_state(pid).await?, Some(SyncState::Async));
    stream.report(Acknowledged::unconfirmed(stream.position()));
    cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'pitr'")?;
    cluster.reload()?;
    let deadline = tests::wait::Deadline::seconds(60);
    while sql.sync_state(pid).await? != Some(SyncState::Sync) {
        assert!(!deadline.passed(), "the server counts us as synchronous");
        stream.ping();
        crate::common::next(&mut stream).await?;
    }
    assert_eq!(sql.sync_state(1).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plain_role_may_not_see_is_unknown_and_not_guessed() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    cluster.sql("CREATE ROLE plain LOGIN")?;
    let options =
        ConnectOptions::parse(&cluster.url("plain", "postgres"), &Environment::default())?;
    let mut sql = SqlSession::connect(&options).await?;
    assert_eq!(sql.hba_rules().await?, None);
    let stream = stream_from_here(&cluster, None).await?;
    assert_eq!(sql.sync_state(stream.server().process_id).await?, None);
    let refused = sql.create_restore_point("x").await.expect_err("not allowed");
    assert_eq!(refused.class(), Class::Permission);
    sql.position().await.context("an error does not end the session")?;
    Ok(())
}
