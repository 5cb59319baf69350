//! The bytes of a request and of an answer.
//!
//! A body that is sent can be opened any number of times; a body that is read is compared with the
//! length and range that the store announced before anybody sees it.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, Length};
use base64::Engine;
use bytes::{Bytes, BytesMut};

use super::super::{Body, Class, Range, StoreError};
use super::error::Asked;
use crate::disk::{Disk, SystemDisk};

const PIECE_BYTES: usize = 256 << 10;
/// No store holds larger objects; some fail to parse larger numbers.
const OBJECT_BYTES_MAX: u64 = 1 << 50;
/// Memory is not reserved on the word of a store alone.
const RESERVE_BYTES_MAX: u64 = 256 << 20;

type Opening = Pin<Box<dyn Future<Output = Result<ByteStream, OpenError>> + Send>>;
pub(super) type OpenError = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn checksum_of(bytes: &[u8]) -> String {
    in_header(crc32c::crc32c(bytes))
}

fn in_header(crc: u32) -> String {
    base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes())
}

/// The CRC32C of a body as S3 wants it in a header. Also proves that a file has its length.
pub(super) async fn checksum(asked: &Asked<'_>, body: &Body) -> Result<String, StoreError> {
    let crc = match body {
        Body::Bytes(bytes) => crc32c::crc32c(bytes),
        Body::File { path, len } => {
            let (path, len) = (path.clone(), *len);
            let read = tokio::task::spawn_blocking(move || checksum_of_file(&path, len)).await;
            read.map_err(std::io::Error::other).and_then(|read| read).map_err(|source| {
                StoreError::Io {
                    address: asked.address.to_owned(),
                    action: "read the body of",
                    key: asked.key.to_owned(),
                    source,
                }
            })?
        }
    };
    Ok(in_header(crc))
}

fn checksum_of_file(path: &Path, len: u64) -> std::io::Result<u32> {
    let found = SystemDisk.len(path)?;
    if found != len {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("{} has {found} bytes, not {len}", path.display()),
        ));
    }
    let (mut crc, mut done) = (0, 0);
    while done < len {
        let piece = SystemDisk.read_at(path, done, PIECE_BYTES)?;
        if piece.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        crc = crc32c::crc32c_append(crc, &piece);
        done += piece.len() as u64;
    }
    Ok(crc)
}

/// Something that opens the body from its first byte each time it is called.
pub(super) fn reopenable(body: &Body) -> impl Fn() -> Opening + Send + Sync {
    let body = body.clone();
    move || {
        let body = body.clone();
        Box::pin(async move {
            match body {
                Body::Bytes(bytes) => Ok(ByteStream::from(bytes)),
                Body::File { path, len } => ByteStream::read_from()
                    .path(path)
                    .length(Length::Exact(len))
                    .buffer_size(PIECE_BYTES)
                    .build()
                    .await
                    .map_err(OpenError::from),
            }
        })
    }
}

pub(super) fn range_header(range: Range) -> Option<String> {
    match range {
        Range::All => None,
        Range::At { offset, len } => {
            let first = offset.min(OBJECT_BYTES_MAX);
            let last = first.saturating_add(len.saturating_sub(1)).min(OBJECT_BYTES_MAX);
            Some(format!("bytes={first}-{last}"))
        }
        Range::Last(len) => Some(format!("bytes=-{}", len.min(OBJECT_BYTES_MAX))),
    }
}

/// The whole body of an answer, if it is what was asked for.
pub(super) async fn read(
    asked: &Asked<'_>,
    range: Range,
    answer: GetObjectOutput,
) -> Result<Bytes, StoreError> {
    let short = |detail: String| asked.unreachable(detail, Class::Retry);
    let announced = answer.content_length.and_then(|n| u64::try_from(n).ok());
    let part = answer.content_range.as_deref().map(|text| {
        Part::parse(text).ok_or_else(|| short(format!("unreadable Content-Range {text:?}")))
    });
    let part = part.transpose()?;
    let bytes = collect(asked, answer.body, announced.unwrap_or_default()).await?;
    let read = bytes.len() as u64;
    if announced.is_some_and(|announced| announced != read) {
        return Err(short(format!("{read} bytes came of {}", announced.unwrap_or_default())));
    }
    match part {
        None => Ok(cut(bytes, range)),
        Some(part) if part.is_what(range) && part.len() == read => Ok(bytes),
        Some(part) => Err(short(format!("asked for {range:?}, got {read} bytes of {part:?}"))),
    }
}

async fn collect(
    asked: &Asked<'_>,
    mut body: ByteStream,
    announced: u64,
) -> Result<Bytes, StoreError> {
    let mut first = None;
    let mut all = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| asked.broken_body(&e))?;
        match first.take() {
            None if all.is_empty() => first = Some(piece),
            None => all.extend_from_slice(&piece),
            Some(first) => {
                let room = announced.min(RESERVE_BYTES_MAX);
                all.reserve(usize::try_from(room).unwrap_or_default());
                all.extend_from_slice(&first);
                all.extend_from_slice(&piece);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// A store may answer a range with the whole object (RFC 9110 §14.2).
fn cut(bytes: Bytes, range: Range) -> Bytes {
    let size = bytes.len() as u64;
    let (from, to) = match range {
        Range::All => return bytes,
        Range::At { offset, len } => (offset.min(size), offset.saturating_add(len).min(size)),
        Range::Last(len) => (size.saturating_sub(len), size),
    };
    let place = |at: u64| usize::try_from(at).expect("at most the length, which is a usize");
    bytes.slice(place(from)..place(to))
}

/// `Content-Range: bytes 3-9/10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    first: u64,
    last: u64,
    /// The whole object's size; the store may not say (`*`).
    total: Option<u64>,
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let part = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            total: if total == "*" { None } else { Some(total.parse().ok()?) },
        };
        (part.first <= part.last).then_some(part)
    }

    fn len(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    fn is_what(&self, range: Range) -> bool {
        let end = self.last.saturating_add(1);
        let ends = self.total.is_none_or(|total| end == total);
        match range {
            Range::All => self.first == 0 && ends,
            Range::At { offset, len } => {
                self.first == offset && (self.len() == len || (self.len() < len && ends))
            }
            Range::Last(len) => {
                ends && (self.len() == len || (self.len() < len && self.first == 0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_as_http_wants_them() {
        for (range, expected) in [
            (Range::All, None),
            (Range::At { offset: 3, len: 4 }, Some("bytes=3-6")),
            (Range::At { offset: 0, len: u64::MAX }, Some("bytes=0-1125899906842624")),
            (Range::Last(7), Some("bytes=-7")),
        ] {
            assert_eq!(range_header(range).as_deref(), expected);
        }
    }

    #[test]
    fn an_answer_of_other_bytes_than_asked_for_is_noticed() {
        let part = |text| Part::parse(text).unwrap();
        let at = |offset, len| Range::At { offset, len };
        assert!(part("bytes 3-6/10").is_what(at(3, 4)));
        assert!(part("bytes 8-9/10").is_what(at(8, 4)));
        assert!(!part("bytes 3-5/10").is_what(at(3, 4)));
        assert!(!part("bytes 2-5/10").is_what(at(3, 4)));
        assert!(part("bytes 7-9/10").is_what(Range::Last(3)));
        assert!(part("bytes 0-9/10").is_what(Range::Last(30)));
        assert!(!part("bytes 6-8/10").is_what(Range::Last(3)));
        assert_eq!(Part::parse("bytes */10"), None);
        assert_eq!(Part::parse("bytes 5-4/10"), None);
    }

    #[test]
    fn a_whole_object_is_cut_to_the_range() {
        let bytes = Bytes::from_static(b"0123456789");
        assert_eq!(cut(bytes.clone(), Range::At { offset: 3, len: 4 }), "3456");
        assert_eq!(cut(bytes.clone(), Range::At { offset: 30, len: 4 }), "");
        assert_eq!(cut(bytes, Range::Last(2)), "89");
    }
}
