//! Everything that a replica set had at one moment: how far the archive must reach to hold it.

use std::fmt;

use async_trait::async_trait;
use proto::archive::ArchiveError;
use proto::mongodb::OplogTs;
use proto::position::Position;
use proto::segment::read_sealed;
use proto::store::{Range, Store};
use tokio::sync::watch;

use super::capture::{EPOCH, Reached};
use crate::pipeline::Opened;
use crate::ship::resume::End;
use crate::source::Goal;
use crate::spool::{OplogSegments, Segmenter};
use crate::watch::state::State;

/// The newest entry that a majority had.
#[derive(Debug, Clone)]
pub struct Newest {
    pub ts: OplogTs,
    /// How far the capture of this process has come.
    pub reached: watch::Receiver<Option<Reached>>,
}

impl Newest {
    /// The end of it in the archive; `None` while the capture has not come so far.
    pub fn position(&self) -> Option<Position> {
        let reached = *self.reached.borrow();
        let reached = reached.filter(|reached| reached.at.ts >= self.ts);
        reached.map(|reached| Position::new(EPOCH, reached.end))
    }
}

impl fmt::Display for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ts.fmt(f)
    }
}

#[async_trait]
impl Goal for Newest {
    fn reached(&self, _state: &State) -> Option<Position> {
        self.position()
    }

    /// By its newest entry, or by the proof of completeness that stands for idle times.
    async fn is_stored(
        &self,
        store: &dyn Store,
        opened: &Opened,
        end: &End,
    ) -> Result<bool, ArchiveError> {
        let moment = self.ts.time();
        if end.chain.watermark().is_some_and(|mark| mark.proven() > moment) {
            return Ok(true);
        }
        if let Some(last) = OplogSegments.last_entry(&end.store.raw) {
            return Ok(last >= self.ts);
        }
        let Some(name) = &end.before else { return Ok(false) };
        let key = opened.lineage.sealed(name);
        let object = store.get(&key, Range::All).await?;
        let (_, raw) =
            read_sealed(&object).map_err(|source| ArchiveError::Segment { key, source })?;
        Ok(OplogSegments.last_entry(&raw).is_some_and(|last| last >= self.ts))
    }
}
