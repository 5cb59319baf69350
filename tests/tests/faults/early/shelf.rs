//! Objects of an archive, in a folder or on S3, that are harmed and put back.

use std::path::PathBuf;

use anyhow::Result;
use tests::seaweed::{BUCKET, Seaweed};

/// Objects on the way to the moment, and how to damage them.
pub(super) struct Shelf {
    pub(super) folder: Option<PathBuf>,
    pub(super) prefix: String,
    /// A sealed segment in the middle, and the one before it.
    pub(super) middle: String,
    pub(super) other: String,
    /// Of the open segment, which the moment lies in.
    pub(super) tail: String,
    /// Of the base.
    pub(super) part: String,
}

/// What a store may do to an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Harm {
    Gone,
    Short,
    Rubbish,
    /// Another segment's object under its name.
    Other,
}

impl Shelf {
    fn get(&self, key: &str) -> Result<Vec<u8>> {
        match &self.folder {
            Some(folder) => Ok(std::fs::read(folder.join(key))?),
            None => Seaweed::shared()?.get(BUCKET, &format!("{}/{key}", self.prefix)),
        }
    }

    pub(super) fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        match &self.folder {
            Some(folder) => Ok(std::fs::write(folder.join(key), bytes)?),
            None => Seaweed::shared()?.put(BUCKET, &format!("{}/{key}", self.prefix), bytes),
        }
    }

    fn delete(&self, key: &str) -> Result<()> {
        match &self.folder {
            Some(folder) => Ok(std::fs::remove_file(folder.join(key))?),
            None => Seaweed::shared()?.delete(BUCKET, &format!("{}/{key}", self.prefix)),
        }
    }

    /// Gives what was there, to put it back.
    pub(super) fn harm(&self, key: &str, harm: Harm) -> Result<Vec<u8>> {
        let whole = self.get(key)?;
        match harm {
            Harm::Gone => self.delete(key)?,
            Harm::Short => self.put(key, whole[..whole.len() / 2].to_vec())?,
            Harm::Rubbish => {
                let rubbish = (0..whole.len()).map(|n| (n * 31 % 251) as u8).collect();
                self.put(key, rubbish)?;
            }
            Harm::Other => self.put(key, self.get(&self.other)?)?,
        }
        Ok(whole)
    }
}
