//! The golden files in `testdata/segments/v1`: what was written once is read for ever, and
//! docs/FORMAT.md describes it byte by byte.

mod files;

use std::path::{Path, PathBuf};
use std::process::Command;

use proto::archive::index::{RollUp, SegmentIndex};
use proto::archive::{base::Complete, identity::Identity, ledger::Entry, to_json};
use proto::segment::{
    Codec, FOOTER_READ, Footer, Hash, TAIL_HEADER_LEN, TailHeader, read_sealed, read_tail,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/segments/v1")
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn no_golden_file_was_edited_added_or_lost() {
    let sums = String::from_utf8(golden("B3SUMS")).expect("text");
    let mut listed: Vec<String> = Vec::new();
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").expect("a line of b3sum");
        assert_eq!(Hash::of(&golden(name)).to_string(), sum, "{name}");
        listed.push(name.to_owned());
    }
    let entries = std::fs::read_dir(folder()).expect("the folder of golden files");
    let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|n| n != "B3SUMS" && n != "README.md").collect();
    found.sort();
    listed.sort();
    assert_eq!(found, listed);
    let mut made: Vec<String> = files::all().into_iter().map(|(name, _)| name).collect();
    made.sort();
    assert_eq!(found, made);
}

#[test]
fn sealed_segments_of_every_codec_read_back() {
    let whole = files::raw(files::SEGMENT_RAW);
    let cases = [
        ("sealed-zstd.zst", Codec::Zstd { level: 3 }, files::SEGMENT_RAW, false),
        ("sealed-lz4.zst", Codec::Lz4, files::SEGMENT_RAW, false),
        ("partial-none.zst", Codec::None, files::PARTIAL_RAW, true),
    ];
    for (name, codec, len, partial) in cases {
        let object = golden(name);
        let (footer, raw) = read_sealed(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(raw, &whole[..len], "{name}");
        assert_eq!((footer.head, footer.partial), (files::head(), partial), "{name}");
        assert!(object.ends_with(&footer.encode()), "{name}: its footer is written the same today");
        let from = object.len().saturating_sub(FOOTER_READ as usize);
        assert_eq!(Footer::decode_suffix(&object[from..]).expect("a footer"), footer, "{name}");
        // Compressors may give other bytes in another version; the identity stays.
        let (today, _) = files::sealed(codec, &whole[..len], partial);
        assert_eq!((today.hash, today.raw_len), (footer.hash, footer.raw_len), "{name}");
    }
    let (_, none) = files::sealed(Codec::None, &whole[..files::PARTIAL_RAW], true);
    assert_eq!(golden("partial-none.zst"), none, "what is not compressed is the same for ever");
}

#[test]
fn tails_of_every_kind_read_back_and_form_a_chain() {
    let whole = files::raw(files::SEGMENT_RAW);
    for (name, expected) in files::tail_headers() {
        let object = golden(name);
        let (header, raw) = read_tail(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(header, expected, "{name}");
        let range = header.raw_start as usize..header.raw_end() as usize;
        assert_eq!(raw, &whole[range], "{name}");
        assert_eq!(Hash::of(&whole[..header.raw_end() as usize]), header.after, "{name}");
        assert_eq!(header.encode(), &object[..TAIL_HEADER_LEN as usize], "{name}");
        assert_eq!(TailHeader::decode(&object).expect("a header"), header, "{name}");
    }
}

#[test]
fn the_index_and_the_roll_up_read_back_and_are_written_the_same() {
    let (index, roll_up) = (files::index(), files::roll_up());
    assert_eq!(SegmentIndex::decode(&golden("index.v1")).as_ref(), Ok(&index));
    assert_eq!(RollUp::decode(&golden("roll-up.v1")).as_ref(), Ok(&roll_up));
    assert_eq!(golden("index.v1"), index.encode());
    assert_eq!(golden("roll-up.v1"), roll_up.encode());
}

#[test]
fn the_json_objects_read_back_and_are_written_the_same() {
    let identity: Identity = serde_json::from_slice(&golden("identity.json")).expect("ours");
    assert_eq!(identity, files::identity());
    assert_eq!(golden("identity.json"), identity.encode());
    let complete: Complete = serde_json::from_slice(&golden("complete.json")).expect("ours");
    assert_eq!(complete, files::complete());
    assert_eq!(golden("complete.json"), complete.encode());
    for expected in files::ledger() {
        let name = format!("ledger-{}.json", expected.seq);
        let entry: Entry = serde_json::from_slice(&golden(&name)).expect("ours");
        assert_eq!(entry, expected);
        assert_eq!(golden(&name), to_json(&entry), "{name}");
    }
}

#[test]
fn the_zstd_tool_reads_every_segment_and_a_chain_of_tails() {
    let whole = files::raw(files::SEGMENT_RAW);
    let unpacked = |names: &[&str]| {
        let objects: Vec<u8> = names.iter().flat_map(|name| golden(name)).collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), objects).expect("written");
        let out = Command::new("zstd").args(["-dcq"]).arg(file.path()).output().expect("zstd");
        assert!(out.status.success(), "{names:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    assert_eq!(unpacked(&["sealed-zstd.zst"]), whole);
    assert_eq!(unpacked(&["sealed-lz4.zst"]), whole);
    assert_eq!(unpacked(&["partial-none.zst"]), &whole[..files::PARTIAL_RAW]);
    let chain = ["tail-fence.zst", "tail-data-zstd.zst", "tail-data-lz4.zst", "tail-watermark.zst"];
    assert_eq!(unpacked(&chain), &whole[..files::TAIL_CUTS[2]]);
    assert_eq!(unpacked(&["tail-merged.zst"]), &whole[..files::TAIL_CUTS[2]]);
}

/// One row of a table of fields in docs/FORMAT.md.
struct Row {
    offset: u64,
    size: u64,
}

/// The tables headed `| offset | size | field |…`, by the heading that they stand under.
fn tables(text: &str) -> Vec<(String, Vec<Row>)> {
    let mut found: Vec<(String, Vec<Row>)> = Vec::new();
    let (mut heading, mut inside) = (String::new(), false);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim().to_owned();
        }
        if line.starts_with("| offset | size |") {
            found.push((heading.clone(), Vec::new()));
            inside = true;
            continue;
        }
        inside &= line.starts_with('|');
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let number = |at: usize| cells.get(at).and_then(|cell| cell.parse::<u64>().ok());
        if let (true, Some((_, rows)), Some(offset), Some(size)) =
            (inside, found.last_mut(), number(1), number(2))
        {
            rows.push(Row { offset, size });
        }
    }
    found
}

#[test]
fn the_tables_of_the_format_document_leave_no_byte_out() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FORMAT.md");
    let text = std::fs::read_to_string(document).expect("docs/FORMAT.md");
    let tables = tables(&text);
    for (heading, rows) in &tables {
        let mut next = 0;
        for row in rows {
            assert_eq!(row.offset, next, "{heading}: the field at {} follows", row.offset);
            next += row.size;
        }
    }
    let length = |heading: &str| {
        let (_, rows) = tables
            .iter()
            .find(|(found, _)| found == heading)
            .unwrap_or_else(|| panic!("no table under {heading:?}"));
        rows.iter().map(|row| row.size).sum::<u64>()
    };
    assert_eq!(length("The tail header"), TAIL_HEADER_LEN);
    let footer = |name: &str| {
        let object = golden(name);
        let footer = Footer::decode_suffix(&object).expect("a footer");
        (footer.encode().len() as u64, footer.frames.len() as u64)
    };
    let (bytes, frames) = footer("sealed-zstd.zst");
    let (entry, trailer) = (length("The frame table"), length("The trailer"));
    assert_eq!(length("The footer") + frames * entry + trailer, bytes);
}
