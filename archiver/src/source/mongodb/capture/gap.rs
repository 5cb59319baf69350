//! When no cursor begins with the newest entry that is held: whether log is lost, and how much.
//!
//! A member that lacks the entry is no gap while another one that could be asked may have it. Only
//! when every member that answers has lost it, and none is away for the moment, a gap is told, and
//! the log goes on with the oldest entry that is left anywhere: what can still be had is kept.

use proto::mongodb::OpTime;
use proto::position::Position;
use tokio::sync::oneshot;

use super::packer::Last;
use super::{Capture, CaptureError, Cursor, EPOCH, Gap, Loss};
use crate::ring::{Closed, Item};
use crate::source::mongodb::changes::{Begin, Stream};
use crate::source::mongodb::tail::{Batch, From, Tail};
use crate::source::mongodb::{Class, Error, Member, ReplicaSet, start};

/// How often members that are away are waited for before the others decide: about half a minute,
/// with the pauses in between.
const AWAY_MAX: u32 = 8;

/// A member, and the first entry behind the newest one that is held.
type Left<'a> = (&'a Member, OpTime);

impl Capture {
    /// `tried`: why each of them could not be followed.
    pub(super) async fn none_has_it(
        &mut self,
        set: &ReplicaSet,
        mut tried: Vec<Error>,
    ) -> Result<Option<(Cursor, Batch)>, CaptureError> {
        let decided = tried.iter().all(|error| error.class() == Class::LogRemoved);
        let away = set.refused().iter().any(Error::is_retryable);
        if let Some(other) = tried.iter().position(|error| error.class() == Class::WrongSet) {
            return Err(tried.swap_remove(other).into());
        }
        // A stream whose beginning is lost before anything of it came.
        let begins = Last { at: self.first.at(-1), begin: self.packer.next() };
        let last = self.packer.last().or(self.is_of_events().then_some(begins));
        let (Some(last), true) = (last, decided && !tried.is_empty()) else {
            return Err(Error::EveryMember { tried }.into());
        };
        if away && self.asked < AWAY_MAX {
            self.asked += 1;
            tracing::warn!(
                entry = %last.at,
                "no member that answers has the newest archived entry any more: waiting for those that are away"
            );
            let member = "a member that is away".to_owned();
            return Err(Error::NotReady { member }.into());
        }
        self.asked = 0;
        if self.is_of_events() {
            return self.anew(set, last, &tried).await.map(Some);
        }
        let Some((member, first)) = self.oldest_left(set, last).await? else {
            return Err(Error::EveryMember { tried }.into());
        };
        // From here on it must not roll over again: what the cursor begins with is what is told.
        let (tail, batch) = Tail::open(member.clone(), From::AtLeast(first.ts)).await?;
        let first = batch.first(member)?.unwrap_or(first);
        self.skip(last, first, &tried).await?;
        Ok(Some((Cursor::Oplog(tail), batch)))
    }

    /// A change stream cannot be asked for the oldest event that is left: it goes on from now.
    async fn anew(
        &mut self,
        set: &ReplicaSet,
        last: Last,
        tried: &[Error],
    ) -> Result<(Cursor, Batch), CaptureError> {
        let newest = set.members().iter().max_by_key(|(_, hello)| hello.majority);
        let (member, _) = newest.ok_or_else(|| {
            let member = "any member".to_owned();
            Error::NotReady { member }
        })?;
        let first = member.hello().await?.majority;
        let begin = Begin::At(first.ts);
        let (stream, batch) = Stream::open(member.clone(), &begin, &mut self.splits).await?;
        self.skip(last, first, tried).await?;
        Ok((Cursor::Events(stream), batch))
    }

    /// Who has most of what follows the newest entry.
    async fn oldest_left<'a>(
        &self,
        set: &'a ReplicaSet,
        last: Last,
    ) -> Result<Option<Left<'a>>, CaptureError> {
        let mut left: Option<Left<'a>> = None;
        for (member, _) in set.members() {
            let Some(first) = start::at_or_after(member, last.at.ts).await? else { continue };
            if left.is_none_or(|(_, oldest)| first.ts < oldest.ts) {
                left = Some((member, first));
            }
        }
        Ok(left)
    }

    /// Tells of the gap, and waits until the spool stands behind it.
    async fn skip(
        &mut self,
        last: Last,
        first: OpTime,
        tried: &[Error],
    ) -> Result<(), CaptureError> {
        // What another one has brought up is no loss.
        if let Some(right) = &self.setup.right
            && let Some(by) = right.taken_by().await
        {
            return Err(CaptureError::Superseded { own: right.writer, by });
        }
        let (from, to) = self.packer.skip();
        self.hand_on()?;
        let asked: Vec<String> = tried.iter().map(|error| proto::cli::causes(error)).collect();
        let reason = format!(
            "the {} between {} and {first} is on no member any more ({})",
            self.setup.options.mode,
            last.at,
            asked.join("; ")
        );
        tracing::error!(from = %last.at, to = %first, %reason, "GAP: a stretch of log is lost");
        metrics::counter!("pitr_gaps_total").increment(1);
        let (done, skipped) = oneshot::channel();
        self.ring.push(Item::Skip { from: to, done })?;
        if skipped.await.is_err() {
            return Err(Closed.into());
        }
        let (from, to) = (Position::new(EPOCH, from), Position::new(EPOCH, to));
        self.first = first.ts;
        // A gap shows in the segments themselves: its record may come later.
        let loss = Loss::Gap(Gap { last: last.at, first, from, to, reason });
        tokio::spawn((self.setup.on_loss)(loss));
        Ok(())
    }
}
