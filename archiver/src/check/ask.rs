//! Asking a server and a store what `check` wants to know.

use std::sync::Arc;

use proto::archive::ArchiveError;
use proto::archive::ends;
use proto::archive::identity::Identity;
use proto::archive::layout::Lineage;
use proto::postgres::lsn::SegmentSize;
use proto::store::Store;
use proto::store::probe::{Features, probe};

use crate::source::postgres::conn::{Connection, Purpose};
use crate::source::postgres::{
    ConnectOptions, Error, Identity as System, Session, Settings, SlotName, SlotState, SqlSession,
    SyncState,
};

/// Where canary objects are put.
const CANARIES: &str = "probe/";

/// How many there are, and how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub used: u64,
    pub max: u64,
}

#[derive(Debug, Clone)]
pub struct ServerFacts {
    pub endpoint: String,
    pub tls: bool,
    pub version: u32,
    pub in_recovery: bool,
    pub system: System,
    pub segment_size: SegmentSize,
    pub settings: Settings,
    pub slots: Count,
    /// Without the connection that asks.
    pub senders: Count,
    pub may_monitor: bool,
    pub slot_name: String,
    pub slot: Option<SlotState>,
    /// How the server counts the slot's present user.
    pub sync: Option<SyncState>,
    pub application_name: String,
}

#[derive(Debug, Clone)]
pub struct ArchiveFacts {
    pub address: String,
    pub features: Features,
    /// The newest lineage, if there is any.
    pub lineage: Option<(Lineage, Option<Identity>)>,
}

/// # Errors
/// When the server cannot be asked.
pub async fn server(options: &ConnectOptions, slot: &SlotName) -> Result<ServerFacts, Error> {
    let mut session = Session::connect(options).await?;
    let system = session.identify().await?;
    let server = session.server().clone();
    let mut options = options.clone();
    options.endpoints = vec![server.endpoint.clone()];
    let mut sql = SqlSession::connect(&options).await?;
    let tls = sql.connection().is_tls();
    let position = sql.position().await?;
    let settings = sql.settings().await?;
    let state = sql.slot(slot).await?;
    let sync = match state.as_ref().and_then(|state| state.active_pid) {
        Some(pid) => sql.sync_state(pid).await?,
        None => None,
    };
    sql.close().await;
    let counts = counts(&options).await?;
    session.close().await;
    Ok(ServerFacts {
        endpoint: server.endpoint.to_string(),
        tls,
        version: server.version,
        in_recovery: position.in_recovery,
        system,
        segment_size: server.segment_size,
        settings,
        slots: Count { used: counts[0], max: counts[1] },
        senders: Count { used: counts[2].saturating_sub(1), max: counts[3] },
        may_monitor: counts[4] == 1,
        slot_name: slot.as_str().to_owned(),
        slot: state,
        sync,
        application_name: options.application_name.clone(),
    })
}

async fn counts(options: &ConnectOptions) -> Result<[u64; 5], Error> {
    const DOING: &str = "counting slots and walsenders";
    let text = "SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots), \
                pg_catalog.current_setting('max_replication_slots'), \
                (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walsender'), \
                pg_catalog.current_setting('max_wal_senders'), \
                pg_catalog.pg_has_role('pg_monitor', 'USAGE')::int";
    let mut connection = Connection::connect(options, Purpose::Sql).await?;
    let sets = connection.query(DOING, text).await?;
    connection.close().await;
    let row = sets.into_iter().next().and_then(|set| set.rows.into_iter().next());
    let mut counts = [0; 5];
    for (count, field) in counts.iter_mut().zip(row.unwrap_or_default()) {
        let text = field.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
        *count = text
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::unexpected("a number", text.unwrap_or("nothing")))?;
    }
    Ok(counts)
}

/// # Errors
/// When the store cannot be used.
pub async fn archive(store: &Arc<dyn Store>) -> Result<ArchiveFacts, ArchiveError> {
    let features = probe(store, CANARIES).await?;
    let lineage = match ends::lineages(&**store).await?.pop() {
        Some(lineage) => Some((lineage, ends::identity(&**store, lineage).await?)),
        None => None,
    };
    Ok(ArchiveFacts { address: store.address(), features, lineage })
}
