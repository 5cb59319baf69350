use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

/// A tar stream as `tar` writes it, without its end.
fn stream_of(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(1_700_000_000);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, path, &content[..]).expect("into memory");
    }
    let mut bytes = builder.into_inner().expect("into memory");
    bytes.truncate(bytes.len() - 2 * BLOCK);
    bytes
}

fn pieces_of(stream: &[u8], chunk: usize, full: usize) -> (Vec<Piece>, u64, Seen) {
    let mut splitter = Splitter::cutting_at(full);
    let mut out = Vec::new();
    for bytes in stream.chunks(chunk) {
        splitter.push(bytes, &mut out).expect("a tar stream");
    }
    let (raw_bytes, seen) = splitter.finish(&mut out).expect("a whole stream");
    (out, raw_bytes, seen)
}

/// Unpacks pieces one by one, in any order, knowing nothing of the others.
fn unpack(pieces: &[Piece]) -> Files {
    let mut files = Files::new();
    for piece in pieces.iter().rev() {
        let mut raw = &piece.raw[..];
        if let Some(within) = &piece.within {
            let take = raw.len().min((within.size - within.offset) as usize);
            write_at(&mut files, &within.path, within.size, within.offset, &raw[..take]);
            let padded = (within.size - within.offset).next_multiple_of(BLOCK as u64) as usize;
            raw = &raw[raw.len().min(padded)..];
        }
        // A piece's last file may end in the next one: the reader sees an early end.
        let mut archive = tar::Archive::new(raw);
        for entry in archive.entries().expect("begins with a header") {
            let Ok(mut entry) = entry else { break };
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let size = entry.size();
            let mut content = Vec::new();
            let _ends_early = entry.read_to_end(&mut content);
            write_at(&mut files, &path, size, 0, &content);
        }
    }
    files
}

fn write_at(files: &mut Files, path: &str, size: u64, offset: u64, content: &[u8]) {
    let file = files.entry(path.to_owned()).or_insert_with(|| vec![0xEE; size as usize]);
    file[offset as usize..offset as usize + content.len()].copy_from_slice(content);
}

fn file() -> impl Strategy<Value = (String, Vec<u8>)> {
    let path = prop_oneof![
        4 => "[a-z]{1,12}/[0-9]{1,8}",
        1 => "[a-z]{60,120}/[0-9]{40,90}",
    ];
    let size = prop_oneof![Just(0_usize), 1..2000_usize, 4000..40_000_usize, Just(8192)];
    (path, size, any::<u8>())
        .prop_map(|(path, size, seed)| (path, (0..size).map(|at| (at / 3) as u8 ^ seed).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_the_stream_and_each_is_unpacked_alone(
        files in proptest::collection::btree_map(file().prop_map(|f| f.0), file().prop_map(|f| f.1), 0..12),
        chunk in 1..70_000_usize,
        blocks in 1..40_usize,
        terminated in any::<bool>(),
    ) {
        let mut stream = stream_of(&files);
        let whole = [&stream[..], &[0; 2 * BLOCK]].concat();
        if terminated {
            stream.clone_from(&whole);
        }
        let (pieces, raw_bytes, _) = pieces_of(&stream, chunk, blocks * BLOCK);
        let together: Vec<u8> = pieces.iter().flat_map(|piece| piece.raw.to_vec()).collect();
        prop_assert_eq!(raw_bytes, whole.len() as u64);
        prop_assert!(together == whole, "the pieces are not the stream");
        let mut next = 0;
        for piece in &pieces {
            prop_assert_eq!(piece.start, next);
            next += piece.raw.len() as u64;
        }
        prop_assert!(unpack(&pieces) == files, "the files differ");
    }

    #[test]
    fn a_stream_that_ends_early_is_refused(at in 1..9_000_usize) {
        let files = Files::from([("base/1/2".to_owned(), vec![7; 8192]), ("x".to_owned(), vec![1])]);
        let stream = stream_of(&files);
        let cut = &stream[..at];
        let mut splitter = Splitter::default();
        let result = splitter.push(cut, &mut Vec::new()).and_then(|()| splitter.finish(&mut Vec::new()));
        let at_a_boundary = at == BLOCK + 8192;
        prop_assert_eq!(result.is_ok(), at_a_boundary);
    }
}

#[test]
fn the_label_the_map_and_the_configuration_are_seen() {
    let label = "START WAL LOCATION: 0/2000028\n".repeat(40);
    let files = Files::from([
        ("backup_label".to_owned(), label.clone().into_bytes()),
        ("tablespace_map".to_owned(), b"16384 /x y\n".to_vec()),
        ("pg_hba.conf".to_owned(), b"#".to_vec()),
        ("base/pg_hba.conf".to_owned(), b"#".to_vec()),
    ]);
    let (_, _, seen) = pieces_of(&stream_of(&files), 100, BLOCK);
    assert_eq!(seen.backup_label.as_deref(), Some(label.as_str()));
    assert_eq!(seen.tablespace_map.as_deref(), Some("16384 /x y\n"));
    assert_eq!(seen.config_files, ["pg_hba.conf"]);
    assert_eq!(seen.members, 4);
}

#[test]
fn bytes_behind_the_end_are_refused_and_zeros_are_kept() {
    let mut stream = stream_of(&Files::from([("a".to_owned(), vec![1])]));
    stream.extend([0; 20 * BLOCK]);
    let (_, raw_bytes, _) = pieces_of(&stream, 1000, 4 * BLOCK);
    assert_eq!(raw_bytes, stream.len() as u64);
    stream.push(1);
    let error = Splitter::default().push(&stream, &mut Vec::new()).expect_err("more");
    assert_eq!(error, SplitError::BehindEnd { at: stream.len() as u64 - 1 });
}

#[test]
fn a_full_piece_ends_at_a_member_when_one_is_near() {
    let files: Files = (0..100).map(|n| (format!("f{n:03}"), vec![n; 3000])).collect();
    let (pieces, ..) = pieces_of(&stream_of(&files), 4096, 32 * BLOCK);
    assert!(pieces.iter().all(|piece| piece.within.is_none()), "files are smaller than a piece");
    assert!(pieces.len() > 15);
}

/// Rounded up to whole blocks such a size became 0, and the splitter waited for ever for its end.
#[test]
fn a_member_larger_than_any_file_is_refused() {
    for size in [SIZE_MAX, SIZE_MAX + 1, u64::MAX - 5, u64::MAX] {
        let mut header = tar::Header::new_ustar();
        header.set_path("base/5/1").expect("a short path");
        header.set_size(0);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.as_old_mut().size = [0; 12];
        header.as_old_mut().size[0] = 0x80;
        header.as_old_mut().size[4..].copy_from_slice(&size.to_be_bytes());
        header.set_cksum();
        let mut splitter = Splitter::default();
        let mut block = header.as_bytes().to_vec();
        block.extend([7; BLOCK]);
        let taken = splitter.push(&block, &mut Vec::new());
        match size {
            SIZE_MAX => assert_eq!(taken, Ok(())),
            _ => assert_eq!(taken, Err(SplitError::Size { at: 0, size })),
        }
    }
}

/// The restore, which reads from any part on, would find half a header in the last one.
#[test]
fn a_stream_that_ends_within_a_block_is_refused_when_it_is_copied() {
    for (behind, whole) in [(0, true), (2, false), (BLOCK, true), (BLOCK + 1, false)] {
        let mut splitter = Splitter::cutting_at(BLOCK);
        let mut out = Vec::new();
        splitter.push(&vec![0; 2 * BLOCK + behind], &mut out).expect("zeros are an end");
        assert_eq!(splitter.finish(&mut out).is_ok(), whole, "{behind} zeros behind the end");
    }
}
