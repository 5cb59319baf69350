//! Whether we are still the newest writer, by the ledger.
//!
//! A fence stands in the chain of one segment. A writer that has gone on in the next one meanwhile,
//! or that brings up nothing but sealed segments, never meets it, and whoever took over waits for a
//! slot that it does not get: so as long as anything is brought up, the ledger is asked now and then.
//! Whoever is about to tell that log is lost asks too: a sidecar that was stopped for long, or whose
//! server was a standby meanwhile, finds its log removed because another one has it.
//! Enters: our epoch. Leaves: [`ShipError::Fenced`], once somebody took a newer one. Only reads.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use proto::archive::layout::Lineage;
use proto::archive::ledger::{self, Event};
use proto::clock::Clock;
use proto::store::retry::Backoff;
use proto::store::{Class, Range, Store};
use tokio::time::Instant;

use super::ShipError;
use super::tails::ShipTools;

/// One listing in this time: a takeover is to be done within ten seconds (DESIGN §5.6).
const ASK_EVERY: Duration = Duration::from_secs(5);

/// What is known of the ledger.
pub(super) struct Newest {
    /// No writer stands between us and this entry.
    looked: u64,
    asked: Option<Instant>,
    asking: Option<BoxFuture<'static, Result<u64, ShipError>>>,
}

impl Newest {
    /// From our own entry on.
    pub(super) const fn since(writer: u64) -> Self {
        Self { looked: writer, asked: None, asking: None }
    }

    /// Asks, if it is time to.
    pub(super) fn ask(&mut self, tools: &ShipTools) {
        let now = Instant::now();
        if self.asking.is_none() && self.asked.is_none_or(|asked| now >= asked + ASK_EVERY) {
            self.asked = Some(now);
            self.asking = Some(Box::pin(look(tools.clone(), self.looked)));
        }
    }

    /// Waits for the answer; for ever while nothing is asked. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Result<(), ShipError> {
        let Some(asking) = &mut self.asking else { return std::future::pending().await };
        let answer = asking.await;
        self.asking = None;
        self.looked = answer?;
        Ok(())
    }
}

/// The last entry that is there, none of those behind `looked` being a writer's.
async fn look(tools: ShipTools, looked: u64) -> Result<u64, ShipError> {
    match entries(&*tools.store, tools.lineage, tools.writer, looked).await {
        // Whatever fails here says nothing of who writes: it is asked again.
        Err(ShipError::Store(_)) => Ok(looked),
        answer => answer,
    }
}

async fn entries(
    store: &dyn Store,
    lineage: Lineage,
    own: u64,
    mut looked: u64,
) -> Result<u64, ShipError> {
    for (seq, key) in ledger::behind(store, lineage, looked).await? {
        let bytes = store.get(&key, Range::All).await?;
        let entry: Option<ledger::Entry> = serde_json::from_slice(&bytes).ok();
        if matches!(entry.map(|entry| entry.event), Some(Event::Writer { .. })) {
            return Err(ShipError::Fenced { key, own, by: seq });
        }
        looked = seq;
    }
    Ok(looked)
}

/// By which right something is told that only the writer may tell.
#[derive(Debug, Clone)]
pub struct Right {
    pub store: Arc<dyn Store>,
    pub lineage: Lineage,
    pub writer: u64,
}

impl Right {
    /// The writer that has taken over, if one has. A store that does not answer soon says nothing.
    pub async fn taken_by(&self) -> Option<u64> {
        let asked = entries(&*self.store, self.lineage, self.writer, self.writer);
        match tokio::time::timeout(ASK_EVERY, asked).await {
            Ok(Err(ShipError::Fenced { by, .. })) => Some(by),
            _ => None,
        }
    }

    /// Adds to the ledger, waiting for a store that is away; not once another has taken over.
    pub async fn record(&self, clock: &dyn Clock, event: Event) {
        let mut backoff = Backoff::new();
        loop {
            let looked = entries(&*self.store, self.lineage, self.writer, self.writer).await;
            if let Err(ShipError::Fenced { by, .. }) = looked {
                tracing::warn!(
                    by,
                    ?event,
                    "not recorded in the ledger: another writer has taken over"
                );
                return;
            }
            let added = ledger::append(&*self.store, self.lineage, clock.wall(), event.clone());
            let Err(error) = added.await else { return };
            if !matches!(error.class(), Class::Retry | Class::Config) {
                tracing::error!(%error, ?event, "not recorded in the ledger");
                return;
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}
