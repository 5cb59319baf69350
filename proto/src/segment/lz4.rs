//! One lz4 frame (LZ4 Frame Format Description 1.6.x): a header with the raw size, blocks of at most
//! a megabyte that stand alone, each with a checksum, and an end mark.
//!
//! The blocks come from lz4_flex, straight out of the caller's bytes; its own frame encoder would
//! copy them first. Frames of other kinds than ours are read with its decoder.

use std::io::Read;
use std::sync::Mutex;

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use lz4_flex::frame::FrameDecoder;
use twox_hash::XxHash32;

use super::SegmentError;
use super::codec::{FRAME_RAW_MAX, keep};

pub(super) const MAGIC: u32 = 0x184D_2204;
/// Version 01, independent blocks, checksums of blocks, the content's size; no checksum of the
/// content: those of the compressed blocks cover a third of the bytes, and a flipped bit is found
/// before it is decoded.
const FLG: u8 = 0b0111_1000;
/// Magic number, FLG, BD, the content's size, HC.
const HEADER_LEN: usize = 4 + 1 + 1 + 8 + 1;
/// Blocks of at most 1 MiB.
const BD: u8 = 6 << 4;
const BLOCK_MAX: usize = 1 << 20;
/// The block's bytes are stored as they are.
const UNCOMPRESSED: u32 = 1 << 31;
const END_MARK: [u8; 4] = [0; 4];

/// What a block is compressed with.
struct Tools {
    table: CompressTable,
    /// Always of the largest size that a block can come to.
    block: Vec<u8>,
}

impl Tools {
    fn new() -> Self {
        Self { table: CompressTable::large(), block: vec![0; get_maximum_output_size(BLOCK_MAX)] }
    }
}

static TOOLS: Mutex<Vec<Tools>> = Mutex::new(Vec::new());

/// The frame, in `out`.
pub(super) fn compress(raw: &[u8], mut out: Vec<u8>) -> Result<Vec<u8>, SegmentError> {
    let kept = TOOLS.lock().expect("no holder panics").pop();
    let mut tools = kept.unwrap_or_else(Tools::new);
    out.extend(MAGIC.to_le_bytes());
    let descriptor = out.len();
    out.extend([FLG, BD]);
    out.extend((raw.len() as u64).to_le_bytes());
    out.push(header_check(&out[descriptor..]));
    for piece in raw.chunks(BLOCK_MAX) {
        let len = compress_into_with_table(piece, &mut tools.block, &mut tools.table)
            .map_err(|error| SegmentError::Compress(std::io::Error::other(error)))?;
        let (data, kind) =
            if len < piece.len() { (&tools.block[..len], 0) } else { (piece, UNCOMPRESSED) };
        let size = u32::try_from(data.len()).expect("at most BLOCK_MAX");
        out.extend((size | kind).to_le_bytes());
        out.extend_from_slice(data);
        out.extend(XxHash32::oneshot(0, data).to_le_bytes());
    }
    out.extend(END_MARK);
    keep(&TOOLS, tools);
    Ok(out)
}

/// Puts the raw bytes of a frame, of at most [`FRAME_RAW_MAX`], behind what `raw` holds.
pub(super) fn decompress_onto(frame: &[u8], raw: &mut Vec<u8>) -> Result<(), String> {
    if frame.get(4..6) == Some(&[FLG, BD]) {
        return ours(frame, raw).ok_or_else(|| "a torn or damaged lz4 frame".to_owned());
    }
    let before = raw.len();
    let mut decoder = FrameDecoder::new(frame).take(FRAME_RAW_MAX as u64 + 1);
    decoder.read_to_end(raw).map_err(|error| error.to_string())?;
    if raw.len() - before > FRAME_RAW_MAX {
        return Err("a frame too large to be ours".into());
    }
    Ok(())
}

/// The same for a frame of [`compress`]: straight to its place. A general decoder takes buffers of
/// megabytes for each frame, whose page faults cost more than the decoding. `None`: it is not whole.
fn ours(frame: &[u8], raw: &mut Vec<u8>) -> Option<()> {
    let (header, mut rest) = frame.split_first_chunk::<HEADER_LEN>()?;
    let (descriptor, check) = (&header[4..HEADER_LEN - 1], header[HEADER_LEN - 1]);
    let size = usize::try_from(u64::from_le_bytes(*descriptor.last_chunk()?)).ok()?;
    if check != header_check(descriptor) || size > FRAME_RAW_MAX {
        return None;
    }
    let mut at = raw.len();
    let end = at + size;
    raw.resize(end, 0);
    loop {
        let (word, behind) = rest.split_first_chunk::<4>()?;
        if *word == END_MARK {
            return (at == end && behind.is_empty()).then_some(());
        }
        let word = u32::from_le_bytes(*word);
        let len = usize::try_from(word & !UNCOMPRESSED).ok()?;
        let (data, behind) = behind.split_at_checked(len)?;
        let (sum, behind) = behind.split_first_chunk::<4>()?;
        if XxHash32::oneshot(0, data) != u32::from_le_bytes(*sum) {
            return None;
        }
        let room = &mut raw[at..end.min(at + BLOCK_MAX)];
        at += if word & UNCOMPRESSED == 0 {
            decompress_into(data, room).ok()?
        } else {
            room.get_mut(..len)?.copy_from_slice(data);
            len
        };
        rest = behind;
    }
}

/// The content's size, which stands behind FLG and BD where a bit of FLG says so.
pub(super) fn claimed(frame: &[u8]) -> Option<u64> {
    let sized = frame.get(4)? & 0b1000 != 0;
    sized.then(|| frame.get(6..)?.first_chunk().map(|size| u64::from_le_bytes(*size)))?
}

/// How long the frame is that begins here: header, blocks, end mark, content checksum. `None`: it is torn.
pub(super) fn frame_len(bytes: &[u8]) -> Result<Option<usize>, SegmentError> {
    let bad = |detail: &str| SegmentError::Frame { offset: 0, detail: detail.to_owned() };
    let Some(&flags) = bytes.get(4) else { return Ok(None) };
    if flags >> 6 != 1 {
        return Err(bad("an unknown version of the lz4 frame format"));
    }
    let (size, dictionary) = (flags & 0b1000 != 0, flags & 1 != 0);
    let (block_sum, content_sum) = (flags & 0b1_0000 != 0, flags & 0b100 != 0);
    let mut at = 4 + 2 + if size { 8 } else { 0 } + if dictionary { 4 } else { 0 } + 1;
    loop {
        let Some(word) = bytes.get(at..at + 4) else { return Ok(None) };
        let word = u32::from_le_bytes(word.try_into().expect("four bytes"));
        at += 4;
        if word == 0 {
            return Ok(Some(at + if content_sum { 4 } else { 0 }));
        }
        let len = (word & !UNCOMPRESSED) as usize;
        if len > FRAME_RAW_MAX {
            return Err(bad("an lz4 block too large to be ours"));
        }
        at += len + if block_sum { 4 } else { 0 };
    }
}

/// HC: the second byte of the descriptor's hash.
fn header_check(descriptor: &[u8]) -> u8 {
    XxHash32::oneshot(0, descriptor).to_le_bytes()[1]
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{FrameEncoder, FrameInfo};

    use super::*;

    fn decompress(frame: &[u8]) -> Result<Vec<u8>, String> {
        let mut raw = Vec::new();
        decompress_onto(frame, &mut raw).map(|()| raw)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 7_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn frames_of_every_length_and_of_noise_are_what_any_decoder_reads() {
        let even: Vec<u8> = (0..600_000_u32).flat_map(|n| (n / 9).to_le_bytes()).collect();
        for raw in [even, noise(2 * BLOCK_MAX + 77)] {
            for len in [0, 1, 12, 13, 65_534, 65_536, BLOCK_MAX, BLOCK_MAX + 1, raw.len()] {
                let frame = compress(&raw[..len], Vec::new()).expect("compresses");
                assert_eq!(decompress(&frame).as_deref(), Ok(&raw[..len]), "{len}");
                let mut theirs = Vec::new();
                FrameDecoder::new(&frame[..]).read_to_end(&mut theirs).expect("any decoder's");
                assert!(theirs == raw[..len], "{len}");
                assert!(frame.len() <= len + 12 * (len / BLOCK_MAX + 1) + 19, "{len}");
            }
        }
    }

    #[test]
    fn the_header_is_the_one_that_lz4_flex_would_write() {
        let raw: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 5).to_le_bytes()).collect();
        let info = FrameInfo::new()
            .block_size(lz4_flex::frame::BlockSize::Max1MB)
            .block_checksums(true)
            .content_size(Some(raw.len() as u64));
        let mut theirs = FrameEncoder::with_frame_info(info, Vec::new());
        theirs.write_all(&raw).expect("compresses");
        let theirs = theirs.finish().expect("compresses");
        let ours = compress(&raw, Vec::new()).expect("compresses");
        assert_eq!(ours[..15], theirs[..15], "the same header");
        assert_eq!(decompress(&theirs), decompress(&ours));
    }

    #[test]
    fn a_frame_that_is_torn_or_goes_on_too_long_is_refused() {
        let frame = compress(&noise(5000), Vec::new()).expect("compresses");
        for len in 6..frame.len() {
            assert!(decompress(&frame[..len]).is_err(), "{len} of {} bytes", frame.len());
        }
        assert!(decompress(&[&frame[..], &[0]].concat()).is_err());
    }

    #[test]
    fn frames_that_others_write_without_a_size_are_read() {
        let raw = noise(3000);
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(&raw).expect("compresses");
        assert_eq!(decompress(&encoder.finish().expect("compresses")).as_ref(), Ok(&raw));
    }
}
