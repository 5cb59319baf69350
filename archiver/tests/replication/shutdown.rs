use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use archiver::source::postgres::{Acknowledged, Drive, Outcome, Push, Sink, StreamEvent, run};
use tests::postgres::{Cluster, Stop};
use tests::scope;
use tests::wait::Deadline;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::common::{LIMIT, session, slot, stream_from_here};

/// A consumer that makes everything durable at once, or nothing at all.
struct Consumer {
    outcome: tokio::task::JoinHandle<Result<Outcome, archiver::source::postgres::Error>>,
    events: Arc<Mutex<Vec<StreamEvent>>>,
    stop: CancellationToken,
    acknowledge: watch::Sender<Acknowledged>,
}

async fn consume(cluster: &Cluster, durable: bool, room: usize, drive: Drive) -> Result<Consumer> {
    let stream = stream_from_here(cluster, Some(&slot("pitr"))).await?;
    let (acknowledge, acknowledged) = watch::channel(Acknowledged::unconfirmed(stream.position()));
    let events = Arc::new(Mutex::new(Vec::new()));
    let (seen, confirm, stop) =
        (Arc::clone(&events), acknowledge.clone(), CancellationToken::new());
    let mut left = room;
    let mut sink = move |event: StreamEvent| {
        if let StreamEvent::Data { start, bytes, .. } = &event {
            let Some(rest) = left.checked_sub(bytes.len()) else { return Push::Full };
            left = rest;
            if durable {
                confirm.send_replace(Acknowledged::unconfirmed(
                    start.plus(proto::position::ByteCount(bytes.len() as u64)),
                ));
            }
        }
        seen.lock().expect("not poisoned").push(event);
        Push::Taken
    };
    let stopped = stop.clone();
    let outcome =
        tokio::spawn(async move { run(stream, &mut sink, acknowledged, stopped, drive).await });
    Ok(Consumer { outcome, events, stop, acknowledge })
}

impl Consumer {
    async fn end(self) -> Result<Outcome> {
        let outcome = tokio::time::timeout(LIMIT, self.outcome).await.context("no end")?;
        Ok(outcome??)
    }

    fn saw_shutdown(&self) -> bool {
        let events = self.events.lock().expect("not poisoned");
        events.iter().any(|event| matches!(event, StreamEvent::ShutdownSuspected { .. }))
    }
}

async fn cluster_with_slot(major: u32) -> Result<Cluster> {
    let cluster = Cluster::start_new(major)?;
    session(&cluster).await?.create_slot(&slot("pitr")).await?;
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_is_not_held_up_by_a_client_that_has_everything() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = cluster_with_slot(major).await?;
        let consumer = consume(&cluster, true, usize::MAX, Drive::default()).await?;
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10000)")?;
        tokio::task::block_in_place(|| cluster.stop_within(Stop::Fast, &Deadline::seconds(20)))?;
        assert!(matches!(consumer.end().await?, Outcome::ServerStopped));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_waits_no_longer_than_the_grace_for_what_cannot_be_made_durable() -> Result<()>
{
    for major in scope::postgres_versions() {
        let cluster = cluster_with_slot(major).await?;
        let drive = Drive { shutdown_grace: Duration::from_secs(1), ..Drive::default() };
        let consumer = consume(&cluster, false, usize::MAX, drive).await?;
        let durable = consumer.acknowledge.borrow().position();
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10000)")?;
        tokio::task::block_in_place(|| cluster.stop_within(Stop::Fast, &Deadline::seconds(20)))?;
        assert!(consumer.saw_shutdown(), "the consumer is told to flush its tail");
        assert!(matches!(consumer.end().await?, Outcome::Yielded));
        cluster.start()?;
        let restart = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'pitr'";
        let restart: proto::postgres::lsn::Lsn = cluster.value("postgres", restart)?.parse()?;
        assert_eq!(Some(restart), durable, "nothing was acknowledged that was not durable");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_consumer_leaves_instead_of_not_reading() -> Result<()> {
    let cluster = cluster_with_slot(scope::newest_postgres()).await?;
    let consumer = consume(&cluster, false, 1 << 20, Drive::default()).await?;
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 200000)")?;
    assert!(matches!(consumer.end().await?, Outcome::Held));
    tokio::task::block_in_place(|| cluster.stop_within(Stop::Fast, &Deadline::seconds(20)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stops_takes_leave_of_the_server() -> Result<()> {
    let cluster = cluster_with_slot(scope::newest_postgres()).await?;
    let consumer = consume(&cluster, true, usize::MAX, Drive::default()).await?;
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")?;
    consumer.stop.cancel();
    assert!(matches!(consumer.end().await?, Outcome::Stopped));
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'pitr'";
    tests::wait::until(&Deadline::seconds(60), "the walsender to leave", || {
        Ok((cluster.value("postgres", active)? == "f").then_some(()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_driver_learns_the_servers_clock() -> Result<()> {
    let cluster = cluster_with_slot(scope::newest_postgres()).await?;
    let drive = Drive { ping_idle: Some(Duration::from_millis(50)), ..Drive::default() };
    let consumer = consume(&cluster, true, usize::MAX, drive).await?;
    let keepalives = || {
        let events = consumer.events.lock().expect("not poisoned");
        events.iter().filter(|event| matches!(event, StreamEvent::Keepalive { .. })).count()
    };
    tests::wait::until(&Deadline::seconds(60), "keepalives", || {
        Ok((keepalives() > 5).then_some(()))
    })?;
    consumer.stop.cancel();
    assert!(!consumer.saw_shutdown());
    consumer.end().await.map(drop)
}

/// Never has room, and never says that it will not.
struct Stuck;

impl Sink for Stuck {
    fn push(&mut self, _: StreamEvent) -> Push {
        Push::Taken
    }

    async fn room(&mut self) -> bool {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_for_room_keeps_its_connection_and_can_be_stopped() -> Result<()> {
    let cluster =
        Cluster::builder(scope::newest_postgres()).conf("wal_sender_timeout", "1s").start()?;
    session(&cluster).await?.create_slot(&slot("pitr")).await?;
    let stream = stream_from_here(&cluster, Some(&slot("pitr"))).await?;
    let (_acknowledge, acknowledged) = watch::channel(Acknowledged::NOTHING);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let running = tokio::spawn(async move {
        run(stream, &mut Stuck, acknowledged, stopped, Drive::default()).await
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let active = cluster.value("postgres", "SELECT active FROM pg_replication_slots")?;
    assert_eq!(active, "t", "the server has not given us up");
    stop.cancel();
    let outcome = tokio::time::timeout(LIMIT, running).await.context("no end")???;
    assert!(matches!(outcome, Outcome::Stopped));
    Ok(())
}
