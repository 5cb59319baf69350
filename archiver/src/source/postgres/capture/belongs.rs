//! Does this server's log continue the archive's? Asked before anything is written or made: a
//! restored copy must neither fence the writer of the archive that it came from, nor be left with a
//! slot that nobody reads (DESIGN §5.7, §5.12).
//!
//! Enters: an archive and a server. Leaves: yes, or why not. Nothing is kept.

use proto::archive::ends;
use proto::archive::identity::PostgresIdentity;
use proto::archive::layout::Lineage;
use proto::position::Position;
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::store::Store;

use super::follow::fetch_history;
use super::{CaptureError, REWIND_MAX};
use crate::source::postgres::Session;

/// Where an archive's log ends, as far as timelines go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Branching {
    pub(super) archive: Timeline,
    /// The end of what is durable on it.
    pub(super) reached: Lsn,
    /// `--accept-timeline N`.
    pub(super) accept: Option<Timeline>,
}

impl Branching {
    /// A newer timeline must branch off ours, by a promotion, near what we have.
    pub(super) fn allows(&self, history: &History) -> Result<(), CaptureError> {
        let server = history.timeline;
        if self.accept == Some(server) {
            return Ok(());
        }
        let at = history.left_at(self.archive);
        let (archive, durable) = (self.archive, self.reached);
        let foreign = || CaptureError::TimelineForeign { archive, server, at, durable };
        let at = at.ok_or_else(foreign)?;
        let later = history.entries.iter().skip_while(|branch| branch.parent != archive);
        for branch in later {
            if !branch.is_promotion() {
                let reason = branch.reason.clone();
                return Err(CaptureError::RestoredCopy { timeline: server, reason });
            }
        }
        if durable.since(at) > REWIND_MAX { Err(foreign()) } else { Ok(()) }
    }
}

/// Refuses a server whose timeline is not the archive's, nor one that may follow it. An older one
/// is not refused here: it may be about to be replaced, and whoever streams from it waits.
///
/// # Errors
/// [`CaptureError`], also when store or server do not answer.
pub async fn check_lineage(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
    accept: Option<Timeline>,
    session: &mut Session,
) -> Result<(), CaptureError> {
    let server = session.identify().await?.timeline;
    let Some(archive) = ends::timelines(store, lineage).await?.last().copied() else {
        return Ok(());
    };
    if server < archive || server == Timeline(1) {
        return Ok(());
    }
    let history = fetch_history(session, server).await?.history;
    let archived = ends::history(store, lineage, archive).await?;
    if server == archive {
        let same = archived.is_none_or(|archived| archived.raw == history.raw);
        return if same { Ok(()) } else { Err(CaptureError::OtherHistory { timeline: archive }) };
    }
    let end = crate::source::postgres::end::find_end(store, lineage, identity).await?;
    let reached = end.durable.map_or(identity.first, |Position { offset, .. }| offset.into());
    Branching { archive, reached, accept }.allows(&history)?;
    if accept != Some(server) && archived.is_some_and(|archived| !history.continues(&archived)) {
        return Err(CaptureError::OtherHistory { timeline: archive });
    }
    Ok(())
}
