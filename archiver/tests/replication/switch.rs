use anyhow::Result;
use archiver::source::postgres::StreamEvent;
use proto::postgres::history::History;
use proto::postgres::lsn::Timeline;
use tests::postgres::Cluster;
use tests::scope;

use crate::common::{collect, next, slot, stream_at};

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_ends_the_stream_and_names_where_the_next_timeline_begins() -> Result<()> {
    for major in scope::postgres_versions() {
        let primary = Cluster::start_new(major)?;
        let standby = primary.standby()?;
        primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")?;
        standby.await_replay_of(&primary)?;
        let mut side = crate::common::session(&standby).await?;
        assert!(side.server().in_hot_standby);
        side.create_slot(&slot("pitr")).await?;
        let start = side.server().segment_size.floor(side.identify().await?.flushed);
        let mut stream = stream_at(&standby, Some(&slot("pitr")), Timeline(1), start).await?;
        collect(&mut stream, side.identify().await?.flushed, &mut Vec::new()).await?;
        tokio::task::block_in_place(|| standby.promote())?;
        let (timeline, at) = loop {
            if let StreamEvent::Ended { next } = next(&mut stream).await? {
                break next.expect("a next timeline");
            }
        };
        assert_eq!(timeline, Timeline(2));
        assert!(at <= stream.position() && at >= start);
        let end = stream.position();
        let mut session = stream.into_session().expect("the session comes back");
        let (name, raw) = session.timeline_history(timeline).await?;
        assert_eq!(name, "00000002.history");
        let history = History::parse(timeline, raw)?;
        assert_eq!(
            history.entries.last().map(|entry| (entry.parent, entry.at)),
            Some((Timeline(1), at))
        );

        // At the end of the old timeline there is no copy at all.
        let mut ended = stream_at(&standby, None, Timeline(1), at).await?;
        assert_eq!(next(&mut ended).await?, StreamEvent::Ended { next: Some((timeline, at)) });
        assert!(end >= at);

        standby.sql("CREATE TABLE u AS SELECT 1")?;
        let from = session.server().segment_size.floor(at);
        let mut stream = stream_at(&standby, Some(&slot("pitr")), timeline, from).await?;
        collect(&mut stream, standby.flush_position()?, &mut Vec::new()).await?;
    }
    Ok(())
}
