//! A run of BSON documents, one behind the other, as segments and batches hold them.
//!
//! Enters: bytes from a document's first byte on. Leaves: the documents that are whole; what is
//! left over is the beginning of one that is not.

use bson::RawDocument;

/// The largest document that a server stores (16 MiB), and what an oplog entry adds to it
/// (src/mongo/bson/util/builder.h, `BSONObjMaxInternalSize`: 16 KiB).
pub const DOCUMENT_MAX: usize = (16 << 20) + (16 << 10);
/// Four bytes of length and the end mark.
pub const DOCUMENT_MIN: usize = 5;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkError {
    #[error("the document at byte {offset} says that it is {length} bytes long")]
    Length { offset: usize, length: i32 },
    #[error("the {length} bytes at byte {offset} are no document: they do not end as one")]
    End { offset: usize, length: usize },
}

/// The document that begins with the first byte; `None` while not all of it is there.
///
/// # Errors
/// [`WalkError`] when no document can begin like this.
pub fn first_document(bytes: &[u8]) -> Result<Option<&RawDocument>, WalkError> {
    let mut documents = Documents::new(bytes);
    documents.next().map(|found| found.map(|(_, document)| document)).transpose()
}

/// The documents of a run, each with the offset of its first byte.
#[derive(Debug, Clone)]
pub struct Documents<'a> {
    bytes: &'a [u8],
    offset: usize,
    broken: bool,
}

impl<'a> Documents<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0, broken: false }
    }

    /// How many bytes the documents so far have.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// What follows them: the next document, or the beginning of one that is not whole.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    fn read(&self) -> Result<Option<&'a RawDocument>, WalkError> {
        let (rest, offset) = (self.rest(), self.offset);
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_le_bytes(*length);
        let wrong = || WalkError::Length { offset, length };
        let size = usize::try_from(length).map_err(|_| wrong())?;
        if !(DOCUMENT_MIN..=DOCUMENT_MAX).contains(&size) {
            return Err(wrong());
        }
        let Some(bytes) = rest.get(..size) else { return Ok(None) };
        let whole = RawDocument::from_bytes(bytes);
        whole.map(Some).map_err(|_| WalkError::End { offset, length: size })
    }
}

impl<'a> Iterator for Documents<'a> {
    type Item = Result<(usize, &'a RawDocument), WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        let begin = self.offset;
        match self.read() {
            Ok(document) => {
                let document = document?;
                self.offset += document.as_bytes().len();
                Some(Ok((begin, document)))
            }
            Err(error) => {
                self.broken = true;
                Some(Err(error))
            }
        }
    }
}
