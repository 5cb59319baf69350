//! Records of any content in a sound log: each is found again, and what it means is no more than it says.
//! With one byte of the log turned over nothing panics, and that record is never taken for sound.
#![no_main]

use fuzz::{Input, input::pieces, log::Log, seeds};
use proto::postgres::lsn::{Lsn, SegmentSize};
use proto::postgres::page::MAGICS;
use proto::postgres::reader::{Item, RecordReader};
use proto::postgres::transaction::decode;

fn commit(flags: u32) -> Vec<u8> {
    let mut main = 7_i64.to_le_bytes().to_vec();
    main.extend(flags.to_le_bytes());
    main.extend(2_u32.to_le_bytes());
    main.extend([1; 24]);
    main.extend(b"a gid\0");
    let mut payload = vec![255, main.len() as u8];
    payload.extend(main);
    payload
}

fn seeds() -> Vec<seeds::Seed> {
    let record = |rmid: u8, info: u8, payload: &[u8]| {
        let mut bytes = vec![rmid, info];
        bytes.extend((payload.len() as u16).to_le_bytes());
        bytes.extend(payload);
        bytes
    };
    let begin = [1, 1, 5, 0, 0];
    let restore_point = [&[255, 72][..], &[9; 8], b"before the drop\0", &[0; 48]].concat();
    let checkpoint = [&[255, 40][..], &[3; 40]].concat();
    let prepare = [&[255, 90][..], &[2; 90]].concat();
    let of_block = [
        &[0_u8, 0x10 | 0x20, 4, 0, 10, 0, 0, 0, 5, 2, 0][..],
        &[0; 16],
        &[255, 3],
        &[9; 14],
        &[1, 2, 3],
    ]
    .concat();
    let records = [
        record(1, 0x80, &commit(1 << 1 | 1 << 4)),
        record(1, 0xB0, &commit(1 << 4 | 1 << 7 | 1 << 8)),
        record(1, 0x10, &prepare),
        record(0, 0x70, &restore_point),
        record(0, 0x10, &checkpoint),
        record(10, 0, &of_block),
        record(1, 0, &[&[253, 7, 0, 254][..], &20_u32.to_le_bytes(), &[5; 20]].concat()),
        record(0, 0x40, &[]),
    ];
    vec![
        seeds::seed("each", [&begin[..], &records.concat()].concat()),
        seeds::seed("one", [&begin[..], &records[0]].concat()),
    ]
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let (step, magic) = (input.byte(), MAGICS[usize::from(input.byte()) % MAGICS.len()].0);
    let page = u64::from(input.byte());
    let flip = input.short();
    let size = SegmentSize::try_from(1 << 20).expect("1 MiB");
    let mut log = Log::new(Lsn((7 << 20) + page % 128 * 8192), size, magic);
    let mut written = Vec::new();
    while !input.0.is_empty() && log.bytes.len() < 1 << 17 {
        let (rmid, info) = (input.byte(), input.byte());
        let payload = input.field();
        // A switch ends the segment: what stands behind it is none of its records.
        let is_switch = rmid == 0 && info & 0xF0 == 0x40;
        let at = log.record(rmid, info, 5, payload);
        written.push((at, rmid, info, payload.len() + 24));
        if is_switch {
            break;
        }
    }
    let mut found = Vec::new();
    let mut reader = RecordReader::new(log.start, size);
    for piece in pieces(&log.bytes, step) {
        reader.feed(piece, &mut |item| {
            let Item::Record(record) = item else { panic!("{item:?} in a sound log") };
            assert!(record.crc_ok && record.main_data.len() + 24 <= record.total_len as usize);
            let _ = decode(&record);
            found.push((record.start, record.rmid, record.info, record.total_len as usize));
        });
    }
    assert_eq!(found, written, "every record is found again");

    if flip > 0 && !log.bytes.is_empty() {
        let at = usize::from(flip) % log.bytes.len();
        log.bytes[at] ^= 1 << (flip % 8);
        let turned = Lsn(log.start.0 + at as u64);
        let mut reader = RecordReader::new(log.start, size);
        reader.feed(&log.bytes, &mut |item| {
            if let Item::Record(record) = item
                && record.crc_ok
            {
                let _ = decode(&record);
                // Of the bytes between two headers all are in the checksum, but two of padding.
                let within = record.start <= turned
                    && turned.0 < record.start.0 + u64::from(record.total_len);
                let crosses = record.start.0 / 8192 != record.end.0 / 8192;
                assert!(!within || crosses, "a damaged record is taken for sound");
            }
        });
    }
}

fuzz::target!("wal-records", most: 16 << 20, seeds: seeds, input: input);
