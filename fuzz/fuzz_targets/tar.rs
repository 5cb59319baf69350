//! Tar streams of a base backup: cut into pieces by the one side, and read from any of them by the other.
#![no_main]

use archiver::base::header::{BLOCK, Header, pax_records};
use archiver::base::split::Splitter;
use fuzz::{Input, input::pieces, seeds};
use replay::target::postgres::layout::tar::{Member, PartReader, Sink, TarError};

fn header(name: &str, kind: u8, size: &[u8]) -> Vec<u8> {
    let mut block = vec![0_u8; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000600 ");
    block[124..124 + size.len()].copy_from_slice(size);
    block[136..148].copy_from_slice(b"14712345670 ");
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    block
}

fn seeds() -> Vec<seeds::Seed> {
    let label = b"START WAL LOCATION: 0/A000028 (file 00000001000000000000000A)\n";
    let mut file = header("backup_label", b'0', b"00000000076 ");
    file.extend(label);
    file.resize(2 * BLOCK, 0);
    let mut pax = header("x", b'x', b"00000000042 ");
    pax.extend(b"19 path=some/a b=c\n15 size=000600\n");
    pax.resize(2 * BLOCK, 0);
    pax.extend(header("base/5/1", b'0', b"00000001130 "));
    pax.resize(5 * BLOCK, 7);
    let mut long = header("././@LongLink", b'L', b"00000000004 ");
    long.extend(b"abc\0");
    long.resize(2 * BLOCK, 0);
    long.extend(header("short", b'2', b"00000000000 "));
    let large = header("huge", b'0', &[0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
    let endless = header("huge", b'0', &[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    let mut setuid = header("base/5/1", b'0', b"00000002000 ");
    setuid[100..108].copy_from_slice(b"0004640 ");
    setuid.resize(5 * BLOCK, 7);
    let with = |bytes: &[u8]| [&[1, 9][..], bytes].concat();
    vec![
        seeds::seed("label", with(&[&file[..], &[0; 2 * BLOCK]].concat())),
        seeds::seed("pax", with(&pax)),
        seeds::seed("long", with(&long)),
        seeds::seed("large", with(&large)),
        seeds::seed("found-larger-than-any", with(&[&endless[..], &[7; BLOCK]].concat())),
        seeds::seed("found-half-a-block", with(&[0; 2 * BLOCK + 2])),
        seeds::seed("found-mode", with(&setuid)),
        seeds::seed("folder", with(&header("pg_wal", b'5', b"00000000000 "))),
    ]
}

/// Headers whose checksums fit, so that what is behind them is reached.
fn repaired(stream: &mut [u8]) {
    for block in stream.chunks_exact_mut(BLOCK) {
        if block[257..263] == *b"ustar\0" {
            block[148..156].copy_from_slice(b"        ");
            let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// Members with the content that was seen of each.
#[derive(Default)]
struct Files(Vec<(Member, Vec<u8>)>);

impl Sink for Files {
    type Error = TarError;

    fn begin(&mut self, member: &Member, offset: u64) -> Result<(), TarError> {
        // A part may also begin right behind the header.
        let is_open = |(before, content): &(Member, Vec<u8>)| {
            before == member && member.size > 0 && content.is_empty()
        };
        if offset == 0 {
            if !self.0.last().is_some_and(is_open) {
                self.0.push((member.clone(), Vec::new()));
            }
        } else {
            let (before, content) = self.0.last().expect("it began in an earlier part");
            assert_eq!(
                (&before.path, before.size, content.len() as u64),
                (&member.path, member.size, offset)
            );
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.0.last_mut().expect("it has begun").1.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TarError> {
        Ok(())
    }
}

fn read(
    parts: &[(u64, &[u8], Option<&proto::archive::base::WithinMember>)],
) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut files = Files::default();
    for (start, raw, within) in parts {
        let mut reader = PartReader::new(*start, *within, &mut files)?;
        reader.feed(raw, &mut files)?;
        reader.end_part(&mut files)?;
    }
    Ok(files.0)
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let full = (usize::from(input.byte() % 8) + 1) * BLOCK;
    let step = input.byte();
    let mut stream = input.0.to_vec();
    repaired(&mut stream);
    if let Some(block) = stream.first_chunk::<BLOCK>() {
        let _ = Header::parse(block);
    }
    let (path, _) = pax_records(&stream);
    assert!(path.is_none_or(|path| path.len() <= stream.len()));
    // Anything may be a part, wherever it is said to begin.
    let anywhere = u64::MAX - u64::from(step);
    let _ = read(&[(anywhere, &stream, None)]);

    let mut splitter = Splitter::cutting_at(full);
    let mut cut = Vec::new();
    let taken = pieces(&stream, step).try_for_each(|piece| splitter.push(piece, &mut cut));
    let Ok(Ok((length, seen))) = taken.map(|()| splitter.finish(&mut cut)) else { return };
    let raw: Vec<u8> = cut.iter().flat_map(|piece| piece.raw.to_vec()).collect();
    assert_eq!(raw.len() as u64, length);
    assert_eq!(raw[..stream.len()], stream, "the pieces are the stream");
    assert!(raw[stream.len()..].iter().all(|byte| *byte == 0), "and its end");
    let parts: Vec<_> =
        cut.iter().map(|piece| (piece.start, &piece.raw[..], piece.within.as_ref())).collect();
    let (apart, whole) = (read(&parts), read(&[(0, &raw, None)]));
    assert_eq!(apart, whole, "where it is cut makes a difference");
    if let Ok(files) = whole {
        assert_eq!(files.len() as u64, seen.members, "both sides see the same members");
    }
}

fuzz::target!("tar", most: 16 << 20, seeds: seeds, input: input);
