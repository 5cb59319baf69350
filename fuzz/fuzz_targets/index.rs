//! Indexes of segments and roll-ups, as they come and with a checksum that fits.
#![no_main]

use fuzz::seeds;
use proto::archive::index::{RollUp, SegmentIndex};

fn seeds() -> Vec<seeds::Seed> {
    ["index.v1", "roll-up.v1"].iter().map(|name| seeds::seed(name, seeds::golden(name))).collect()
}

fn check(bytes: &[u8]) {
    if let Ok(index) = SegmentIndex::decode(bytes) {
        assert_eq!(SegmentIndex::decode(&index.encode()).as_ref(), Ok(&index), "it reads back");
        let summary = index.summary();
        let all = index.ranges(|_| true);
        assert_eq!(all.len(), index.blocks.len());
        assert!(
            all.windows(2).all(|two| two[0].0 + two[0].1 == two[1].0),
            "blocks follow each other"
        );
        let _ = index.ranges(|ends| ends.spans(7));
        for bucket in index.counts.buckets.keys() {
            let _ = index.counts.start_of(*bucket);
        }
        let roll_up = RollUp { engine: index.engine, segments: vec![summary] };
        assert_eq!(RollUp::decode(&roll_up.encode()), Ok(roll_up));
    }
    if let Ok(roll_up) = RollUp::decode(bytes) {
        assert_eq!(RollUp::decode(&roll_up.encode()), Ok(roll_up), "it reads back");
    }
}

fn input(data: &[u8]) {
    check(data);
    if let Some(body) = data.len().checked_sub(4) {
        let mut bytes = data[..body].to_vec();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        check(&bytes);
    }
}

fuzz::target!("index", most: 8 << 20, seeds: seeds, input: input);
