//! What a record says of transactions and of the log itself: ends of transactions with their times,
//! restore points, checkpoints, ends of recovery, changed parameters.
//!
//! In: a record with its main data. Out: its meaning; `None` for all other records and for data
//! that does not fit. Sources: src/include/access/xact.h, `ParseCommitRecord` in
//! src/backend/access/rmgrdesc/xactdesc.c, src/include/access/xlog_internal.h,
//! src/include/catalog/pg_control.h; 14 to 18 differ only where a magic is compared.

use super::lsn::{Lsn, Timeline};
use super::page::{le32, le64};
use super::record::{self, RM_XACT, RM_XLOG, Record};
use crate::timestamp::Timestamp;

/// `XLOG_PAGE_MAGIC` of 15: dropped statistics came with it.
const MAGIC_15: u16 = 0xD110;
/// `XLOG_PAGE_MAGIC` of 18: a dropped statistics item grew from 12 to 16 bytes.
const MAGIC_18: u16 = 0xD118;

/// What a record means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    Transaction(Transaction),
    Prepare(Prepare),
    RestorePoint { time: Timestamp, name: String },
    EndOfRecovery { time: Timestamp, timeline: Timeline, previous: Timeline },
    Checkpoint(Checkpoint),
    Parameters(Parameters),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Commit,
    Abort,
    CommitPrepared,
    AbortPrepared,
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub end: End,
    pub time: Timestamp,
    /// The transaction itself: of a prepared one not the record's own xid, which is 0. `None` when
    /// it stands in a part of the record that was not kept.
    pub xid: Option<u32>,
    pub subtransactions: u32,
    /// Files that are removed with it: drops and truncates.
    pub dropped_relations: u32,
    /// Caches are invalidated: DDL.
    pub has_invalidations: bool,
    /// Of a prepared transaction, with `wal_level = logical` only.
    pub gid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    pub time: Timestamp,
    pub xid: u32,
    pub gid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    pub redo: Lsn,
    pub timeline: Timeline,
    pub previous_timeline: Timeline,
    /// With its upper half, which counts the wraparounds of `xid`.
    pub next_xid: u64,
    pub shutdown: bool,
}

/// The settings that a hot standby must at least have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
    pub wal_level: u32,
}

impl End {
    pub const fn is_commit(self) -> bool {
        matches!(self, Self::Commit | Self::CommitPrepared)
    }
}

/// The meaning of `record`, where it has one for us.
pub fn decode(record: &Record<'_>) -> Option<Meaning> {
    match record.rmid {
        RM_XACT => decode_transaction(record),
        RM_XLOG => decode_log(record),
        _ => None,
    }
}

fn decode_log(record: &Record<'_>) -> Option<Meaning> {
    let data = record.main_data;
    match record.kind() {
        record::XLOG_RESTORE_POINT => {
            let name = data.get(8..)?;
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            Some(Meaning::RestorePoint { time: time(data, 0), name })
        }
        record::XLOG_END_OF_RECOVERY => {
            data.get(..16)?;
            Some(Meaning::EndOfRecovery {
                time: time(data, 0),
                timeline: Timeline(le32(data, 8)),
                previous: Timeline(le32(data, 12)),
            })
        }
        kind @ (record::XLOG_CHECKPOINT_SHUTDOWN | record::XLOG_CHECKPOINT_ONLINE) => {
            data.get(..32)?;
            Some(Meaning::Checkpoint(Checkpoint {
                redo: Lsn(le64(data, 0)),
                timeline: Timeline(le32(data, 8)),
                previous_timeline: Timeline(le32(data, 12)),
                next_xid: le64(data, 24),
                shutdown: kind == record::XLOG_CHECKPOINT_SHUTDOWN,
            }))
        }
        record::XLOG_PARAMETER_CHANGE => {
            data.get(..24)?;
            Some(Meaning::Parameters(Parameters {
                max_connections: le32(data, 0),
                max_worker_processes: le32(data, 4),
                max_wal_senders: le32(data, 8),
                max_prepared_transactions: le32(data, 12),
                max_locks_per_transaction: le32(data, 16),
                wal_level: le32(data, 20),
            }))
        }
        _ => None,
    }
}

fn decode_transaction(record: &Record<'_>) -> Option<Meaning> {
    // XLOG_XACT_OPMASK
    let end = match record.info & 0x70 {
        0x00 => End::Commit,
        0x20 => End::Abort,
        0x30 => End::CommitPrepared,
        0x40 => End::AbortPrepared,
        0x10 => return decode_prepare(record),
        _ => return None,
    };
    record.main_data.get(..8)?;
    let prepared = matches!(end, End::CommitPrepared | End::AbortPrepared);
    let mut transaction = Transaction {
        end,
        time: time(record.main_data, 0),
        xid: (!prepared).then_some(record.xid),
        subtransactions: 0,
        dropped_relations: 0,
        has_invalidations: false,
        gid: None,
    };
    // XLOG_XACT_HAS_INFO
    if record.info & 0x80 != 0 {
        let whole = read_info(&mut transaction, record).is_some();
        if !whole && !record.cut {
            return None;
        }
    }
    Some(Meaning::Transaction(transaction))
}

/// The optional parts, in the order that xact.h gives; `None` where the data ends too soon.
fn read_info(transaction: &mut Transaction, record: &Record<'_>) -> Option<()> {
    let mut rest = record.main_data.get(8..)?;
    let info = take_u32(&mut rest)?;
    let has = |bit: u32| info & 1 << bit != 0;
    transaction.has_invalidations = has(3);
    if has(0) {
        skip(&mut rest, 1, 8)?;
    }
    if has(1) {
        transaction.subtransactions = take_u32(&mut rest)?;
        skip(&mut rest, transaction.subtransactions, 4)?;
    }
    if has(2) {
        transaction.dropped_relations = take_u32(&mut rest)?;
        skip(&mut rest, transaction.dropped_relations, 12)?;
    }
    if has(8) {
        let items = take_u32(&mut rest)?;
        skip(&mut rest, items, if record.magic < MAGIC_18 { 12 } else { 16 })?;
    }
    if has(3) {
        let messages = take_u32(&mut rest)?;
        skip(&mut rest, messages, 16)?;
    }
    if has(4) {
        transaction.xid = Some(take_u32(&mut rest)?);
    }
    if has(7) {
        let gid = rest.split(|b| *b == 0).next()?;
        transaction.gid = Some(String::from_utf8_lossy(gid).into_owned());
    }
    Some(())
}

/// `xl_xact_prepare`
fn decode_prepare(record: &Record<'_>) -> Option<Meaning> {
    let data = record.main_data;
    let (gid_len, gid_at) = if record.magic < MAGIC_15 { (46, 64) } else { (54, 72) };
    let length = usize::from(u16::from_le_bytes(*data.get(gid_len..)?.first_chunk()?));
    let gid = data.get(gid_at..gid_at + length)?.split(|b| *b == 0).next()?;
    let gid = String::from_utf8_lossy(gid).into_owned();
    Some(Meaning::Prepare(Prepare { time: time(data, 16), xid: le32(data, 8), gid }))
}

fn time(data: &[u8], at: usize) -> Timestamp {
    Timestamp::from_postgres(le64(data, at).cast_signed())
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_le_bytes(*head))
}

fn skip(rest: &mut &[u8], count: u32, size: usize) -> Option<()> {
    let bytes = usize::try_from(count).ok()?.checked_mul(size)?;
    *rest = rest.get(bytes..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(info: u8, magic: u16, main_data: &[u8]) -> Record<'_> {
        Record {
            start: Lsn(0),
            end: Lsn(0),
            xid: 0,
            prev: Lsn(0),
            rmid: RM_XACT,
            info,
            total_len: 0,
            crc_ok: true,
            magic,
            main_data,
            cut: false,
        }
    }

    fn prepared_commit(stats_item: usize) -> Vec<u8> {
        let mut data = 0_i64.to_le_bytes().to_vec();
        data.extend((1_u32 << 1 | 1 << 2 | 1 << 4 | 1 << 7 | 1 << 8).to_le_bytes());
        data.extend(2_u32.to_le_bytes());
        data.extend([0; 8]);
        data.extend(1_u32.to_le_bytes());
        data.extend([0; 12]);
        data.extend(1_u32.to_le_bytes());
        data.extend(vec![0; stats_item]);
        data.extend(4711_u32.to_le_bytes());
        data.extend(b"a gid\0");
        data
    }

    #[test]
    fn a_prepared_transaction_is_named_by_its_own_xid_in_every_layout() {
        for (magic, stats_item) in [(0xD110, 12), (0xD116, 12), (0xD118, 16), (0xD121, 16)] {
            let data = prepared_commit(stats_item);
            let Some(Meaning::Transaction(found)) = decode(&record(0xB0, magic, &data)) else {
                panic!("no transaction in layout {magic:x}");
            };
            assert_eq!((found.xid, found.end), (Some(4711), End::CommitPrepared));
            assert_eq!((found.subtransactions, found.dropped_relations), (2, 1));
            assert_eq!(found.gid.as_deref(), Some("a gid"));
        }
    }

    #[test]
    fn a_record_that_ends_too_soon_means_nothing() {
        let data = prepared_commit(12);
        for length in 0..data.len() - 6 {
            assert_eq!(decode(&record(0xB0, 0xD110, &data[..length])), None, "{length}");
        }
    }

    #[test]
    fn a_record_that_was_not_kept_whole_still_has_its_time() {
        let data = prepared_commit(12);
        let cut = Record { cut: true, ..record(0xB0, 0xD110, &data[..20]) };
        let Some(Meaning::Transaction(found)) = decode(&cut) else { panic!("no transaction") };
        assert_eq!((found.time, found.xid), (Timestamp::from_postgres(0), None));
    }
}
