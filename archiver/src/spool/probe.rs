//! What the lag is measured by: a look at each frame as it is cut, before it is compressed.

use proto::position::Position;
use proto::timestamp::Timestamp;

/// Sees the log on its way; must not wait.
pub trait FrameProbe: Send + Sync + std::fmt::Debug {
    /// The source handed on bytes that the database sent at `clock`.
    fn received(&self, clock: Option<Timestamp>);
    /// A frame was cut that begins at `start`.
    fn cut(&self, start: Position, raw: &[u8]);
}

/// Looks at nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoProbe;

impl FrameProbe for NoProbe {
    fn received(&self, _clock: Option<Timestamp>) {}
    fn cut(&self, _start: Position, _raw: &[u8]) {}
}
