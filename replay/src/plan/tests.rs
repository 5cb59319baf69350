//! What is planned for small archives, and what is refused.

use super::{Answer, Plan, PlanError, Source, Wanted, make};
use crate::find::{Refusal, Request, Target};
use crate::fixture::{Archive, LINEAGE, ONE, Wal, at, promoted, sealed, size, whole};
use proto::archive::base::DamagedPage;
use proto::postgres::lsn::{Lsn, SegmentId, Timeline};
use proto::segment::Hash;

const BASE: &str = "20261120T140016Z";

fn wanted(target: Target) -> Wanted {
    let request = Request { target, exclusive: false, candidate: None };
    Wanted { asked: request.asked(), request, base: None, timeline: None }
}

async fn plan(archive: &Archive, wanted: &Wanted) -> Result<Plan, PlanError> {
    make(&archive.catalog().await, wanted, at(200)).await
}

async fn refusal(archive: &Archive, target: Target) -> Refusal {
    match plan(archive, &wanted(target)).await {
        Err(PlanError::Refused(refusal)) => *refusal,
        other => panic!("{other:?}"),
    }
}

fn name(number: u64) -> String {
    SegmentId { timeline: ONE, number }.name(size())
}

#[tokio::test]
async fn a_time_between_two_commits_stops_before_the_later_one() {
    let (archive, _) = whole().await;
    let plan = plan(&archive, &wanted(Target::Time(at(45)))).await.expect("a plan");
    assert_eq!(plan.base.id, BASE);
    assert_eq!(plan.target.last_kept.and_then(|commit| commit.xid), Some(104));
    let left = plan.target.first_left_out.expect("the commit of segment 5");
    assert_eq!((left.xid, plan.target.lsn), (Some(105), left.start));
    assert!(!plan.target.inclusive);
    assert_eq!(plan.target.timeline, ONE);
    // Recovery reads the record that is left out.
    let names: Vec<&str> = plan.segments.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, [name(2), name(3), name(4), name(5)]);
    assert!(plan.segments.iter().all(|segment| segment.source == Source::Sealed));
    assert_eq!(plan.settings["max_connections"], 200);
    assert_eq!(plan.settings["max_locks_per_transaction"], 64);
    assert_eq!(plan.fetch.base, 23);
    assert_eq!(Plan::decode(&plan.encode()).expect("its own JSON"), plan);
}

#[tokio::test]
async fn the_latest_moment_ends_with_the_last_record_of_the_open_segment() {
    let (archive, wal) = whole().await;
    let plan = plan(&archive, &wanted(Target::Latest)).await.expect("a plan");
    assert!(plan.target.inclusive);
    assert_eq!(plan.target.record_end, Some(wal.position()));
    assert_eq!(plan.target.last_kept.and_then(|commit| commit.xid), Some(106));
    assert_eq!(plan.end.lsn, wal.position());
    assert_eq!(plan.end.proven, Some(at(118)));
    let last = plan.segments.last().expect("segments");
    assert!(matches!(last.source, Source::Tails { last_seq: 2, objects: 3, .. }), "{last:?}");
}

#[tokio::test]
async fn recovery_is_told_only_what_the_plan_proves() {
    let (archive, _) = whole().await;
    let plan = plan(&archive, &wanted(Target::Time(at(45)))).await.expect("a plan");
    assert!(matches!(plan.answer(&name(3)), Answer::Segment(_)));
    assert_eq!(plan.answer(&name(6)), Answer::Absent, "beyond the target");
    assert_eq!(plan.answer("000000020000000000000003"), Answer::Absent, "another timeline");
    assert_eq!(plan.answer("00000002.history"), Answer::Absent);
    assert_eq!(plan.answer(&name(1)), Answer::Unknown, "before the base");
    assert_eq!(plan.answer("nonsense"), Answer::Unknown);
}

#[tokio::test]
async fn every_kind_of_target_is_resolved() {
    let (archive, mut wal) = whole().await;
    let commit = {
        let plan = plan(&archive, &wanted(Target::Xid(104))).await.expect("a plan");
        assert_eq!(plan.target.last_kept.and_then(|commit| commit.xid), Some(104));
        plan.target.lsn
    };
    let by_lsn = plan(&archive, &wanted(Target::Lsn(commit))).await.expect("a plan");
    assert_eq!(by_lsn.target.lsn, commit);
    let point = wal.restore_point("before the release", at(70));
    wal.commit(107, at(80));
    let archive = Archive::begun(2).await;
    let start = size().start_of(2);
    archive.base(BASE, start, Lsn(start.0 + 80), at(21)).await;
    archive.log(&wal, Hash::NONE).await;
    let target = Target::Name("before the release".to_owned());
    let plan = plan(&archive, &wanted(target)).await.expect("a plan");
    assert_eq!(plan.target.lsn, point.start);
    assert_eq!(plan.target.first_left_out.and_then(|commit| commit.xid), Some(107));
}

#[tokio::test]
async fn moments_outside_the_window_are_refused_with_the_nearest() {
    let (archive, _) = whole().await;
    let early = refusal(&archive, Target::Time(at(5))).await;
    assert!(matches!(early, Refusal::TooEarly { .. }), "{early}");
    let late = refusal(&archive, Target::Time(at(119))).await;
    assert!(matches!(late, Refusal::TooLate { .. }), "{late}");
    let unknown = refusal(&archive, Target::Xid(4711)).await;
    assert!(matches!(unknown, Refusal::UnknownXid { .. }), "{unknown}");
    archive.remove(&sealed(4));
    archive.gap(size().start_of(4), size().start_of(5)).await;
    for lost in [at(35), at(45), at(55)] {
        let refusal = refusal(&archive, Target::Time(lost)).await;
        let told = matches!(refusal, Refusal::InGap { .. } | Refusal::BehindGap { .. });
        assert!(told, "{lost}: {refusal}");
    }
}

#[tokio::test]
async fn the_nearest_base_is_taken_unless_another_is_asked_for() {
    let (archive, _) = whole().await;
    let later = "20261120T140031Z";
    let start = size().start_of(3);
    archive.base(later, start, Lsn(start.0 + 80), at(31)).await;
    let mut ask = wanted(Target::Time(at(45)));
    let chosen = plan(&archive, &ask).await.expect("a plan");
    assert_eq!((chosen.base.id.as_str(), chosen.segments.len()), (later, 3));
    ask.base = Some(BASE.to_owned());
    let chosen = plan(&archive, &ask).await.expect("a plan");
    assert_eq!((chosen.base.id.as_str(), chosen.segments.len()), (BASE, 4));

    let mut early = wanted(Target::Time(at(25)));
    early.base = Some(later.to_owned());
    let error = plan(&archive, &early).await.expect_err("the base is later");
    assert!(matches!(error, PlanError::BaseRefused { .. }), "{error}");
    early.base = Some("20200101T000000Z".to_owned());
    let error = plan(&archive, &early).await.expect_err("there is none");
    assert!(matches!(error, PlanError::NoSuchBase { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_base_is_taken_only_when_it_is_asked_for() {
    let archive = Archive::begun(2).await;
    let mut wal = Wal::new(ONE, 2);
    wal.commit(100, at(10));
    let stop = wal.position();
    wal.commit(101, at(30));
    archive.log(&wal, Hash::NONE).await;
    let page =
        DamagedPage { file: "base/5/16384".to_owned(), block: Some(3), detail: String::new() };
    let damage = |complete: &mut proto::archive::base::Complete| complete.damaged.push(page);
    archive.base_with(BASE, size().start_of(2), stop, at(21), damage).await;
    let mut ask = wanted(Target::Latest);
    let error = plan(&archive, &ask).await.expect_err("damaged");
    assert!(matches!(error, PlanError::OnlyDamaged { .. }), "{error}");
    ask.base = Some(BASE.to_owned());
    let plan = plan(&archive, &ask).await.expect("on one's own risk");
    assert!(plan.base.damaged);
    assert!(plan.warnings.iter().any(|warning| warning.contains("checksums")), "{plan:?}");
}

#[tokio::test]
async fn a_plan_across_a_promotion_names_the_timelines_numerically() {
    let (archive, _, _) = promoted(BASE).await;
    let newest = plan(&archive, &wanted(Target::Latest)).await.expect("a plan");
    assert_eq!(newest.target.timeline, Timeline(2));
    assert_eq!(newest.target.last_kept.and_then(|commit| commit.xid), Some(103));
    assert_eq!(newest.histories, [Timeline(2)]);
    let names: Vec<&str> = newest.segments.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, [name(2).as_str(), "000000020000000000000003"]);
    assert_eq!(newest.answer("00000002.history"), Answer::History(Timeline(2)));
    assert_eq!(newest.answer(&name(3)), Answer::Absent, "the child's is served");
    // What the promotion cut off is still there for who asks for its timeline.
    let mut old = wanted(Target::Latest);
    old.timeline = Some(ONE);
    let plan = plan(&archive, &old).await.expect("a plan");
    assert_eq!(plan.target.last_kept.and_then(|commit| commit.xid), Some(102));
    assert_eq!((plan.target.timeline, plan.histories.len()), (ONE, 0));
}

#[tokio::test]
async fn a_damaged_segment_is_refused_with_what_can_be_restored_around_it() {
    let (archive, _) = whole().await;
    // Its bytes: found by decoding, for there is no index.
    archive.damage(&sealed(4), 40);
    let middle = refusal(&archive, Target::Time(at(45))).await;
    let told = matches!(middle, Refusal::InGap { .. } | Refusal::BehindGap { .. });
    assert!(told && middle.to_string().contains("CRC"), "{middle}");
    let before = plan(&archive, &wanted(Target::Time(at(25)))).await.expect("it stands before");
    assert_eq!(before.target.last_kept.and_then(|commit| commit.xid), Some(102));
    // Behind a base that was taken since then everything can be restored again.
    let start = size().start_of(5);
    archive.base("20261120T140051Z", start, Lsn(start.0 + 80), at(51)).await;
    let behind = plan(&archive, &wanted(Target::Latest)).await.expect("a later base");
    assert_eq!(behind.base.id, "20261120T140051Z");
}

#[tokio::test]
async fn the_latest_moment_is_refused_when_the_end_is_damaged() {
    let (archive, _) = whole().await;
    let length = std::fs::metadata(archive.file(&sealed(5))).expect("it is there").len();
    let footer = usize::try_from(length).expect("small") - 60;
    let catalog = archive.catalog().await;
    catalog.reindex(&*archive.store, |_, _| ()).await.expect("writable");
    archive.damage(&sealed(5), footer);
    for target in [Target::Latest, Target::Time(at(55))] {
        let error = plan(&archive, &wanted(target)).await.expect_err("it lies behind the damage");
        let told = match &error {
            PlanError::Damaged { segment, .. } => *segment == name(5),
            PlanError::Refused(reason) => {
                matches!(**reason, Refusal::BehindGap { .. } | Refusal::InGap { .. })
            }
            _ => false,
        };
        assert!(told, "{error:?}");
    }
    let early = plan(&archive, &wanted(Target::Time(at(35)))).await.expect("it stands before");
    assert_eq!(early.target.last_kept.and_then(|commit| commit.xid), Some(103));
}

#[tokio::test]
async fn what_stands_before_a_damaged_tail_is_restored_and_the_latest_moment_is_refused() {
    let (archive, _) = whole().await;
    archive.damage(&LINEAGE.tail(&name(6), 1), 50);
    // Its commit at 60 s stands in the tail before.
    let plan_at = plan(&archive, &wanted(Target::Time(at(55)))).await.expect("a plan");
    assert_eq!(plan_at.target.first_left_out.and_then(|commit| commit.xid), Some(106));
    let last = plan_at.segments.last().expect("segments");
    assert!(matches!(last.source, Source::Tails { raw_bytes: 1000, .. }), "{last:?}");
    let catalog = archive.catalog().await;
    let raw = crate::catalog::read::read_planned(catalog.store().as_ref(), LINEAGE, last, size());
    assert_eq!(raw.await.expect("the good beginning").len(), 1000);
    for target in [Target::Latest, Target::Time(at(110))] {
        let refused = plan(&archive, &wanted(target)).await;
        let Err(PlanError::Damaged { segment, detail, before }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(segment, name(6));
        assert!(detail.contains("00000001.zst"), "{detail}");
        assert!(before.is_some(), "the nearest moment before");
    }
}
