//! Events of a change stream on their way into segments.
//!
//! Enters: events in the order of the stream, and the tokens of how far it has come. Leaves: the
//! same through the packer, with a document of our own where a stretch begins and where the stream
//! is known to be whole: an idle database sends nothing, and the token of its last event would one
//! day be older than its oplog. After a crash the stream goes on behind the last document that is
//! held, whichever kind it is of.

use bson::{RawDocument, RawDocumentBuf};
use proto::mongodb::event::{self, Event, Inexact};
use proto::mongodb::{EntryError, OpTime, OplogTs};

use super::packer::{Last, OpenSegment, PackError, Packer};
use crate::source::mongodb::changes::Begin;

/// What is known of a stream beside the place in the log.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Of the last document: its token as it sorts, and the whole of it; nothing for the first
    /// document of a stretch.
    token: String,
    id: RawDocumentBuf,
    /// Whether the last document is one of ours.
    noted: bool,
    /// The stream has been looked through up to here, and is there handed on.
    heard: Option<RawDocumentBuf>,
    /// Every event up to this time was handed on.
    through: OplogTs,
}

impl Packer {
    /// A packer of events; `last` is the last document that is held.
    pub(super) fn of_events(
        mut self,
        last: Option<(Last, &RawDocument)>,
    ) -> Result<Self, EntryError> {
        let mut events = Events::default();
        if let Some((last, raw)) = last {
            let event = Event::read(raw)?;
            // Of nothing but its beginning a stream is opened at its time.
            if let Some(id) = event.resume_token() {
                events.follow(event.token, id);
            }
            events.noted = event.is_note();
            events.through = whole(&event);
            self.set_last(last);
        }
        self.events = Some(events);
        Ok(self)
    }

    /// Where the stream goes on; `None` before the first document.
    pub(super) fn stream_begin(&self) -> Option<Begin> {
        let (last, events) = (self.last()?, self.events.as_ref()?);
        Some(if events.token.is_empty() {
            Begin::At(last.at.ts)
        } else {
            Begin::After(events.id.clone())
        })
    }

    /// A stretch begins.
    pub(super) fn begin_stretch(&mut self, at: OplogTs) {
        self.append(at.at(-1), None, true, &event::begin(at));
        if let Some(events) = &mut self.events {
            // Behind a gap the tokens of before say nothing.
            *events = Events { noted: true, through: at, ..Events::default() };
        }
        self.release();
    }

    /// Takes the next event. What of it cannot be replayed exactly is told.
    pub(super) fn take_event(&mut self, raw: &RawDocument) -> Result<Option<Inexact>, PackError> {
        let event = Event::read(raw)?;
        let last = self.last();
        let Some(events) = &mut self.events else { return Ok(None) };
        let found = event.at.at(-1);
        if let Some(last) = last
            && (event.at < last.at.ts || event.token <= events.token.as_str())
        {
            return Err(PackError::OutOfOrder { last: last.at, found });
        }
        events.follow(event.token, event.id.unwrap_or(raw));
        events.noted = false;
        events.heard = None;
        events.through = events.through.max(whole(&event));
        self.append(found, event.wall, false, raw);
        Ok(event.inexact())
    }

    /// How far the stream has come with this batch.
    pub(super) fn heard(&mut self, id: Option<&RawDocument>, drained: bool) {
        let Some(events) = &mut self.events else { return };
        let read = |id| {
            let token = event::token_of(id)?;
            Some((id, token, event::time_of(token)?))
        };
        let Some((id, token, at)) = id.and_then(read) else { return };
        // The token of the last event itself says nothing of others of its time.
        if token >= events.token.as_str() && (drained || token != events.token) {
            events.through = events.through.max(at);
            events.heard = Some(id.to_owned());
        }
    }

    /// Whether a document that the stream is whole up to here would say something.
    pub(super) fn can_note(&self) -> Option<bool> {
        let events = self.events.as_ref()?;
        let heard = events.heard.as_ref()?;
        let token = event::token_of(heard)?;
        (token > events.token.as_str() || !events.noted).then_some(events.noted)
    }

    /// Says in the log how far the stream is whole.
    pub(super) fn note_through(&mut self) {
        let Some(events) = &mut self.events else { return };
        let Some(id) = events.heard.take() else { return };
        let token = event::token_of(&id).unwrap_or_default();
        let at = event::time_of(token).unwrap_or_default().max(events.through);
        let note = event::through(&id, at);
        events.follow(token, &id);
        events.noted = true;
        self.append(at.at(-1), None, true, &note);
        self.release();
    }

    /// Every event up to this place was handed on.
    pub(super) fn through(&self) -> Option<OpTime> {
        let events = self.events.as_ref()?;
        (events.through > OplogTs::default()).then(|| events.through.at(-1))
    }
}

impl Events {
    fn follow(&mut self, token: &str, id: &RawDocument) {
        token.clone_into(&mut self.token);
        id.clone_into(&mut self.id);
    }
}

/// Up to where the stream is whole with this event.
fn whole(event: &Event<'_>) -> OplogTs {
    if event.is_note() { event.at } else { OplogTs(event.at.0.saturating_sub(1)) }
}

/// A segment goes on as long as the events of one time do: its name is its first one's time.
pub(super) fn may_cut(last: Option<Last>, open: Option<OpenSegment>, ts: OplogTs) -> bool {
    open.is_none() || last.is_none_or(|last| last.at.ts < ts)
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;
    use proto::position::Offset;

    use super::super::packer::SEGMENT_BYTES;
    use super::*;
    use crate::ring::Item;

    fn insert(at: OplogTs, behind: u32, bytes: usize) -> RawDocumentBuf {
        let token = format!("82{:016X}2B{behind:08X}", at.0);
        rawdoc! {
            "_id": { "_data": token }, "operationType": "insert",
            "fullDocument": { "_id": 1, "text": "x".repeat(bytes) },
        }
    }

    fn begins(packer: &mut Packer) -> Vec<u64> {
        packer.release();
        let number =
            |item: Item| if let Item::Begin { number } = item { Some(number) } else { None };
        packer.items().filter_map(number).collect()
    }

    fn packer(at: OplogTs) -> Packer {
        let mut packer = Packer::new(Offset(0), None, None).of_events(None).expect("nothing held");
        packer.begin_stretch(at);
        packer
    }

    #[test]
    fn a_segment_is_never_cut_within_the_events_of_one_time() {
        let (one, two, three) = (OplogTs::new(7, 1), OplogTs::new(7, 2), OplogTs::new(7, 3));
        let mut packer = packer(one);
        let half = usize::try_from(SEGMENT_BYTES / 2).expect("small");
        for n in 0..4 {
            packer.take_event(&insert(two, n, half)).expect("in order");
        }
        packer.take_event(&insert(three, 0, 10)).expect("in order");
        assert_eq!(begins(&mut packer), [one.0, three.0]);
        let again = packer.take_event(&insert(three, 0, 10));
        assert!(matches!(again, Err(PackError::OutOfOrder { .. })), "the same event again");
    }

    #[test]
    fn a_stream_is_whole_up_to_where_the_server_has_looked() {
        let (one, two) = (OplogTs::new(7, 1), OplogTs::new(7, 2));
        let mut packer = packer(one);
        let through = |packer: &Packer| packer.through().map(|at| at.ts);
        packer.take_event(&insert(two, 1, 10)).expect("in order");
        assert_eq!(through(&packer), Some(one));
        let id = |token: String| rawdoc! { "_data": token, "_typeBits": 1 };
        let token = id(format!("82{:016X}2B00000001", two.0));
        // With the event itself others of its time may come yet.
        packer.heard(Some(&token), false);
        assert_eq!((through(&packer), packer.can_note()), (Some(one), None));
        packer.heard(Some(&token), true);
        assert_eq!((through(&packer), packer.can_note()), (Some(two), Some(false)));
        packer.note_through();
        assert_eq!(packer.stream_begin(), Some(Begin::After(token.clone())));
        packer.heard(Some(&token), true);
        assert_eq!(packer.can_note(), None, "nothing new since the note");
        let later = id(format!("82{:016X}2B022C0100296E04", OplogTs::new(17, 1).0));
        packer.heard(Some(&later), true);
        assert_eq!(packer.can_note(), Some(true));
    }

    #[test]
    fn a_stretch_of_which_only_the_beginning_is_held_begins_at_its_time() {
        let at = OplogTs::new(7, 1);
        let held = event::begin(at);
        let last = Last { at: at.at(-1), begin: Offset(0) };
        let next = Offset(held.as_bytes().len() as u64);
        let packer = Packer::new(next, Some(last), None).of_events(Some((last, &held)));
        let packer = packer.expect("an event");
        assert_eq!(packer.stream_begin(), Some(Begin::At(at)));
    }
}
