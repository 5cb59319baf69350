//! Cuts a tar stream into pieces that can be unpacked without the ones before them.
//!
//! Enters: the bytes of one tar stream, in whatever chunks they come. Leaves: pieces of about a
//! mebibyte that together are the stream, terminated as tar demands (PostgreSQL before 15 leaves
//! the two blocks of zeros out), each with the member it begins within. Nothing is held beyond the
//! piece that is being filled and the two small files that describe the backup.
//!
//! A cut falls on a block and never inside a header, so that a piece begins with a header or with
//! content whose file and offset are known.

use bytes::Bytes;

use proto::archive::base::WithinMember;
use proto::segment::FRAME_RAW;

use super::header::{self, BLOCK, Extension, Header, HeaderError, Member};

/// Extension headers are a name or a few records.
const EXTENSION_MAX: u64 = 64 << 10;
/// No file is larger (`off_t`).
const SIZE_MAX: u64 = i64::MAX as u64;
/// `backup_label` is a few lines, `tablespace_map` a line a tablespace.
const CAPTURE_MAX: u64 = 1 << 20;
const CAPTURED: [&str; 2] = ["backup_label", "tablespace_map"];
const CONFIG_FILES: [&str; 4] =
    ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

/// A run of the stream's raw bytes.
#[derive(Debug, Clone)]
pub struct Piece {
    pub start: u64,
    pub raw: Bytes,
    /// `None`: it begins with a header (or with the end of the stream).
    pub within: Option<WithinMember>,
}

/// What was seen on the way.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub backup_label: Option<String>,
    pub tablespace_map: Option<String>,
    /// Configuration files in the stream's top folder.
    pub config_files: Vec<String>,
    pub members: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitError {
    #[error("byte {at} of the tar stream is no header")]
    Header {
        at: u64,
        #[source]
        source: HeaderError,
    },
    #[error("the tar stream goes on behind its end, at byte {at}")]
    BehindEnd { at: u64 },
    #[error("an extension header of {size} bytes at byte {at} of the tar stream")]
    Extension { at: u64, size: u64 },
    #[error("a member of {size} bytes at byte {at} of the tar stream")]
    Size { at: u64, size: u64 },
    #[error("the tar stream ends at byte {at}, inside {path:?}")]
    Truncated { at: u64, path: String },
    #[error("the name of the large file {path:?} is not UTF-8: rename it, or move it elsewhere")]
    Name { path: String },
}

#[derive(Debug)]
enum State {
    /// `0..filled` of a header block have come.
    Header,
    /// Content and padding of an extension header: `left` bytes to come.
    Extension { kind: Extension, left: u64 },
    /// Content and padding of the member: `left` bytes to come.
    Content { left: u64 },
    /// Behind the two blocks of zeros.
    End,
}

/// The splitter of one tar stream.
#[derive(Debug)]
pub struct Splitter {
    state: State,
    block: [u8; BLOCK],
    filled: usize,
    zero_blocks: u32,
    extension: Vec<u8>,
    /// Bytes of its content, without padding.
    extension_size: u64,
    long_path: Option<Vec<u8>>,
    pax_size: Option<u64>,
    /// An extension header stands before the member: no cut between them.
    bound: bool,
    member: Option<Member>,
    capture: Vec<u8>,
    /// Bytes in a full piece.
    full: usize,
    piece: Vec<u8>,
    piece_start: u64,
    within: Option<WithinMember>,
    seen: Seen,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::cutting_at(FRAME_RAW)
    }
}

impl Splitter {
    /// A splitter whose pieces have `full` bytes, give or take: whole blocks.
    pub fn cutting_at(full: usize) -> Self {
        assert!(full.is_multiple_of(BLOCK) && full > 0, "pieces of {full} bytes");
        Self {
            state: State::Header,
            block: [0; BLOCK],
            filled: 0,
            zero_blocks: 0,
            extension: Vec::new(),
            extension_size: 0,
            long_path: None,
            pax_size: None,
            bound: false,
            member: None,
            capture: Vec::new(),
            full,
            piece: Vec::with_capacity(full),
            piece_start: 0,
            within: None,
            seen: Seen::default(),
        }
    }

    /// Takes the next bytes of the stream; pieces that are full go to `out`.
    ///
    /// # Errors
    /// [`SplitError`] when the bytes are no tar stream.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Piece>) -> Result<(), SplitError> {
        while !bytes.is_empty() {
            self.cut_if_due(out)?;
            let taken = match self.state {
                State::Header => self.take_header(bytes)?,
                State::Extension { .. } => self.take_extension(bytes),
                State::Content { .. } => self.take_content(bytes),
                State::End => self.take_end(bytes)?,
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Terminates the stream; the last piece goes to `out`. Returns the stream's whole length.
    ///
    /// # Errors
    /// [`SplitError::Truncated`] when the stream ends inside a member.
    pub fn finish(mut self, out: &mut Vec<Piece>) -> Result<(u64, Seen), SplitError> {
        let open = match self.state {
            State::Header => self.filled > 0 || self.bound,
            State::Extension { .. } | State::Content { .. } => true,
            // A tar stream is whole blocks: who reads a part looks for headers in them.
            State::End => !self.at().is_multiple_of(BLOCK as u64),
        };
        if open {
            let path = self.member.as_ref().map(|member| shown(&member.path)).unwrap_or_default();
            return Err(SplitError::Truncated { at: self.at(), path });
        }
        let missing = 2_u32.saturating_sub(self.zero_blocks) as usize;
        self.push(&[0; 2 * BLOCK][..missing * BLOCK], out)?;
        self.emit(None, out);
        Ok((self.piece_start, self.seen))
    }

    fn at(&self) -> u64 {
        self.piece_start + self.piece.len() as u64
    }

    fn cut_if_due(&mut self, out: &mut Vec<Piece>) -> Result<(), SplitError> {
        let len = self.piece.len();
        // From three quarters on a piece ends at the next member, so that parts can begin with
        // headers.
        if len < self.full / 4 * 3 || !len.is_multiple_of(BLOCK) || self.bound {
            return Ok(());
        }
        match (&self.state, &self.member) {
            (State::Header, _) if self.filled == 0 => self.emit(None, out),
            (State::End, _) => self.emit(None, out),
            (State::Content { left }, Some(member)) if len >= self.full => {
                let Ok(path) = String::from_utf8(member.path.clone()) else {
                    // A small file goes into the piece whole; a large one would not fit memory.
                    let path = shown(&member.path);
                    let small = member.size <= self.full as u64;
                    return if small { Ok(()) } else { Err(SplitError::Name { path }) };
                };
                // On a block, so never in the padding: that is shorter than one.
                let offset = padded(member.size) - left;
                let (size, mode, mtime) = (member.size, member.mode, member.mtime);
                self.emit(Some(WithinMember { path, size, offset, mode, mtime }), out);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the piece here; the next one begins within `next`.
    fn emit(&mut self, next: Option<WithinMember>, out: &mut Vec<Piece>) {
        let within = std::mem::replace(&mut self.within, next);
        if self.piece.is_empty() {
            return;
        }
        let raw = std::mem::replace(&mut self.piece, Vec::with_capacity(self.full));
        let start = self.piece_start;
        self.piece_start += raw.len() as u64;
        out.push(Piece { start, raw: raw.into(), within });
    }

    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, SplitError> {
        let taken = bytes.len().min(BLOCK - self.filled);
        self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.filled == BLOCK {
            self.filled = 0;
            self.header_done()?;
        }
        Ok(taken)
    }

    fn header_done(&mut self) -> Result<(), SplitError> {
        let at = self.at() - BLOCK as u64;
        let header =
            Header::parse(&self.block).map_err(|source| SplitError::Header { at, source })?;
        if self.zero_blocks > 0 && header != Header::Zero {
            return Err(SplitError::BehindEnd { at });
        }
        match header {
            Header::Zero if self.bound => return Err(SplitError::Extension { at, size: 0 }),
            Header::Zero => {
                self.zero_blocks += 1;
                if self.zero_blocks == 2 {
                    self.state = State::End;
                }
            }
            Header::Extension { size, .. } if size > EXTENSION_MAX => {
                return Err(SplitError::Extension { at, size });
            }
            Header::Extension { kind, size } => {
                self.bound = true;
                self.extension.clear();
                self.extension_size = size;
                self.state = match size {
                    0 => State::Header,
                    _ => State::Extension { kind, left: padded(size) },
                };
            }
            Header::Member(member) => self.member_begins(member, at)?,
        }
        Ok(())
    }

    fn member_begins(&mut self, mut member: Member, at: u64) -> Result<(), SplitError> {
        self.bound = false;
        if let Some(path) = self.long_path.take() {
            member.path = path;
        }
        if let Some(size) = self.pax_size.take().filter(|_| member.is_file) {
            member.size = size;
        }
        if member.size > SIZE_MAX {
            return Err(SplitError::Size { at, size: member.size });
        }
        self.seen.members += 1;
        self.capture.clear();
        if let Ok(path) = std::str::from_utf8(&member.path)
            && CONFIG_FILES.contains(&path)
        {
            self.seen.config_files.push(path.to_owned());
        }
        self.state = match member.size {
            0 => State::Header,
            size => State::Content { left: padded(size) },
        };
        self.member = Some(member);
        Ok(())
    }

    fn take_extension(&mut self, bytes: &[u8]) -> usize {
        let State::Extension { kind, left } = self.state else { return 0 };
        let taken = at_most(bytes.len(), left);
        self.piece.extend_from_slice(&bytes[..taken]);
        self.extension.extend_from_slice(&bytes[..taken]);
        let left = left - taken as u64;
        self.state = State::Extension { kind, left };
        if left == 0 {
            self.state = State::Header;
            let content = std::mem::take(&mut self.extension);
            let size = at_most(content.len(), self.extension_size);
            self.extension_done(kind, &content[..size]);
        }
        taken
    }

    fn extension_done(&mut self, kind: Extension, content: &[u8]) {
        match kind {
            Extension::LongPath => {
                let path = content.split(|byte| *byte == 0).next().unwrap_or(content);
                self.long_path = Some(path.to_vec());
            }
            Extension::Pax => {
                let (path, size) = header::pax_records(content);
                self.long_path = path.or(self.long_path.take());
                self.pax_size = size;
            }
            Extension::Other => {}
        }
    }

    fn take_content(&mut self, bytes: &[u8]) -> usize {
        let State::Content { left } = self.state else { return 0 };
        let room = match self.full.checked_sub(self.piece.len()) {
            // Fuller than that only while no cut is possible.
            None | Some(0) => self.full,
            Some(room) => room,
        };
        let taken = at_most(bytes.len().min(room), left);
        self.piece.extend_from_slice(&bytes[..taken]);
        self.capture(&bytes[..taken], left);
        let left = left - taken as u64;
        self.state = State::Content { left };
        if left == 0 {
            self.state = State::Header;
            self.captured();
        }
        taken
    }

    fn wanted(&self) -> Option<(&'static str, u64)> {
        let member = self.member.as_ref().filter(|member| member.size <= CAPTURE_MAX)?;
        let name = CAPTURED.into_iter().find(|name| name.as_bytes() == member.path)?;
        Some((name, member.size))
    }

    fn capture(&mut self, bytes: &[u8], left: u64) {
        if let Some((_, size)) = self.wanted() {
            let content_left = left.saturating_sub(padded(size) - size);
            let taken = at_most(bytes.len(), content_left);
            self.capture.extend_from_slice(&bytes[..taken]);
        }
    }

    fn captured(&mut self) {
        let Some((name, _)) = self.wanted() else { return };
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.capture)).into_owned();
        match name {
            "backup_label" => self.seen.backup_label = Some(text),
            _ => self.seen.tablespace_map = Some(text),
        }
    }

    fn take_end(&mut self, bytes: &[u8]) -> Result<usize, SplitError> {
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Err(SplitError::BehindEnd { at: self.at() + at as u64 });
        }
        let taken = bytes.len().min(self.full);
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }
}

fn at_most(len: usize, left: u64) -> usize {
    usize::try_from(left).map_or(len, |left| len.min(left))
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
