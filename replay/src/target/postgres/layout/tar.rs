//! A tar stream read in parts: members, their content, and nothing assumed of earlier parts.
//!
//! Enters: the raw bytes of one part, and the member it begins within. Leaves: calls of a [`Sink`],
//! in order. Positions are absolute in the stream, so that padding is known even where a part
//! begins behind a member's header; a part may say that it begins anywhere, so they wrap. PostgreSQL writes plain ustar (src/port/tar.c); extension
//! headers with long names are understood, everything else is an error.

use proto::archive::base::WithinMember;

const BLOCK: usize = 512;
/// Who may read, write and enter; nothing else of a mode is restored.
const MODE: u32 = 0o777;
/// Names of members are at most a few hundred bytes.
const EXTENSION_MAX: u64 = 64 << 10;

/// A member that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub path: Vec<u8>,
    pub size: u64,
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
}

/// Takes what is in a part.
pub trait Sink {
    type Error: From<TarError>;
    /// A member begins, or goes on at `offset` from an earlier part.
    fn begin(&mut self, member: &Member, offset: u64) -> Result<(), Self::Error>;
    /// Its next bytes.
    fn content(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// All of the member's bytes that are in this part have come.
    fn finish(&mut self) -> Result<(), Self::Error>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    #[error("no tar header at byte {at}: {detail}")]
    Header { at: u64, detail: &'static str },
    #[error("a member of the kind {kind:?} at byte {at}")]
    Kind { at: u64, kind: char },
    #[error("the tar stream goes on behind its end, at byte {at}")]
    BehindEnd { at: u64 },
    #[error("the tar stream ends inside a member, at byte {at}")]
    Truncated { at: u64 },
}

enum State {
    Header,
    Extension { pax: bool, left: u64, padding: u64 },
    Content { left: u64 },
    Padding { left: u64 },
    End,
}

/// The reader of one part.
pub struct PartReader {
    at: u64,
    state: State,
    block: Vec<u8>,
    extension: Vec<u8>,
    long_path: Option<Vec<u8>>,
    pax_size: Option<u64>,
}

impl PartReader {
    /// A part whose first byte stands at `start` in the stream.
    pub fn new<S: Sink>(
        start: u64,
        within: Option<&WithinMember>,
        sink: &mut S,
    ) -> Result<Self, S::Error> {
        let mut reader = Self {
            at: start,
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            extension: Vec::new(),
            long_path: None,
            pax_size: None,
        };
        if let Some(within) = within {
            let member = Member {
                path: within.path.clone().into_bytes(),
                size: within.size,
                mode: within.mode & MODE,
                mtime: within.mtime,
                kind: Kind::File,
            };
            sink.begin(&member, within.offset)?;
            reader.state = State::Content { left: within.size.saturating_sub(within.offset) };
            reader.leave_content(sink)?;
        }
        Ok(reader)
    }

    pub fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let taken = self.step(bytes, sink)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn step<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, S::Error> {
        let most =
            |left: u64| usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        match &mut self.state {
            State::Header => {
                let taken = bytes.len().min(BLOCK - self.block.len());
                self.block.extend_from_slice(&bytes[..taken]);
                self.at = self.at.wrapping_add(taken as u64);
                if self.block.len() == BLOCK {
                    let block = std::mem::take(&mut self.block);
                    self.header(&block, sink)?;
                }
                Ok(taken)
            }
            State::Extension { left, padding, .. } => {
                let taken = most(*left + *padding);
                let content = most(*left);
                self.extension.extend_from_slice(&bytes[..content.min(taken)]);
                *left -= content as u64;
                *padding -= (taken - content) as u64;
                self.at = self.at.wrapping_add(taken as u64);
                self.leave_extension();
                Ok(taken)
            }
            State::Content { left } => {
                let taken = most(*left);
                *left -= taken as u64;
                self.at = self.at.wrapping_add(taken as u64);
                sink.content(&bytes[..taken])?;
                self.leave_content(sink)?;
                Ok(taken)
            }
            State::Padding { left } => {
                let taken = most(*left);
                *left -= taken as u64;
                self.at = self.at.wrapping_add(taken as u64);
                if *left == 0 {
                    self.state = State::Header;
                }
                Ok(taken)
            }
            State::End => {
                if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                    return Err(TarError::BehindEnd { at: self.at.wrapping_add(at as u64) }.into());
                }
                self.at = self.at.wrapping_add(bytes.len() as u64);
                Ok(bytes.len())
            }
        }
    }

    /// What a stream's last part must end with.
    pub fn check_end(&self) -> Result<(), TarError> {
        match self.state {
            State::End => Ok(()),
            State::Header if self.block.is_empty() => Ok(()),
            _ => Err(TarError::Truncated { at: self.at }),
        }
    }

    /// The part is over: a file that goes on in the next one is let go.
    pub fn end_part<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        match self.state {
            State::Content { .. } => sink.finish(),
            State::Header if !self.block.is_empty() => {
                Err(TarError::Truncated { at: self.at }.into())
            }
            _ => Ok(()),
        }
    }

    fn padding(&self) -> u64 {
        self.at.wrapping_neg() % BLOCK as u64
    }

    fn leave_content<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if let State::Content { left: 0 } = self.state {
            sink.finish()?;
            self.state = match self.padding() {
                0 => State::Header,
                left => State::Padding { left },
            };
        }
        Ok(())
    }

    fn leave_extension(&mut self) {
        let State::Extension { pax, left: 0, padding: 0 } = self.state else { return };
        let content = std::mem::take(&mut self.extension);
        if pax {
            let (path, size) = pax_records(&content);
            self.long_path = path.or(self.long_path.take());
            self.pax_size = size;
        } else {
            self.long_path = Some(until_nul(&content).to_vec());
        }
        self.state = State::Header;
    }

    fn header<S: Sink>(&mut self, block: &[u8], sink: &mut S) -> Result<(), S::Error> {
        let at = self.at.wrapping_sub(BLOCK as u64);
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(());
        }
        let bad = |detail| TarError::Header { at, detail };
        let sum = number(&block[148..156]).ok_or_else(|| bad("no checksum"))?;
        if sum != checksum(block) {
            return Err(bad("its checksum does not match").into());
        }
        let size = number(&block[124..136]).ok_or_else(|| bad("no size"))?;
        let kind = match block[156] {
            b'0' | 0 => Kind::File,
            b'5' => Kind::Folder,
            b'2' => Kind::Link,
            kind @ (b'L' | b'x') if size <= EXTENSION_MAX => {
                let padding = size.next_multiple_of(BLOCK as u64) - size;
                self.state = State::Extension { pax: kind == b'x', left: size, padding };
                self.leave_extension();
                return Ok(());
            }
            other => return Err(TarError::Kind { at, kind: char::from(other) }.into()),
        };
        let size = self.pax_size.take().unwrap_or(size);
        let member = Member {
            path: self.long_path.take().unwrap_or_else(|| path(block)),
            size: if kind == Kind::File { size } else { 0 },
            mode: (number(&block[100..108]).ok_or_else(|| bad("no mode"))? & u64::from(MODE))
                as u32,
            mtime: number(&block[136..148]).ok_or_else(|| bad("no time"))?,
            kind,
        };
        sink.begin(&member, 0)?;
        self.state = State::Content { left: member.size };
        self.leave_content(sink)
    }
}

fn path(block: &[u8]) -> Vec<u8> {
    let (name, prefix) = (until_nul(&block[..100]), until_nul(&block[345..500]));
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// The sum of all bytes, those of the checksum field taken as spaces.
fn checksum(block: &[u8]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(block) - sum(&block[148..156]) + 8 * u64::from(b' ')
}

/// Octal digits between spaces and zeros, or base 256 behind a first byte of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7F);
        return field[1..].iter().try_fold(first, |value, byte| {
            value.checked_mul(256).map(|shifted| shifted | u64::from(*byte))
        });
    }
    until_nul(field).trim_ascii().iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(*digit - b'0')),
        _ => None,
    })
}

/// The `path` and `size` of pax records (`<length> <key>=<value>\n`).
fn pax_records(content: &[u8]) -> (Option<Vec<u8>>, Option<u64>) {
    let (mut path, mut size) = (None, None);
    let mut rest = content;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok());
        let Some(record) = length.and_then(|length: usize| rest.get(space + 1..length)) else {
            break;
        };
        rest = &rest[space + 1 + record.len()..];
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(value) = record.strip_prefix(b"path=") {
            path = Some(value.to_vec());
        } else if let Some(value) = record.strip_prefix(b"size=") {
            size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        }
    }
    (path, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Nothing {
        modes: Vec<u32>,
    }

    impl Sink for Nothing {
        type Error = TarError;

        fn begin(&mut self, member: &Member, _offset: u64) -> Result<(), TarError> {
            self.modes.push(member.mode);
            Ok(())
        }

        fn content(&mut self, _bytes: &[u8]) -> Result<(), TarError> {
            Ok(())
        }

        fn finish(&mut self) -> Result<(), TarError> {
            Ok(())
        }
    }

    #[test]
    fn a_part_may_say_that_it_begins_anywhere() {
        for start in [0, 1, u64::MAX - BLOCK as u64, u64::MAX] {
            let within = WithinMember {
                path: "base/5/1".to_owned(),
                size: u64::MAX,
                offset: u64::MAX - 5,
                mode: 0,
                mtime: 0,
            };
            for within in [Some(&within), None] {
                let mut sink = Nothing::default();
                let mut reader = PartReader::new(start, within, &mut sink).expect("a part");
                assert_eq!(reader.feed(&[0; 4 * BLOCK], &mut sink), Ok(()), "{start}");
            }
        }
    }

    #[test]
    fn a_file_has_the_same_mode_wherever_its_part_begins() {
        let (path, size, offset) = ("base/5/1".to_owned(), 600, 512);
        let within = WithinMember { path, size, offset, mode: 0o4640, mtime: 0 };
        let mut sink = Nothing::default();
        PartReader::new(1024, Some(&within), &mut sink).expect("a part");
        assert_eq!(sink.modes, [0o640]);
    }
}
