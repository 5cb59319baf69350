//! The server's own manifest (`backup_manifest`), which `pg_verifybackup` reads.
//!
//! Enters: its bytes. Leaves: compressed objects of up to 4 MiB, each a run of whole frames, so that
//! a database of millions of files needs no more memory than a small one. After a crash at any line
//! they belong to a base that is not complete, and nobody reads them.

use bytes::BytesMut;

use proto::archive::base::ObjectRef;
use proto::segment::{Codec, FRAME_RAW, RunningHash};

use super::error::BaseError;
use super::parts::{Destination, PART_MAX};

const NAME: &str = "backup_manifest.zst";

/// The server's manifest, compressed and stored as it comes.
pub(super) struct Manifest {
    to: Destination,
    codec: Codec,
    object_max: usize,
    raw: Vec<u8>,
    hash: RunningHash,
    stored: BytesMut,
    objects: Vec<ObjectRef>,
}

impl Manifest {
    pub(super) fn new(to: Destination) -> Self {
        Self {
            codec: to.codec,
            to,
            object_max: PART_MAX,
            raw: Vec::new(),
            hash: RunningHash::default(),
            stored: BytesMut::new(),
            objects: Vec::new(),
        }
    }

    pub(super) async fn push(&mut self, mut bytes: &[u8]) -> Result<(), BaseError> {
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(FRAME_RAW - self.raw.len()));
            self.raw.extend_from_slice(taken);
            bytes = rest;
            if self.raw.len() == FRAME_RAW {
                self.frame().await?;
            }
        }
        Ok(())
    }

    /// What was collected becomes a frame, in the object that fills or in a new one.
    async fn frame(&mut self) -> Result<(), BaseError> {
        let compressed = self.codec.compress(&self.raw);
        let frame =
            compressed.map_err(|source| BaseError::Compress { stream: NAME.to_owned(), source })?;
        if self.stored.len() + frame.len() > self.object_max {
            self.store().await?;
        }
        self.hash.update(&self.raw);
        self.raw.clear();
        self.stored.extend_from_slice(&frame);
        Ok(())
    }

    async fn store(&mut self) -> Result<(), BaseError> {
        if self.stored.is_empty() {
            return Ok(());
        }
        let object = match self.objects.len() {
            0 => NAME.to_owned(),
            before => format!("{NAME}.{:06}", before + 1),
        };
        let (hash, stored) = (std::mem::take(&mut self.hash), std::mem::take(&mut self.stored));
        let bytes = stored.len() as u64;
        self.to.put(&object, stored.freeze()).await?;
        self.objects.push(ObjectRef { object, bytes, raw_bytes: hash.bytes(), hash: hash.now() });
        Ok(())
    }

    /// The objects, in order; none when the server sent no manifest.
    pub(super) async fn finish(mut self) -> Result<Vec<ObjectRef>, BaseError> {
        if !self.raw.is_empty() {
            self.frame().await?;
        }
        self.store().await?;
        Ok(self.objects)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::archive::layout::Lineage;
    use proto::segment::{Hash, decompress, first_frame};
    use proto::store::folder::FolderStore;
    use proto::store::retry::Policy;
    use proto::store::{Access, Range, Store};

    use super::*;

    #[tokio::test]
    async fn a_manifest_of_any_size_is_kept_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = FolderStore::open(folder.path(), Access::ReadWrite).await.expect("opens");
        let store: Arc<dyn Store> = Arc::new(store);
        let (lineage, id) = (Lineage(1), "20261120T000000Z".to_owned());
        let (codec, policy) = (Codec::Zstd { level: 1 }, Policy::Attempts(1));
        let to = Destination { store: store.clone(), lineage, id: id.clone(), codec, policy };
        let manifest = Manifest { object_max: 256 << 10, ..Manifest::new(to) };
        // Random, so that it stays as large.
        let random = |n: u32| Hash::of(&n.to_le_bytes()).0;
        let raw: Vec<u8> = (0..100_000).flat_map(random).collect();

        let objects = written(manifest, &raw).await;
        assert!(objects.len() > 2, "{} objects", objects.len());
        let mut read = Vec::new();
        for object in &objects {
            let key = lineage.base_object(&id, &object.object);
            let stored = store.get(&key, Range::All).await.expect("stored");
            let (mut at, begin) = (0, read.len());
            while let Some(span) = first_frame(&stored[at..]).expect("a frame") {
                read.extend(decompress(&stored[at..at + span.len]).expect("decompresses"));
                at += span.len;
                if at == stored.len() {
                    break;
                }
            }
            assert_eq!(object.bytes, stored.len() as u64);
            assert_eq!(object.raw_bytes, (read.len() - begin) as u64);
            assert_eq!(object.hash, Hash::of(&read[begin..]));
        }
        assert!(read == raw, "{} bytes came back as {}", raw.len(), read.len());
    }

    async fn written(mut manifest: Manifest, raw: &[u8]) -> Vec<ObjectRef> {
        for piece in raw.chunks(70_001) {
            manifest.push(piece).await.expect("taken");
        }
        manifest.finish().await.expect("stored")
    }
}
