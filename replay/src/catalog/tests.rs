//! What the catalog says of small archives.

use std::sync::{Arc, Mutex};

use super::{Catalog, CatalogError, LogRange, Searching};
use crate::find::{LogView, Request, Target, resolve};
use crate::fixture::{Archive, LINEAGE, ONE, Wal, at, promoted, sealed, size, whole};
use crate::plan::{PlannedSegment, Source};
use proto::archive::layout::SegmentName;
use proto::postgres::lsn::{Lsn, SegmentId, Timeline};
use proto::segment::Hash;
use proto::store::fault::{FaultStore, Op};

fn id(number: u64) -> SegmentId {
    SegmentId { timeline: ONE, number }
}

#[tokio::test]
async fn a_whole_archive_has_one_window_from_its_base_to_its_watermark() {
    let (archive, wal) = whole().await;
    let catalog = archive.catalog().await;
    let path = catalog.path();
    let range = LogRange { from: size().start_of(2), to: wal.position() };
    assert_eq!(catalog.ranges(&path), [range]);
    assert_eq!(catalog.damage, []);
    let windows = catalog.windows(&path).await.expect("readable");
    assert_eq!(windows.len(), 1);
    assert_eq!((windows[0].from, windows[0].to), (at(21), at(118)), "the margin is two seconds");
    assert_eq!(windows[0].to_lsn, wal.position());
    let end = catalog.end_of(&path, range).await.expect("readable");
    assert_eq!(end.last_commit.map(|commit| commit.time), Some(at(60)));
    assert_eq!(end.last_record.map(|span| span.end), Some(wal.position()));
}

#[tokio::test]
async fn a_missing_segment_and_a_recorded_gap_split_the_log() {
    let (archive, wal) = whole().await;
    archive.remove(&sealed(4));
    let gap = Lsn(size().start_of(3).0 + 48);
    archive.gap(gap, Lsn(gap.0 + 50)).await;
    let catalog = archive.catalog().await;
    let start = |number| size().start_of(number);
    let expected = [
        LogRange { from: start(2), to: gap },
        LogRange { from: Lsn(gap.0 + 50), to: start(4) },
        LogRange { from: start(5), to: wal.position() },
    ];
    assert_eq!(catalog.ranges(&catalog.path()), expected);
    let windows = catalog.windows(&catalog.path()).await.expect("readable");
    assert_eq!(windows.len(), 1, "only the range with the base can be restored");
    assert_eq!(windows[0].to, at(21), "the commit before the gap is not whole");
}

#[tokio::test]
async fn a_branch_point_s_segment_comes_from_the_child() {
    let (archive, parent, child) = promoted("20261120T140011Z").await;
    let catalog = archive.catalog().await;
    assert_eq!(catalog.timeline(), Timeline(2));
    let path = catalog.path();
    let owner = |number| catalog.locate(&path, number).map(|located| located.id.timeline);
    assert_eq!((owner(2), owner(3), owner(4)), (Some(ONE), Some(Timeline(2)), None));
    let range = LogRange { from: size().start_of(2), to: child.position() };
    assert_eq!(catalog.ranges(&path), [range]);
    let end = catalog.end_of(&path, range).await.expect("readable");
    assert_eq!(end.last_commit.and_then(|commit| commit.xid), Some(103));
    // What the parent wrote behind the branch is there still, on its own way.
    let old = catalog.path_to(ONE).expect("known");
    assert_eq!(catalog.ranges(&old)[0].to, parent.position());
    let end = catalog.end_of(&old, catalog.ranges(&old)[0]).await.expect("readable");
    assert_eq!(end.last_commit.and_then(|commit| commit.xid), Some(102));
}

#[tokio::test]
async fn a_child_that_has_no_log_yet_takes_the_parent_s_up_to_the_branch() {
    let archive = Archive::begun(2).await;
    let mut parent = Wal::new(ONE, 2);
    parent.commit(100, at(10));
    let branch = parent.position();
    parent.commit(101, at(20));
    archive.log(&parent, Hash::NONE).await;
    archive.history(Timeline(2), &format!("1\t{branch}\tno recovery target specified\n")).await;
    let catalog = archive.catalog().await;
    let range = LogRange { from: size().start_of(2), to: branch };
    assert_eq!(catalog.ranges(&catalog.path()), [range]);
}

#[tokio::test]
async fn an_open_segment_that_was_planned_is_served_the_same_after_it_was_sealed() {
    let (archive, mut wal) = whole().await;
    let catalog = archive.catalog().await;
    let planned = wal.segment(6).to_vec();
    let located = catalog.locate(&catalog.path(), 6).expect("the open segment");
    let source = super::read::source_of(located.stored);
    assert!(matches!(source, Source::Tails { raw_bytes, .. } if raw_bytes == planned.len() as u64));
    let segment = PlannedSegment { name: id(6).name(size()), source, bytes: 0 };

    wal.commit(107, at(130));
    wal.switch();
    let previous = Hash::of(wal.segment(5));
    archive.seal(id(6), wal.segment(6), previous).await;
    for seq in 0..3 {
        archive.remove(&LINEAGE.tail(&segment.name, seq));
    }
    let raw = super::read::read_planned(&*archive.store, LINEAGE, &segment, size())
        .await
        .expect("the sealed segment begins with what was planned");
    assert_eq!(raw, planned);
    // The catalog that saw the tails is as good.
    assert_eq!(catalog.raw(id(6)).await.expect("sealed meanwhile"), planned);
    let padded = catalog.raw_padded(id(6)).await.expect("sealed meanwhile");
    assert_eq!(padded.len() as u64, size().bytes());
    assert!(padded[planned.len()..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn a_damaged_segment_is_never_served() {
    let (archive, _) = whole().await;
    archive.damage(&sealed(3), 40);
    let error = archive.catalog().await.raw(id(3)).await.expect_err("damaged");
    assert!(matches!(error, CatalogError::Segment { .. }), "{error}");
}

#[tokio::test]
async fn a_segment_under_another_s_key_is_never_served() {
    let (archive, _) = whole().await;
    archive.remove(&sealed(4));
    std::fs::copy(archive.file(&sealed(3)), archive.file(&sealed(4))).expect("copied");
    let error = archive.catalog().await.raw(id(4)).await.expect_err("misplaced");
    assert!(matches!(error, CatalogError::Misplaced { field: "segment", .. }), "{error}");
}

#[tokio::test]
async fn a_broken_chain_of_tails_is_named_and_ends_the_log() {
    let (archive, _) = whole().await;
    archive.damage(&LINEAGE.tail(&id(6).name(size()), 0), 50);
    let catalog = archive.catalog().await;
    assert_eq!(catalog.damage.len(), 1);
    assert_eq!(catalog.ranges(&catalog.path())[0].to, size().start_of(6));
}

#[tokio::test]
async fn a_base_without_its_completion_does_not_exist() {
    let (archive, _) = whole().await;
    let key = LINEAGE.base_object("20261120T150000Z", "base.tar.zst.000001");
    archive.put(&key, vec![1]).await;
    let catalog = archive.catalog().await;
    assert_eq!(catalog.bases.len(), 1);
    assert_eq!(catalog.unfinished, ["20261120T150000Z"]);
}

#[tokio::test]
async fn a_timeline_s_partial_last_segment_is_part_of_its_log() {
    let archive = Archive::begun(2).await;
    let mut wal = Wal::new(ONE, 2);
    wal.commit(100, at(10));
    archive.seal(id(2), wal.segment(2), Hash::NONE).await;
    let catalog = archive.catalog().await;
    let range = LogRange { from: size().start_of(2), to: wal.position() };
    assert_eq!(catalog.ranges(&catalog.path()), [range]);
    assert_eq!(catalog.raw(id(2)).await.expect("readable"), wal.segment(2));
    let key = LINEAGE.partial(&SegmentName::postgres(id(2), size()));
    archive.damage(&key, 60);
    assert!(archive.catalog().await.raw(id(2)).await.is_err());
}

#[tokio::test]
async fn a_place_without_an_archive_is_said_to_be_one() {
    let archive = Archive::empty().await;
    let open = super::Catalog::open(archive.path(), None).await;
    assert!(matches!(open, Err(CatalogError::NoArchive { .. })));
    let (archive, _) = whole().await;
    let open = super::Catalog::open(archive.path(), Some(7)).await;
    let Err(CatalogError::NoLineage { found, .. }) = open else { panic!("{open:?}") };
    assert_eq!(found, [1]);
}

#[tokio::test]
async fn indexes_are_made_once_and_answer_as_the_log_does() {
    let (archive, _) = whole().await;
    let catalog = archive.catalog().await;
    let before = catalog.view(catalog.path(), |_| true).await.expect("readable");
    assert!(before.segments().iter().all(|piece| piece.ends.is_none()));
    let done = catalog.reindex(&*archive.store, |_, _| ()).await.expect("writable");
    assert_eq!((done.segments, done.made, done.unreadable.len()), (5, 4, 0));
    let again = catalog.reindex(&*archive.store, |_, _| ()).await.expect("writable");
    assert_eq!(again.made, 0);
    // A damaged one is made again.
    let key = catalog.index_key(id(3));
    archive.damage(&key, 30);
    let again = catalog.reindex(&*archive.store, |_, _| ()).await.expect("writable");
    assert_eq!(again.made, 1);

    let view = catalog.view(catalog.path(), |_| true).await.expect("readable");
    for piece in view.segments() {
        let events = view.events(piece).await.expect("readable");
        assert_eq!(events.len(), 1, "a commit a segment");
        let indexed = piece.ends.map(|ends| ends.commits);
        assert_eq!(indexed, (piece.number < 6).then_some(1), "the open one has no index");
    }
}

#[tokio::test]
async fn an_event_that_spans_segments_belongs_to_the_one_in_which_it_ends() {
    let archive = Archive::begun(2).await;
    let mut wal = Wal::new(ONE, 2);
    wal.commit(100, at(10));
    let stop = wal.position();
    // A record over three segments, and a commit over the next boundary.
    wal.noise(2_300_000);
    let room = size().start_of(5).since(wal.position()).0;
    wal.noise(usize::try_from(room).expect("small") - 3200);
    let short = size().start_of(5).since(wal.position()).0;
    assert!((40..8000).contains(&short), "{short} bytes are left");
    wal.noise(usize::try_from(short).expect("small") - 24 - 24 - 8);
    let commit = wal.commit(101, at(20));
    assert!(commit.start < size().start_of(5) && commit.end > size().start_of(5), "{commit:?}");
    wal.commit(102, at(30));
    archive.log(&wal, Hash::NONE).await;
    archive.base("20261120T140011Z", size().start_of(2), stop, at(11)).await;
    for indexed in [false, true] {
        let catalog = archive.catalog().await;
        if indexed {
            catalog.reindex(&*archive.store, |_, _| ()).await.expect("writable");
        }
        let view = catalog.view(catalog.path(), |_| true).await.expect("readable");
        let mut counts = Vec::new();
        for piece in view.segments() {
            counts.push(view.events(piece).await.expect("readable").len());
        }
        assert_eq!(counts, [1, 0, 0, 2], "indexed: {indexed}");
        let record = view.record_from(commit.start).await.expect("readable");
        assert_eq!(record, Some(commit));
        // The long one begins in the first segment and ends in the third.
        let long = view.record_from(stop).await.expect("readable").expect("it is whole");
        assert!(long.end > size().start_of(4), "{long:?}");
    }
}

#[tokio::test]
async fn a_damaged_ledger_entry_is_named_and_keeps_nobody_from_restoring() {
    let (archive, _) = whole().await;
    archive.gap(size().start_of(9), size().start_of(10)).await;
    archive.put(&LINEAGE.ledger_entry(3), b"{".to_vec()).await;
    let catalog = archive.catalog().await;
    assert_eq!(catalog.damage.len(), 1);
    assert_eq!(catalog.gaps().len(), 1);
    assert_eq!(catalog.windows(&catalog.path()).await.expect("readable").len(), 1);
}

#[tokio::test]
async fn the_log_of_a_real_server_ends_with_its_last_record() {
    let capture = "000000010000000000000006.wal.zst";
    let path = format!("{}/../testdata/wal/15/{capture}", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::File::open(path).expect("the capture is part of the source");
    let raw = zstd::decode_all(file).expect("zstd");
    let archive = Archive::begun(6).await;
    let mut previous = Hash::NONE;
    let pieces: Vec<&[u8]> = raw.chunks(1 << 20).collect();
    for (number, piece) in (6..).zip(&pieces[..pieces.len() - 1]) {
        previous = archive.seal(id(number), piece, previous).await;
    }
    let open = id(5 + pieces.len() as u64);
    let last = pieces[pieces.len() - 1];
    // As much as was streamed: up to the end of the last record.
    let end = Lsn(0x90_0110);
    let held = usize::try_from(end.since(open.start(size())).0).expect("small");
    archive
        .tails(open, &[&last[..held / 16 * 8], &last[held / 16 * 8..held]], previous, None)
        .await;
    let catalog = archive.catalog().await;
    let ranges = catalog.ranges(&catalog.path());
    assert_eq!(ranges, [LogRange { from: size().start_of(6), to: end }]);
    let found = catalog.end_of(&catalog.path(), ranges[0]).await.expect("readable");
    assert_eq!(found.last_record.map(|record| record.end), Some(end));
    assert_eq!(found.last_commit.map(|commit| commit.end), Some(end));
}

/// The chain of a slow database's open segment: `count` tails of a few bytes, and a watermark.
async fn many_tails(count: usize) -> (Archive, Wal) {
    let archive = Archive::begun(2).await;
    let mut wal = Wal::new(ONE, 2);
    let start = wal.position();
    wal.commit(100, at(10));
    let stop = wal.position();
    wal.noise(60_000);
    wal.commit(101, at(20));
    archive.base("20261120T140011Z", start, stop, at(11)).await;
    let raw = wal.segment(2).to_vec();
    let pieces: Vec<&[u8]> = raw.chunks(raw.len().div_ceil(count)).collect();
    assert_eq!(pieces.len(), count);
    archive.tails(id(2), &pieces, Hash::NONE, Some(at(120))).await;
    (archive, wal)
}

#[tokio::test]
async fn an_archive_is_opened_with_one_request_for_each_object_of_its_open_chain() {
    let count = 200;
    let (archive, wal) = many_tails(count).await;
    let (store, calls) = FaultStore::new(archive.store.clone(), 1);
    let catalog = Catalog::read(store, None).await.expect("an archive");
    let path = catalog.path();
    let windows = catalog.windows(&path).await.expect("readable");
    assert_eq!((windows[0].to, windows[0].to_lsn), (at(118), wal.position()));
    let end = catalog.end_of(&path, catalog.ranges(&path)[0]).await.expect("readable");
    assert_eq!(end.last_commit.map(|commit| commit.time), Some(at(20)));
    // The tails and the watermark; identity and base.
    assert_eq!(calls.calls(Op::Get), count as u64 + 1 + 2);
}

#[tokio::test]
async fn a_damaged_tail_costs_only_what_lies_behind_it_and_is_named() {
    let header = usize::try_from(proto::segment::TAIL_HEADER_LEN).expect("small");
    // In its header, and behind it.
    for byte in [50, header + 20] {
        let (archive, mut wal) = many_tails(20).await;
        let harmed = LINEAGE.tail(&id(2).name(size()), 7);
        archive.damage(&harmed, byte);
        let catalog = archive.catalog().await;
        let [damage] = &catalog.damage[..] else { panic!("{:?}", catalog.damage) };
        assert_eq!(damage.key, harmed.to_string());
        let good = catalog.raw(id(2)).await.expect("what stands before it");
        let whole = wal.segment(2);
        assert_eq!(good.len(), whole.len().div_ceil(20) * 7);
        assert_eq!(good, whole[..good.len()]);
        let path = catalog.path();
        let windows = catalog.windows(&path).await.expect("readable");
        assert_eq!(windows[0].to_lsn, Lsn(size().start_of(2).0 + good.len() as u64));
        wal.switch();
    }
}

#[tokio::test]
async fn the_watermark_of_a_sealed_segment_is_found_in_its_newest_tails() {
    let (archive, mut wal) = many_tails(100).await;
    wal.switch();
    archive.seal(id(2), wal.segment(2), Hash::NONE).await;
    let (store, calls) = FaultStore::new(archive.store.clone(), 1);
    let catalog = Catalog::read(store, None).await.expect("an archive");
    assert_eq!(catalog.logs[&ONE].watermark.map(|mark| mark.clock), Some(at(120)));
    assert!(calls.calls(Op::Get) <= 2 + 8, "{} reads", calls.calls(Op::Get));
}

#[tokio::test]
async fn what_a_search_reads_for_want_of_an_index_is_told_and_read_for_its_times_once() {
    let (archive, _) = whole().await;
    let mut catalog = archive.catalog().await;
    let told: Arc<Mutex<Vec<Searching>>> = Arc::default();
    let heard = told.clone();
    catalog.on_search(move |search| heard.lock().expect("no holder panics").push(search));
    let target = Target::Time(at(35));
    let request = Request { target, exclusive: false, candidate: None };
    for round in 0..2 {
        let view = catalog.view(catalog.path(), |_| true).await.expect("readable");
        let known = view.segments().iter().filter(|piece| piece.ends.is_some()).count();
        assert_eq!(known, if round == 0 { 0 } else { 5 }, "round {round}");
        resolve(&view, &request).await.expect("restorable");
    }
    let told = told.lock().expect("no holder panics");
    assert_eq!(told.len(), 5, "each once: {told:?}");
    assert!(told.iter().all(|search| (search.unindexed, search.segments) == (5, 5)));
    let last = told.last().expect("told");
    assert_eq!(last.done, last.total);
}
