//! What a server sends: messages, and in copy data the log, keepalives and the frames of a base backup.
#![no_main]

use archiver::source::postgres::conn::row_values;
use archiver::source::postgres::wire::{
    CopyMessage, Message, frame, take_copy_message, take_message,
};
use archiver::source::postgres::{BackupFrame, ServerError};
use bytes::{Bytes, BytesMut};
use fuzz::{Input, input::pieces, seeds};
use postgres_protocol::message::backend::{COPY_DATA_TAG, Message as Backend};

fn message(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((content.len() as u32 + 4).to_be_bytes());
    bytes.extend(content);
    bytes
}

fn seeds() -> Vec<seeds::Seed> {
    let numbers = |kind: u8, numbers: &[u64]| {
        let mut bytes = vec![kind];
        numbers.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
        bytes
    };
    let log = [&numbers(b'w', &[16, 32, 7])[..], b"some log"].concat();
    let keepalive = [&numbers(b'k', &[32, 7])[..], &[1]].concat();
    let error = b"SERROR\0VERROR\0C58P01\0Mrequested WAL segment has already been removed\0\0";
    let row = [&[0, 2, 0, 0, 0, 1][..], b"2", &[255, 255, 255, 255]].concat();
    let mut column = [&[0, 1][..], b"tli\0"].concat();
    column.extend([0; 18]);
    let messages = [
        message(b'W', &[0, 0, 0]),
        message(b'd', &log),
        message(b'd', &keepalive),
        message(b'd', b"s"),
        message(b'd', b"nbase.tar\0\0"),
        message(b'd', &numbers(b'p', &[4711])),
        message(b'd', b"dtar"),
        message(b'd', b"m"),
        message(b'c', b""),
        message(b'E', error),
        message(b'N', error),
        message(b'S', b"server_version\x0015.18\0"),
        message(b'T', &column),
        message(b'D', &row),
        message(b'C', b"START_REPLICATION\0"),
        message(b'R', &[0, 0, 0, 10, b'S', b'C', b'R', b'A', b'M', 0, 0]),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        message(b'Z', b"I"),
        message(b'H', &[0, 0, 1, 0, 0]),
    ];
    let mut found: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(at, message)| seeds::seed(&at.to_string(), [&[5][..], message].concat()))
        .collect();
    found.push(seeds::seed("all", [&[5][..], &messages.concat()].concat()));
    found
}

/// Everything that can be taken off the front, and how many bytes that was.
fn taken(input: &mut BytesMut) -> (Vec<String>, bool) {
    let mut found = Vec::new();
    loop {
        let before = input.len();
        let (tag, length) = match frame(input) {
            Ok(None) => return (found, true),
            Ok(Some(frame)) => frame,
            Err(_) => return (found, false),
        };
        assert!((5..=before).contains(&length), "a message is whole");
        if tag == COPY_DATA_TAG {
            found.push(copy_data(input, length));
        } else {
            match take_message(input, "fuzzing") {
                Ok(message) => found.push(shown(message.expect("it is whole"))),
                // The connection ends here.
                Err(_) => return (found, false),
            }
        }
        assert_eq!(before - input.len(), length, "exactly one message is taken");
    }
}

fn copy_data(input: &mut BytesMut, length: usize) -> String {
    let content = Bytes::copy_from_slice(&input[5..length]);
    let frame = format!("{:?}", BackupFrame::parse(content.clone()).ok());
    let message = take_copy_message(input, length);
    if let Ok(CopyMessage::Data { bytes, .. }) = &message {
        assert_eq!(bytes, &content[25..], "the log is what stands behind the header");
    }
    format!("{frame} {:?}", message.ok())
}

fn shown(message: Message) -> String {
    match message {
        Message::CopyBoth => "W".to_owned(),
        Message::Other(Backend::DataRow(body)) => {
            format!("D {:?}", row_values(&body, "fuzzing").ok())
        }
        Message::Other(Backend::ErrorResponse(body)) => {
            format!("E {}", ServerError::from_fields(body.fields()))
        }
        Message::Other(Backend::NoticeResponse(body)) => {
            format!("N {}", ServerError::from_fields(body.fields()))
        }
        Message::Other(Backend::ParameterStatus(body)) => {
            format!("S {:?}", body.name().ok().zip(body.value().ok()))
        }
        Message::Other(_) => "other".to_owned(),
    }
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let step = input.byte();
    let mut whole = BytesMut::from(input.0);
    let (expected, sound) = taken(&mut whole);
    let (mut arriving, mut found, mut goes_on) = (BytesMut::new(), Vec::new(), true);
    for piece in pieces(input.0, step) {
        if goes_on {
            arriving.extend_from_slice(piece);
            let (more, sound) = taken(&mut arriving);
            found.extend(more);
            goes_on = sound;
        }
    }
    assert_eq!((found, goes_on), (expected, sound), "how the bytes arrive makes a difference");
}

fuzz::target!("replication", most: 16 << 20, seeds: seeds, input: input);
