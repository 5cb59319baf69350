use anyhow::Result;
use archiver::source::postgres::{Acknowledged, Class, StreamEvent};
use proto::postgres::lsn::{Lsn, SegmentId, Timeline};
use tests::postgres::Cluster;
use tests::{process, scope};

use crate::common::{collect, next, session, slot, stream_at, stream_from_here};

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_holds_the_very_bytes_that_pg_receivewal_writes() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major).segment_mb(1).start()?;
        let folder = cluster.scratch("receivewal")?;
        let mut session = session(&cluster).await?;
        session.create_slot(&slot("ours")).await?;
        session.create_slot(&slot("theirs")).await?;
        let size = session.server().segment_size;
        let start = size.floor(session.identify().await?.flushed);
        cluster.pgbench_init("postgres", 1)?;
        cluster.pgbench("postgres", &["-c2", "-t500"])?;
        cluster.switch_wal()?;
        let end = size.floor(cluster.flush_position()?);
        // pg_receivewal leaves at the first byte beyond its end.
        cluster.sql("CREATE TABLE beyond AS SELECT 1")?;

        let mut stream = stream_at(&cluster, Some(&slot("ours")), Timeline(1), start).await?;
        let mut ours = Vec::new();
        collect(&mut stream, end, &mut ours).await?;
        stream.close().await;

        // It goes on after the last whole segment that it finds; 14 does not ask the slot.
        let last = SegmentId { timeline: Timeline(1), number: size.segment_of(start) - 1 };
        std::fs::write(folder.join(last.name(size)), vec![0; usize::try_from(size.bytes())?])?;
        let mut receive = cluster.tool("pg_receivewal");
        receive.args(["--slot=theirs", "--no-loop", "-D"]).arg(&folder);
        receive.args(["--endpos", &end.to_string(), "-d", &cluster.replication_url()]);
        process::run(receive)?;
        let mut segment = SegmentId::containing(Timeline(1), start, size);
        while segment.end(size) <= end {
            let theirs = std::fs::read(folder.join(segment.name(size)))?;
            let at = usize::try_from(segment.start(size).since(start).0)?;
            assert!(ours[at..at + theirs.len()] == theirs, "{major}: {segment:?} differs");
            segment = segment.next();
        }
        assert!(segment.start(size) > start, "at least one whole segment was compared");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_moves_the_slot_and_never_backwards() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let slot = slot("pitr");
    let mut session = session(&cluster).await?;
    session.create_slot(&slot).await?;
    let before = session.read_slot(&slot).await?.expect("the slot").restart.expect("it reserves");
    let mut stream = stream_from_here(&cluster, Some(&slot)).await?;
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")?;
    let end = cluster.flush_position()?;
    collect(&mut stream, end, &mut Vec::new()).await?;
    let position = stream.position();
    stream.report(Acknowledged::unconfirmed(position));
    stream.report(Acknowledged::unconfirmed(before));
    stream.ping();
    while !matches!(next(&mut stream).await?, StreamEvent::Keepalive { .. }) {}
    let after = session.read_slot(&slot).await?.expect("the slot").restart;
    assert_eq!(after, Some(position));
    assert!(position > before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_leaves_the_slot_where_it_is() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let slot = slot("pitr");
    let mut session = session(&cluster).await?;
    session.create_slot(&slot).await?;
    let before = session.read_slot(&slot).await?;
    let mut stream = stream_from_here(&cluster, Some(&slot)).await?;
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")?;
    collect(&mut stream, cluster.flush_position()?, &mut Vec::new()).await?;
    stream.ping();
    while !matches!(next(&mut stream).await?, StreamEvent::Keepalive { .. }) {}
    assert_eq!(session.read_slot(&slot).await?, before);
    let state = "SELECT flush_lsn IS NULL AND replay_lsn IS NULL AND write_lsn IS NOT NULL \
                 FROM pg_stat_replication WHERE state = 'streaming'";
    assert_eq!(cluster.value("postgres", state)?, "t");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_stays_up_beyond_the_servers_patience() -> Result<()> {
    let cluster =
        Cluster::builder(scope::newest_postgres()).conf("wal_sender_timeout", "1s").start()?;
    let mut stream = stream_from_here(&cluster, None).await?;
    collect(&mut stream, cluster.flush_position()?, &mut Vec::new()).await?;
    let idle = tokio::time::timeout(std::time::Duration::from_secs(4), async {
        loop {
            match stream.next().await {
                Ok(StreamEvent::ShutdownSuspected { .. }) => panic!("nobody shuts down"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    assert!(idle.await.is_err(), "the server keeps the connection");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_server_cannot_serve_is_refused_for_good() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .segment_mb(1)
        .conf("max_wal_size", "2MB")
        .conf("min_wal_size", "2MB")
        .conf("wal_keep_size", "0")
        .start()?;
    let start = cluster.flush_position()?;
    for _ in 0..6 {
        cluster.sql("CREATE TABLE t AS SELECT 1; DROP TABLE t")?;
        cluster.switch_wal()?;
    }
    cluster.sql("CHECKPOINT")?;
    cluster.sql("CHECKPOINT")?;
    let class = async |timeline, position: Lsn| {
        let begun = stream_at(&cluster, None, timeline, position).await;
        let error = match begun {
            Ok(mut stream) => next(&mut stream).await.expect_err("no data can come"),
            Err(error) => error,
        };
        let error: &archiver::source::postgres::Error = error.downcast_ref().expect("our error");
        error.class()
    };
    assert_eq!(class(Timeline(1), Lsn(start.0 & !0xfffff)).await, Class::WalRemoved);
    let ahead = Lsn(cluster.flush_position()?.0 + (64 << 20));
    assert_eq!(class(Timeline(1), ahead).await, Class::PositionRefused);
    assert_eq!(class(Timeline(7), start).await, Class::PositionRefused, "another history");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_has_one_reader_and_its_troubles_have_classes() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major).conf("max_replication_slots", "1").start()?;
        let slot = slot("pitr");
        let mut side = session(&cluster).await?;
        side.create_slot(&slot).await?;
        let again = side.create_slot(&slot).await.expect_err("exists");
        assert_eq!(again.class(), Class::SlotExists, "{again}");
        let other = side.create_slot(&crate::common::slot("other")).await.expect_err("full");
        assert_eq!(other.class(), Class::NoFreeSlot, "{other}");
        let first = stream_from_here(&cluster, Some(&slot)).await?;
        let second = stream_from_here(&cluster, Some(&slot)).await;
        let error = second.err().expect("the slot is in use");
        let error: &archiver::source::postgres::Error = error.downcast_ref().expect("our error");
        assert_eq!(error.class(), Class::SlotInUse, "{error}");
        assert!(error.is_retryable());
        first.close().await;
        let dropped = tests::wait::Deadline::seconds(60);
        while let Err(error) = side.drop_slot(&slot).await {
            assert_eq!(error.class(), Class::SlotInUse, "{error}");
            assert!(!dropped.passed());
        }
        let gone = side.drop_slot(&slot).await.expect_err("dropped");
        assert_eq!(gone.class(), Class::NoSuchSlot, "{gone}");
    }
    Ok(())
}
