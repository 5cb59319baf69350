//! Compression of one piece of log into one independent frame, and back.
//!
//! Enters: raw bytes, at most [`FRAME_RAW_MAX`]. Leaves: a complete zstd frame (RFC 8878) or lz4
//! frame that carries its raw size and a checksum, so that a torn or flipped frame is found by
//! decoding it, and that `zstd -d` reads a run of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{SegmentError, lz4};

/// Raw bytes in a full frame: larger ones compress hardly better and seek worse.
pub const FRAME_RAW: usize = 1 << 20;
/// No frame of ours holds more raw bytes; a larger claim is refused before anything is allocated.
pub const FRAME_RAW_MAX: usize = 32 << 20;

pub(super) const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// Block_Maximum_Size of RFC 8878 §3.1.1.2.4.
const ZSTD_BLOCK_MAX: usize = 128 << 10;

/// How the frames of a segment are compressed. Never part of a segment's identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Zstd { level: i32 },
    Lz4,
    None,
}

impl Default for Codec {
    fn default() -> Self {
        Self::Zstd { level: 3 }
    }
}

// Compressors are megabytes and slow to make: as many as work at once are kept, whichever thread
// they work on.
static ZSTD: Mutex<Vec<(i32, zstd::bulk::Compressor<'static>)>> = Mutex::new(Vec::new());
const KEPT_MAX: usize = 8;

/// Keeps a compressor for whoever compresses next.
pub(super) fn keep<T>(pool: &Mutex<Vec<T>>, compressor: T) {
    let mut kept = pool.lock().expect("no holder panics");
    if kept.len() < KEPT_MAX {
        kept.push(compressor);
    }
}

impl Codec {
    /// One complete frame. Blocks for about a millisecond a full frame.
    ///
    /// # Panics
    /// When `raw` is longer than [`FRAME_RAW_MAX`]: frames are cut by us.
    pub fn compress(self, raw: &[u8]) -> Result<Vec<u8>, SegmentError> {
        self.compress_in(raw, Vec::new())
    }

    /// [`Codec::compress`] in memory that serves again: what `buffer` holds is lost. Fresh memory
    /// would cost a page fault every 4 KiB, a tenth of what capture does.
    pub fn compress_in(self, raw: &[u8], mut buffer: Vec<u8>) -> Result<Vec<u8>, SegmentError> {
        assert!(raw.len() <= FRAME_RAW_MAX, "a frame of {} raw bytes", raw.len());
        buffer.clear();
        match self {
            Self::Zstd { level } => compress_zstd(level, raw, buffer),
            Self::Lz4 => lz4::compress(raw, buffer),
            Self::None => Ok(store_zstd(raw, buffer)),
        }
    }
}

fn compress_zstd(level: i32, raw: &[u8], mut out: Vec<u8>) -> Result<Vec<u8>, SegmentError> {
    let kept = ZSTD.lock().expect("no holder panics").pop();
    let mut compressor = match kept {
        Some((made_for, compressor)) if made_for == level => compressor,
        _ => {
            let mut made = zstd::bulk::Compressor::new(level).map_err(SegmentError::Compress)?;
            made.include_checksum(true).map_err(SegmentError::Compress)?;
            made.include_contentsize(true).map_err(SegmentError::Compress)?;
            made
        }
    };
    out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    compressor.compress_to_buffer(raw, &mut out).map_err(SegmentError::Compress)?;
    keep(&ZSTD, (level, compressor));
    Ok(out)
}

/// A zstd frame of raw blocks, so that "none" is still read by `zstd -d`.
fn store_zstd(raw: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    out.reserve(raw.len() + raw.len() / ZSTD_BLOCK_MAX * 3 + 16);
    out.extend(ZSTD_MAGIC.to_le_bytes());
    // Frame_Header_Descriptor: 4-byte Frame_Content_Size, Single_Segment_flag, no checksum
    // (the frame table of the segment carries a CRC of these bytes).
    out.push(0b1010_0000);
    let len = u32::try_from(raw.len()).expect("bounded by FRAME_RAW_MAX");
    out.extend(len.to_le_bytes());
    let blocks = raw.len().div_ceil(ZSTD_BLOCK_MAX).max(1);
    for at in 0..blocks {
        let from = at * ZSTD_BLOCK_MAX;
        let block = &raw[from..raw.len().min(from + ZSTD_BLOCK_MAX)];
        let last = u32::from(at + 1 == blocks);
        let header = last | (u32::try_from(block.len()).expect("at most 128 KiB") << 3);
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(block);
    }
    out
}

/// The raw bytes of exactly one compressed frame.
///
/// # Errors
/// [`SegmentError::Frame`] when it is no frame, is torn, fails its checksum, or claims more than
/// [`FRAME_RAW_MAX`].
pub fn decompress(frame: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let mut raw = Vec::new();
    decompress_onto(frame, &mut raw)?;
    Ok(raw)
}

/// [`decompress`], behind what `raw` holds already; behind an error that is all it holds.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_onto(frame: &[u8], raw: &mut Vec<u8>) -> Result<(), SegmentError> {
    let before = raw.len();
    let done = match magic_of(frame) {
        Some(ZSTD_MAGIC) => zstd_onto(frame, raw),
        Some(lz4::MAGIC) => lz4::decompress_onto(frame, raw),
        _ => Err("neither a zstd nor an lz4 frame".to_owned()),
    };
    done.map_err(|detail| {
        raw.truncate(before);
        SegmentError::Frame { offset: 0, detail }
    })
}

fn zstd_onto(frame: &[u8], raw: &mut Vec<u8>) -> Result<(), String> {
    let size = zstd::zstd_safe::get_frame_content_size(frame)
        .map_err(|_| "broken zstd header".to_owned())?
        .ok_or_else(|| "a zstd frame without its raw size".to_owned())?;
    let size = usize::try_from(size).ok().filter(|size| *size <= FRAME_RAW_MAX);
    let size = size.ok_or_else(|| "a frame too large to be ours".to_owned())?;
    let before = raw.len();
    raw.resize(before + size, 0);
    let read = zstd::bulk::decompress_to_buffer(frame, &mut raw[before..]);
    if read.map_err(|error| error.to_string())? == size {
        Ok(())
    } else {
        Err("a short frame".to_owned())
    }
}

/// How many raw bytes a frame says that it has, where it says so.
pub(super) fn claimed(frame: &[u8]) -> Option<u64> {
    match magic_of(frame) {
        Some(ZSTD_MAGIC) => zstd::zstd_safe::get_frame_content_size(frame).ok().flatten(),
        Some(lz4::MAGIC) => lz4::claimed(frame),
        _ => None,
    }
}

pub(super) fn magic_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic))
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::Lz4 => f.write_str("lz4"),
            Self::None => f.write_str("none"),
        }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Codec {
    type Err = SegmentError;

    fn from_str(text: &str) -> Result<Self, SegmentError> {
        let bad = || SegmentError::Codec(text.to_owned());
        match text.split_once(':') {
            None if text == "zstd" => Ok(Self::default()),
            None if text == "lz4" => Ok(Self::Lz4),
            None if text == "none" => Ok(Self::None),
            Some(("zstd", level)) => {
                let level: i32 = level.parse().map_err(|_| bad())?;
                if (-7..=19).contains(&level) { Ok(Self::Zstd { level }) } else { Err(bad()) }
            }
            _ => Err(bad()),
        }
    }
}

impl Serialize for Codec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Codec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let raw: Vec<u8> = (0..700_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for codec in [Codec::Zstd { level: 1 }, Codec::Lz4, Codec::None] {
            let lens = [0, 1, 4095, ZSTD_BLOCK_MAX, ZSTD_BLOCK_MAX + 1, FRAME_RAW, raw.len()];
            // Twice: an encoder serves again.
            for len in lens.into_iter().chain(lens) {
                let frame = codec.compress(&raw[..len]).expect("compresses");
                assert_eq!(decompress(&frame).expect("decompresses"), &raw[..len], "{codec} {len}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found_by_decoding() {
        let raw = vec![7_u8; 5000];
        for codec in [Codec::Zstd { level: 3 }, Codec::Lz4] {
            let frame = codec.compress(&raw).expect("compresses");
            for at in 0..frame.len() {
                let mut bad = frame.clone();
                bad[at] ^= 0x10;
                if let Ok(out) = decompress(&bad) {
                    assert_eq!(out, raw, "{codec}: byte {at} changed the content unnoticed");
                }
            }
        }
    }

    #[test]
    fn a_codec_reads_back_as_it_was_shown() {
        for text in ["zstd:3", "zstd:-5", "lz4", "none"] {
            assert_eq!(text.parse::<Codec>().expect("a codec").to_string(), text);
        }
        for text in ["", "zstd:", "zstd:99", "gzip", "lz4:1"] {
            assert!(text.parse::<Codec>().is_err(), "{text}");
        }
    }
}
