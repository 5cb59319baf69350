//! Each kind of damage is found, and nothing else is.

use super::{Finding, Kind, Options, Progress, verify};
use crate::fixture::{Archive, EPOCH, LINEAGE, ONE, sealed, size, whole};
use proto::archive::layout::SegmentName;
use proto::postgres::lsn::{Lsn, SegmentId};
use proto::segment::Hash;

const BASE: &str = "20261120T140016Z";

fn name(number: u64) -> String {
    SegmentId { timeline: ONE, number }.name(size())
}

async fn findings(archive: &Archive, read_data: bool) -> Vec<Finding> {
    let catalog = archive.catalog().await;
    let progress = Progress::default();
    let report = verify(&catalog, Options { read_data }, &progress).await.expect("the store works");
    report.findings
}

fn told(findings: &[Finding]) -> Vec<(Kind, &str)> {
    findings.iter().map(|finding| (finding.kind, finding.key.as_str())).collect()
}

#[tokio::test]
async fn a_whole_archive_has_no_findings() {
    let (archive, _) = whole().await;
    for read_data in [false, true] {
        assert_eq!(findings(&archive, read_data).await, []);
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_segment_is_found_when_its_bytes_are_read() {
    let (archive, _) = whole().await;
    archive.damage(&sealed(3), 40);
    assert_eq!(findings(&archive, false).await, [], "the footer is whole");
    let found = findings(&archive, true).await;
    assert_eq!(told(&found), [(Kind::Damaged, sealed(3).as_str())]);
    // The key stands in front of it.
    assert!(found[0].found.starts_with("it is not readable: "), "{found:?}");
}

#[tokio::test]
async fn a_flipped_byte_in_a_footer_is_found_by_the_quick_pass() {
    let (archive, _) = whole().await;
    let len = std::fs::metadata(archive.file(&sealed(3))).expect("it is there").len();
    archive.damage(&sealed(3), usize::try_from(len).expect("small") - 60);
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Damaged, sealed(3).as_str())]);
}

#[tokio::test]
async fn a_missing_segment_is_found_unless_the_ledger_names_the_gap() {
    let (archive, _) = whole().await;
    archive.remove(&sealed(4));
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Missing, sealed(4).as_str())]);
    archive.gap(Lsn(size().start_of(4).0 + 99), size().start_of(5)).await;
    assert_eq!(findings(&archive, false).await, []);
}

#[tokio::test]
async fn a_base_whose_log_has_a_hole_is_unusable() {
    let (archive, wal) = whole().await;
    let id = "20261120T150000Z";
    archive.base(id, size().start_of(3), wal.position(), crate::fixture::at(100)).await;
    archive.remove(&sealed(4));
    let found = findings(&archive, false).await;
    let complete = LINEAGE.base_complete(id);
    let sealed = sealed(4);
    let expected = [(Kind::Unusable, complete.as_str()), (Kind::Missing, sealed.as_str())];
    assert_eq!(told(&found), expected);
}

#[tokio::test]
async fn a_missing_and_a_short_base_part_are_found() {
    let (archive, _) = whole().await;
    let part = LINEAGE.base_object(BASE, "base.tar.zst.000001");
    let bytes = std::fs::read(archive.file(&part)).expect("it is there");
    archive.remove(&part);
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Missing, part.as_str())]);
    archive.put(&part, bytes[1..].to_vec()).await;
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Damaged, part.as_str())]);
}

#[tokio::test]
async fn a_flipped_byte_in_a_base_part_is_found_when_its_bytes_are_read() {
    let (archive, _) = whole().await;
    let part = LINEAGE.base_object(BASE, "base.tar.zst.000001");
    archive.damage(&part, 12);
    assert_eq!(findings(&archive, false).await, []);
    let found = findings(&archive, true).await;
    assert_eq!(told(&found), [(Kind::Damaged, part.as_str())]);
}

#[tokio::test]
async fn a_segment_that_does_not_continue_the_one_before_it_is_found() {
    let (archive, wal) = whole().await;
    archive.remove(&sealed(4));
    let id = SegmentId { timeline: ONE, number: 4 };
    archive.seal(id, wal.segment(4), Hash::of(b"another life")).await;
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Broken, sealed(4).as_str())]);
}

#[tokio::test]
async fn a_damaged_tail_is_found() {
    let (archive, _) = whole().await;
    // The frame of the second tail, behind its header.
    archive.damage(&LINEAGE.tail(&name(6), 1), 245);
    for read_data in [false, true] {
        let found = findings(&archive, read_data).await;
        assert_eq!(told(&found), [(Kind::Damaged, LINEAGE.tail(&name(6), 1).as_str())]);
    }
}

#[tokio::test]
async fn a_missing_tail_breaks_the_chain() {
    let (archive, _) = whole().await;
    archive.remove(&LINEAGE.tail(&name(6), 0));
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Damaged, LINEAGE.tail(&name(6), 1).as_str())]);
}

#[tokio::test]
async fn a_damaged_index_is_found() {
    let (archive, _) = whole().await;
    let segment = SegmentName { epoch: EPOCH, group: String::new(), name: name(3) };
    archive.put(&LINEAGE.index(&segment, 1), b"nonsense".to_vec()).await;
    let found = findings(&archive, false).await;
    assert_eq!(told(&found), [(Kind::Index, LINEAGE.index(&segment, 1).as_str())]);
}

#[tokio::test]
async fn a_timeline_that_does_not_begin_with_its_parent_s_bytes_is_found() {
    use crate::fixture::{Wal, at};
    use proto::postgres::lsn::Timeline;
    for honest in [true, false] {
        let archive = Archive::begun(2).await;
        let mut parent = Wal::new(ONE, 2);
        parent.commit(100, at(10));
        let branch = parent.position();
        let mut child = parent.branch(Timeline(2), branch);
        if !honest {
            child = Wal::new(Timeline(2), 2);
            child.commit(100, at(11));
        }
        child.commit(101, at(20));
        let id = |timeline| SegmentId { timeline, number: 2 };
        archive.seal(id(ONE), parent.segment(2), Hash::NONE).await;
        let reason = "no recovery target specified";
        archive.history(Timeline(2), &format!("1\t{branch}\t{reason}\n")).await;
        archive.tails(id(Timeline(2)), &[child.segment(2)], Hash::NONE, None).await;
        let found = findings(&archive, true).await;
        let chain = LINEAGE.chain(&id(Timeline(2)).name(size()));
        let expected: &[(Kind, &str)] = if honest { &[] } else { &[(Kind::Broken, &chain)] };
        assert_eq!(told(&found), expected);
    }
}
