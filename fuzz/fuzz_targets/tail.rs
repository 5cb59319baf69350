//! Tails: one as it comes, and with a checksum that fits; and a chain of those that continue each other.
#![no_main]

use fuzz::seeds;
use proto::archive::chain::{Chain, Link};
use proto::segment::{FRAME_RAW_MAX, TAIL_HEADER_LEN, TailHeader, read_tail};
use proto::store::Key;

/// A larger one is no mistake, and takes what it takes.
const RAW_MOST: u64 = 4 << 20;

fn seeds() -> Vec<seeds::Seed> {
    let names = ["data-lz4", "data-zstd", "fence", "merged", "watermark"];
    let mut found =
        names.map(|name| seeds::seed(name, seeds::golden(&format!("tail-{name}.zst")))).to_vec();
    let fence = TailHeader::decode(&seeds::golden("tail-fence.zst")).expect("a golden file");
    let last = TailHeader { last: u64::MAX, ..fence };
    found.push(seeds::seed("found-last", last.encode()));
    found
}

fn check(object: &[u8]) {
    let Ok(header) = TailHeader::decode(object) else {
        assert!(read_tail(object).is_err());
        return;
    };
    let encoded = header.encode();
    assert_eq!(TailHeader::decode(&encoded).ok(), Some(header), "it reads back");
    assert!(header.first <= header.last && header.raw_start <= header.raw_end());
    assert!(header.end().0 >= header.head.start.0);
    let _ = header.watermark.map(|mark| mark.proven());
    let link = Link::new(Key::new("tail"), object.len() as u64, header);
    let chain = Chain { links: vec![link] };
    assert!(chain.next_seq() > header.first, "something can follow");
    let _ = (chain.mergeable(), chain.watermark(), chain.raw_len(), chain.writer(), chain.hash());
    if header.raw_len <= RAW_MOST
        && let Ok((read, raw)) = read_tail(object)
    {
        assert_eq!((read, raw.len() as u64), (header, header.raw_len));
    }
}

fn input(data: &[u8]) {
    check(data);
    let header = usize::try_from(TAIL_HEADER_LEN).expect("small");
    if data.len() >= header {
        let mut object = data.to_vec();
        object[4..8].copy_from_slice(&(TAIL_HEADER_LEN as u32 - 8).to_le_bytes());
        let crc = crc32fast::hash(&object[8..header - 4]);
        object[header - 4..header].copy_from_slice(&crc.to_le_bytes());
        check(&object);
    }
}

fuzz::target!("tail", most: FRAME_RAW_MAX + (24 << 20), seeds: seeds, input: input);
