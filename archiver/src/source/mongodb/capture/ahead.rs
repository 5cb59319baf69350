//! One answer ahead: while one is being taken in, the server prepares the next.
//!
//! Enters: a cursor. Leaves: its answers, in order, and the error that ended it. Nothing is kept: an
//! answer that nobody took is asked for again by the next cursor.

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Cursor;
use crate::source::mongodb::tail::Batch;
use crate::source::mongodb::{Error, Member};

/// A cursor that is read by a task of its own, until this is dropped.
pub(super) struct Ahead {
    member: Member,
    answers: mpsc::Receiver<Result<Batch, Error>>,
    _reader: AbortOnDropHandle<()>,
}

impl Ahead {
    pub(super) fn of(mut cursor: Cursor) -> Self {
        let member = cursor.member().clone();
        let (sender, answers) = mpsc::channel(1);
        let reader = tokio::spawn(async move {
            // Room first: an answer may be 16 MB, and one that waits is enough.
            while let Ok(room) = sender.reserve().await {
                let answer = cursor.next().await;
                let ended = answer.is_err();
                room.send(answer);
                if ended {
                    break;
                }
            }
        });
        Self { member, answers, _reader: AbortOnDropHandle::new(reader) }
    }

    pub(super) const fn member(&self) -> &Member {
        &self.member
    }

    /// The next answer. Cancel-safe.
    ///
    /// # Errors
    /// When the cursor has ended or the member is away.
    pub(super) async fn next(&mut self) -> Result<Batch, Error> {
        let ended = || Err(Error::CursorEnded { member: self.member.name().to_owned() });
        self.answers.recv().await.unwrap_or_else(ended)
    }
}
