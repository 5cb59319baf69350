//! Many segments' summaries in one object, so that a week of log opens in a few reads.
//!
//! In: the indexes of segments that follow each other. Out: `index/<epoch>/roll-up/<first>.v1`.
//! Derived like the indexes themselves: without it, a search opens those one by one.

use super::codec::{self, field};
use super::{IndexError, Summary};
use crate::position::{Epoch, Offset};
use crate::segment::Engine;

const MAGIC: &[u8; 8] = b"PITRROL1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollUp {
    pub engine: Engine,
    /// In the order of the log.
    pub segments: Vec<Summary>,
}

impl RollUp {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = codec::begin(MAGIC, self.engine);
        codec::put_count(&mut out, self.segments.len());
        for segment in &self.segments {
            out.extend(segment.epoch.0.to_le_bytes());
            out.extend(segment.number.to_le_bytes());
            out.extend(segment.start.0.to_le_bytes());
            out.extend(segment.raw_len.to_le_bytes());
            codec::put_head(&mut out, segment.head, segment.last);
            codec::put_ends(&mut out, &segment.ends);
            out.extend(segment.anomalies.to_le_bytes());
            codec::put_marks(&mut out, &segment.marks);
        }
        codec::end(out)
    }

    /// # Errors
    /// When the bytes are no roll-up of a known version, or are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let (engine, mut fields) = codec::open(MAGIC, bytes)?;
        let f = &mut fields;
        let mut segments = Vec::new();
        for _ in 0..field(f.u32(), "count of segments")? {
            let epoch = Epoch(field(f.u32(), "epoch")?);
            let number = field(f.u64(), "number")?;
            let start = Offset(field(f.u64(), "start")?);
            let raw_len = field(f.u64(), "length")?;
            let (head, last) = codec::take_head(f)?;
            let ends = codec::take_ends(f)?;
            let anomalies = field(f.u64(), "anomalies")?;
            let marks = codec::take_marks(f)?;
            segments.push(Summary {
                epoch,
                number,
                start,
                raw_len,
                head,
                last,
                ends,
                anomalies,
                marks,
            });
        }
        Ok(Self { engine, segments })
    }
}
