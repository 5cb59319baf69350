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
use super::same_bytes::{self, Same};
use super::{CaptureError, REWIND_MAX};
use crate::source::postgres::Session;
use crate::source::postgres::end::find_end;

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

/// How a server stands to an archive that it is not refused by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// Its log continues the archive's, byte for byte; or the archive holds no log yet.
    Proved,
    /// Nothing contradicts, and the server no longer has the bytes that would prove it.
    Unknown,
    /// It is on an older timeline: perhaps about to be replaced.
    Behind,
}

/// Refuses a server whose timeline is not the archive's, nor one that may follow it, and one whose
/// log is another one. An older timeline is not refused here: whoever streams from it waits.
///
/// # Errors
/// [`CaptureError`], also when store or server do not answer.
pub async fn check_lineage(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
    accept: Option<Timeline>,
    mut session: Session,
) -> Result<Belongs, CaptureError> {
    let Some(archive) = ends::timelines(store, lineage).await?.last().copied() else {
        session.close().await;
        return Ok(Belongs::Proved);
    };
    let end = find_end(store, lineage, identity).await?;
    // Asked afterwards: whatever is archived was flushed before by the server that it came from.
    let server = session.identify().await?;
    if server.timeline < archive {
        session.close().await;
        return Ok(Belongs::Behind);
    }
    let reached = end.durable.map_or(identity.first, |Position { offset, .. }| offset.into());
    let mut shared = server.flushed;
    if server.timeline > Timeline(1) {
        let history = fetch_history(&mut session, server.timeline).await?.history;
        let archived = ends::history(store, lineage, archive).await?;
        let other = CaptureError::OtherHistory { timeline: archive };
        if server.timeline == archive {
            if archived.is_some_and(|archived| archived.raw != history.raw) {
                return Err(other);
            }
        } else {
            Branching { archive, reached, accept }.allows(&history)?;
            if accept == Some(server.timeline) {
                session.close().await;
                return Ok(Belongs::Proved);
            }
            if archived.is_some_and(|archived| !history.continues(&archived)) {
                return Err(other);
            }
            shared = history.left_at(archive).unwrap_or(shared).min(shared);
        }
    }
    // Behind the histories: another timeline of the same number may be shorter too.
    let is_primary = !session.server().in_hot_standby;
    if server.timeline == archive && server.flushed < reached && is_primary {
        let (endpoint, ends) = (session.server().endpoint.to_string(), server.flushed);
        return Err(CaptureError::ShortLog { endpoint, ends, timeline: archive, reached });
    }
    match same_bytes::check(session, &end, identity.segment_bytes, shared).await? {
        Same::Proved => Ok(Belongs::Proved),
        Same::Unknown => Ok(Belongs::Unknown),
    }
}
