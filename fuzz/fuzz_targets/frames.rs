//! A run of compressed frames: where each ends, and what is in it.
#![no_main]

use fuzz::seeds;
use proto::segment::{Codec, FRAME_RAW_MAX, FrameKind, decompress, first_frame, read_frames};

const CODECS: [Codec; 3] = [Codec::Zstd { level: 1 }, Codec::Lz4, Codec::None];

/// Raw bytes that are read at most.
const MOST: u64 = 1 << 20;

fn seeds() -> Vec<seeds::Seed> {
    let raw: Vec<u8> = (0..900_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    let frames = CODECS.map(|codec| codec.compress(&raw[..300]).expect("compresses"));
    let mut found: Vec<_> = frames
        .iter()
        .enumerate()
        .map(|(at, frame)| seeds::seed(&at.to_string(), frame.clone()))
        .collect();
    found.push(seeds::seed("run", frames.concat()));
    found.push(seeds::seed("packed", CODECS[0].compress(&raw).expect("compresses")));
    found.push(seeds::seed("lz4", CODECS[1].compress(&raw).expect("compresses")));
    let mut skippable = proto::segment::SKIPPABLE_MAGIC.to_le_bytes().to_vec();
    skippable.extend([4, 0, 0, 0, 1, 2, 3, 4]);
    skippable.extend(&frames[1]);
    found.push(seeds::seed("skippable", skippable));
    // What other tools write: no size in the header, blocks that lean on each other.
    found.push(seeds::seed("other-lz4", hex("04224d186040820500008061626364650000000000")));
    found
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).expect("digits"))
        .collect()
}

fn input(data: &[u8]) {
    let mut expected = Vec::new();
    let mut whole = true;
    let mut rest = data;
    while !rest.is_empty() {
        let Ok(Some(span)) = first_frame(rest) else {
            whole = false;
            break;
        };
        assert!(span.len > 0 && span.len <= rest.len(), "a frame lies in what was given");
        let (frame, behind) = rest.split_at(span.len);
        if span.kind != FrameKind::Skippable {
            let Ok(raw) = decompress(frame) else {
                whole = false;
                break;
            };
            assert!(raw.len() <= FRAME_RAW_MAX);
            expected.extend(raw);
            if expected.len() as u64 > MOST {
                whole = false;
                break;
            }
        }
        rest = behind;
    }
    let read = read_frames(data, MOST);
    assert_eq!(read.ok(), whole.then_some(expected), "a run is what its frames are");
    // Any bytes come back.
    for codec in CODECS {
        let frame = codec.compress(data).expect("compresses");
        assert_eq!(first_frame(&frame).expect("a frame").expect("whole").len, frame.len());
        assert_eq!(decompress(&frame).expect("decompresses"), data);
    }
}

// One frame more than what may be read, and what the reader of lz4 takes for its blocks.
fuzz::target!("frames", most: FRAME_RAW_MAX + (24 << 20), seeds: seeds, input: input);
