//! The oplog as an archive holds it, decoded with the `zstd` program alone: sealed segments in the
//! order of their names, then the tails of the one that is open, and compared with the servers' own.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bson::RawDocumentBuf;
use proto::archive::layout::{Lineage, mongodb_segment_of};
use proto::archive::{chain, ends};
use proto::mongodb::{Documents, OplogTs};
use proto::position::Offset;
use proto::segment::{Hash, read_sealed};
use proto::store::{Range, Store, list_all};

use super::Node;
use crate::archive::Archive;

/// Every entry of the newest lineage, oldest first.
#[derive(Debug)]
pub struct ArchivedOplog {
    pub entries: Vec<RawDocumentBuf>,
    /// How many sealed segments there are.
    pub sealed: usize,
    /// Where the log goes on behind something that is lost.
    pub gaps: usize,
    /// The hash of everything.
    pub hash: Hash,
}

impl ArchivedOplog {
    /// Reads all of it. While a writer is busy the log may go on growing: what was listed is read.
    pub fn of(archive: &Archive) -> Result<Self> {
        archive.ask(async |store| {
            let lineage = *ends::lineages(store).await?.last().context("no lineage")?;
            read(store, lineage).await
        })
    }

    /// The newest entry's timestamp.
    pub fn last(&self) -> Option<OplogTs> {
        self.entries.last().and_then(|entry| entry.get_timestamp("ts").ok()).map(OplogTs::from)
    }

    /// Fails unless it is what this member has, byte for byte, from the first entry to the last.
    /// Gives a line that says what was compared.
    pub fn assert_is_of(&self, node: &Node) -> Result<String> {
        let first = self.entries.first().context("the archive holds no entry")?;
        let last = self.last().context("it has a last entry")?;
        let mut own = node.oplog(first.get_timestamp("ts")?)?;
        own.retain(|entry| entry.get_timestamp("ts").is_ok_and(|ts| OplogTs::from(ts) <= last));
        let differs = own.iter().zip(&self.entries).position(|(own, archived)| own != archived);
        ensure!(differs.is_none(), "entry {differs:?} of {} differs", own.len());
        let (count, bytes) = (self.entries.len(), self.bytes());
        ensure!(own.len() == count, "{count} entries, and the server has {}", own.len());
        let hash = hash(&own);
        ensure!(hash == self.hash, "{} and {hash}", self.hash);
        Ok(format!("{count} entries, {bytes} bytes, {} sealed segments, {hash}", self.sealed))
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.as_bytes().len()).sum()
    }
}

fn hash(entries: &[RawDocumentBuf]) -> Hash {
    Hash::of(&entries.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect::<Vec<u8>>())
}

async fn read(store: &dyn Store, lineage: Lineage) -> Result<ArchivedOplog> {
    // Tails first: one that vanishes meanwhile stands in a sealed segment that is seen then.
    let tails = store.folders(&lineage.tails()).await?;
    let (mut raw, mut next, mut previous) = (Vec::new(), Offset(0), Hash::NONE);
    let (mut names, mut gaps) = (Vec::new(), 0);
    for object in list_all(store, &lineage.log()).await? {
        let Some((_, false)) = mongodb_segment_of(object.key.name()) else { continue };
        let bytes = store.get(&object.key, Range::All).await?;
        let piece = unzstd(&bytes)?;
        let (footer, same) = read_sealed(&bytes).with_context(|| object.key.to_string())?;
        ensure!(piece == same, "{}: zstd reads something else", object.key);
        if footer.head.start == next {
            ensure!(footer.head.previous == previous, "{} follows another", object.key);
        } else {
            ensure!(footer.head.start > next, "{} begins before {next:?}", object.key);
            gaps += 1;
        }
        next = Offset(footer.head.start.0 + piece.len() as u64);
        previous = footer.hash;
        names.push(object.key.name().trim_end_matches(".zst").to_owned());
        raw.extend(piece);
    }
    let sealed = names.len();
    for name in tails.iter().filter(|name| names.last().is_none_or(|last| *name > last)) {
        let chain = chain::follow(store, lineage, name).await?;
        let Some(first) = chain.links.first() else { continue };
        gaps += usize::from(first.header.head.start != next);
        for link in &chain.links {
            raw.extend(unzstd(&store.get(&link.key, Range::All).await?)?);
        }
        next = Offset(first.header.head.start.0 + chain.raw_len());
    }
    let mut walk = Documents::new(&raw);
    let entries: Result<Vec<_>, _> =
        walk.by_ref().map(|found| found.map(|(_, entry)| entry.to_owned())).collect();
    // A tail may end inside a large entry.
    let whole = raw.len() - walk.rest().len();
    Ok(ArchivedOplog { entries: entries?, sealed, gaps, hash: Hash::of(&raw[..whole]) })
}

/// `zstd -dc`: skips what is no frame of its own, as anybody's zstd does.
fn unzstd(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", "-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = zstd.spawn().context("cannot start zstd")?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    let output = std::thread::scope(|scope| {
        // Apart, so that neither side waits for the other.
        let writer = scope.spawn(move || input.write_all(bytes));
        let output = child.wait_with_output();
        writer.join().expect("no panic")?;
        output
    })?;
    ensure!(output.status.success(), "zstd: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
