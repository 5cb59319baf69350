//! One header block of a tar stream, as PostgreSQL's base backup writes it.
//!
//! Enters: 512 bytes. Leaves: what member begins, or that the stream ends. PostgreSQL writes plain
//! ustar headers (src/port/tar.c, `tarCreateHeader`): names up to 99 bytes, sizes in octal or, from
//! 8 GiB on, in base 256 (`print_tar_number`). Extension headers (`L`, `K`, `x`, `g`) never come
//! from it; they are understood so that a server that learns them does not end the backups.

/// Bytes in a tar block.
pub const BLOCK: usize = 512;

/// What a header block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// A block of zeros: two of them end the stream.
    Zero,
    /// A header of its own whose content describes the member that follows.
    Extension {
        kind: Extension,
        size: u64,
    },
    Member(Member),
}

/// Which extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// GNU `L`: the content is the next member's path.
    LongPath,
    /// pax `x`: records, of which `path` and `size` matter here.
    Pax,
    /// GNU `K` and pax `g`: nothing in them that matters here.
    Other,
}

/// A file, folder or link that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As bytes: a file in a data folder may have any name.
    pub path: Vec<u8>,
    /// Bytes of content that follow (0 for folders and links).
    pub size: u64,
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: u64,
    pub is_file: bool,
}

/// Why a block is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("its checksum is {expected:o}, and its bytes have {found:o}")]
    Checksum { expected: u64, found: u64 },
    #[error("its field {0} is no number")]
    Number(&'static str),
}

impl Header {
    /// # Errors
    /// When the checksum does not match or a number cannot be read.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, HeaderError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Self::Zero);
        }
        let expected = number(&block[148..156], "checksum")?;
        let found = checksum(block);
        if expected != found {
            return Err(HeaderError::Checksum { expected, found });
        }
        let size = number(&block[124..136], "size")?;
        let extension = |kind| Ok(Self::Extension { kind, size });
        match block[156] {
            b'L' => return extension(Extension::LongPath),
            b'x' => return extension(Extension::Pax),
            b'K' | b'g' => return extension(Extension::Other),
            _ => {}
        }
        // POSIX gives links, devices, folders and pipes no content, whatever their size says.
        let has_content = !(b'1'..=b'6').contains(&block[156]);
        Ok(Self::Member(Member {
            path: path(block),
            size: if has_content { size } else { 0 },
            mode: (number(&block[100..108], "mode")? & 0o7777) as u32,
            mtime: number(&block[136..148], "mtime")?,
            is_file: has_content,
        }))
    }
}

fn path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// The sum of all bytes, those of the checksum field taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let field: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    all - field + 8 * u64::from(b' ')
}

/// Octal digits between spaces and zeros, or base 256 behind a first byte of 0x80.
fn number(field: &[u8], what: &'static str) -> Result<u64, HeaderError> {
    let bad = HeaderError::Number(what);
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7F);
        return field[1..].iter().try_fold(first, |value, byte| {
            let shifted = value.checked_mul(256).ok_or(bad)?;
            Ok(shifted | u64::from(*byte))
        });
    }
    let digits = until_nul(field).trim_ascii();
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => {
            value.checked_mul(8).map(|shifted| shifted + u64::from(*digit - b'0')).ok_or(bad)
        }
        _ => Err(bad),
    })
}

/// The `path` and `size` of pax records (`<length> <key>=<value>\n`), as far as they can be read.
pub fn pax_records(content: &[u8]) -> (Option<Vec<u8>>, Option<u64>) {
    let (mut path, mut size) = (None, None);
    let mut rest = content;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok());
        let Some(record) = length.and_then(|length: usize| rest.get(space + 1..length)) else {
            break;
        };
        let end = space + 1 + record.len();
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(value) = record.strip_prefix(b"path=") {
            path = Some(value.to_vec());
        }
        if let Some(value) = record.strip_prefix(b"size=") {
            size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        }
        rest = &rest[end..];
    }
    (path, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(size_field: &[u8]) -> [u8; BLOCK] {
        let mut block = [0_u8; BLOCK];
        block[..9].copy_from_slice(b"base/1/12");
        block[100..108].copy_from_slice(b"0100600 ");
        block[124..124 + size_field.len()].copy_from_slice(size_field);
        block[136..148].copy_from_slice(b"14712345670 ");
        block[156] = b'0';
        block[257..263].copy_from_slice(b"ustar\0");
        let sum = format!("{:06o}\0 ", checksum(&block));
        block[148..156].copy_from_slice(sum.as_bytes());
        block
    }

    #[test]
    fn sizes_are_read_in_octal_and_in_base_256() {
        let size = |field: &[u8]| match Header::parse(&block(field)) {
            Ok(Header::Member(member)) => member.size,
            other => panic!("{other:?}"),
        };
        assert_eq!(size(b"00000020000 "), 8192);
        assert_eq!(size(b"77777777777 "), (8 << 30) - 1);
        assert_eq!(size(&[0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]), (12 << 30) + 1);
    }

    #[test]
    fn a_header_with_a_flipped_bit_is_refused() {
        let good = block(b"00000020000 ");
        // What stands behind the checksum field's zero is read by nobody.
        for at in (0..345).filter(|at| *at != 155) {
            let mut bad = good;
            bad[at] ^= 0x04;
            assert!(Header::parse(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn pax_records_are_read_by_their_lengths() {
        let content = b"19 path=some/a b=c\n15 size=123456\n30 mtime=1350244992.023960108\n";
        let (path, size) = pax_records(content);
        assert_eq!(path.as_deref(), Some(&b"some/a b=c"[..]));
        assert_eq!(size, Some(123_456));
    }
}
