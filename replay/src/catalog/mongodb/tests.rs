//! An archive of many small segments over many hours, as a quiet replica set leaves it.

use bson::{DateTime, Timestamp as BsonTs, rawdoc};

use proto::archive::base::Complete;
use proto::archive::identity::{FORMAT_VERSION, Identity, MongoIdentity};
use proto::archive::layout::{OPLOG_EPOCH, SegmentName};
use proto::mongodb::base::MongodbBase;
use proto::mongodb::{OplogTs, SourceMode};
use proto::position::Offset;
use proto::segment::{
    Codec, Engine, Frame, Hash, OpenSegment, RunningHash, SegmentHead, TAIL_HEADER_LEN, TailHeader,
    TailKind,
};
use proto::store::fault::{FaultStore, Op};
use proto::store::{Key, list_all};

use super::{OplogArchive, Stored};
use crate::catalog::index::ROLL_UP;
use crate::find::mongodb::{Request, Target};
use crate::fixture::{Archive, LINEAGE, at};
use crate::plan::mongodb::{OplogPlan, Wanted, make};

/// Two full roll-ups, and some segments behind them.
const SEGMENTS: u64 = 2 * ROLL_UP + 20;
/// From one segment to the next, in seconds: four an hour.
const APART: u64 = 900;
/// What a plan costs, however long the log is: listings, identity, ledger and base, the roll-ups and
/// the indexes behind them twice (to find the moment, and to see that there is no gap before it),
/// and the segments around the moment.
const REQUESTS_MAX: u64 = 80;

/// The first entry of a segment.
fn first(number: u64) -> OplogTs {
    let begin = u64::try_from(at(0).0 / 1_000_000).expect("a time of this century");
    OplogTs((begin + number * APART) << 32 | 1)
}

/// A segment's three entries: an insert, a note and another insert.
fn entries(number: u64) -> Vec<u8> {
    let wall = DateTime::from_millis(at(i64::try_from(number * APART).expect("small")).0 / 1000);
    let time = first(number).seconds();
    let mut raw = Vec::new();
    for increment in 1..=3 {
        let (op, ns, o) = match increment {
            2 => ("n", "", rawdoc! { "msg": format!("note {number}") }),
            _ => ("i", "shop.a", rawdoc! { "_id": i64::try_from(number).expect("small") }),
        };
        let entry = rawdoc! {
            "ts": BsonTs { time, increment }, "t": 1_i64, "op": op, "ns": ns, "o": o, "wall": wall,
        };
        raw.extend_from_slice(entry.as_bytes());
    }
    raw
}

async fn many_segments() -> Archive {
    let archive = Archive::empty().await;
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Mongodb,
        cluster: "0123456789abcdef01234567".to_owned(),
        created: at(0),
        postgres: None,
        mongodb: Some(MongoIdentity {
            version: "6.0.5".to_owned(),
            fcv: "6.0".to_owned(),
            set_name: "rs0".to_owned(),
            first: first(0).at(1),
            source_mode: SourceMode::Oplog,
        }),
    };
    archive.put(&LINEAGE.identity(), identity.encode()).await;
    let (mut start, mut previous) = (0, Hash::NONE);
    for number in 0..SEGMENTS {
        let raw = entries(number);
        let head = SegmentHead {
            engine: Engine::Mongodb,
            lineage: LINEAGE.0,
            epoch: OPLOG_EPOCH,
            number: first(number).0,
            writer: 1,
            start: Offset(start),
            previous,
        };
        let mut open = OpenSegment::new(head);
        let frame = Frame::of(Codec::Lz4, &raw).expect("compresses");
        open.push(frame.entry, &raw);
        let (footer, end) = open.seal(false);
        // Not through the store, which makes each of them durable.
        let file = archive.file(&LINEAGE.sealed(&SegmentName::mongodb(first(number))));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(file, [frame.bytes, end].concat()).expect("written");
        (start, previous) = (start + raw.len() as u64, footer.hash);
    }
    let complete = Complete {
        format: FORMAT_VERSION,
        id: "one".to_owned(),
        engine: Engine::Mongodb,
        label: "test".to_owned(),
        kind: "full".to_owned(),
        started: at(0),
        finished: at(0),
        program: "test".to_owned(),
        raw_bytes: 0,
        stored_bytes: 0,
        postgres: None,
        mongodb: Some(MongodbBase {
            version: "6.0.5".to_owned(),
            feature_version: "6.0".to_owned(),
            set_name: "rs0".to_owned(),
            start: first(0).at(1),
            stop: first(0),
            source_mode: SourceMode::Oplog,
            left_out: Vec::new(),
            collections: Vec::new(),
        }),
        archives: Vec::new(),
        manifest: None,
        manifest_more: Vec::new(),
        config_files: Default::default(),
        damaged: Vec::new(),
    };
    archive.put(&LINEAGE.base_complete("one"), complete.encode()).await;
    archive
}

async fn open(archive: &Archive) -> OplogArchive {
    let read = OplogArchive::read(archive.store.clone(), None).await.expect("readable");
    read.expect("an archive of MongoDB")
}

/// What `pitr plan` does: the plan, and the requests that it took.
async fn plan(archive: &Archive, target: Target) -> (OplogPlan, u64) {
    let (store, calls) = FaultStore::new(archive.store.clone(), 1);
    let read = OplogArchive::read(store, None).await.expect("readable");
    let read = read.expect("an archive of MongoDB");
    let request = Request { target, exclusive: false, candidate: None };
    let wanted = Wanted { request, asked: "a moment".to_owned(), base: None };
    let plan = make(&read, &wanted, at(0)).await.expect("a plan");
    let ops = [Op::Get, Op::Head, Op::List, Op::Folders];
    (plan, ops.into_iter().map(|op| calls.calls(op)).sum())
}

#[tokio::test]
async fn a_plan_of_a_log_of_many_segments_takes_a_bounded_number_of_requests() {
    let archive = many_segments().await;
    let middle = SEGMENTS / 2;
    let time = at(i64::try_from(middle * APART).expect("small") + 1);
    let targets = [
        Target::At(OplogTs(first(middle).0 + 1)),
        Target::Time(time),
        Target::Name(format!("note {middle}")),
        Target::Latest,
    ];
    let mut without = Vec::new();
    for target in &targets {
        let (plan, requests) = plan(&archive, target.clone()).await;
        assert!(requests > middle, "{requests} requests: it is the index that saves them");
        without.push(plan);
    }
    open(&archive).await.reindex(&*archive.store, |_, _| ()).await.expect("writable");
    for (target, expected) in targets.iter().zip(without) {
        let (plan, requests) = plan(&archive, target.clone()).await;
        assert_eq!(plan, expected);
        assert!(requests <= REQUESTS_MAX, "{target:?}: {requests} requests");
    }
}

#[tokio::test]
async fn roll_ups_are_made_of_full_runs_and_stand_in_for_the_indexes_in_them() {
    let archive = many_segments().await;
    let reindex = async || {
        let done = open(&archive).await.reindex(&*archive.store, |_, _| ()).await;
        let done = done.expect("writable");
        assert_eq!((done.segments, done.unreadable), (SEGMENTS, Vec::new()));
        (done.made, done.roll_ups)
    };
    assert_eq!(reindex().await, (SEGMENTS, 2));
    assert_eq!(reindex().await, (0, 0), "made a second time");
    let of_all = open(&archive).await.summaries(OplogTs(0)).await.expect("readable");
    assert_eq!(of_all.len() as u64, SEGMENTS);

    // Without the indexes that stand in roll-ups nothing is missing.
    let folder = LINEAGE.index_epoch(OPLOG_EPOCH);
    let listed = list_all(&*archive.store, &folder).await.expect("listed");
    let (roll_ups, singles): (Vec<_>, Vec<_>) = listed
        .into_iter()
        .map(|object| object.key)
        .partition(|key| key.as_str()[folder.len()..].starts_with("roll-up/"));
    for key in &singles[..2 * ROLL_UP as usize] {
        archive.remove(key);
    }
    assert_eq!(open(&archive).await.summaries(OplogTs(0)).await.expect("readable"), of_all);
    let late = first(ROLL_UP + 7);
    let behind = open(&archive).await.summaries(late).await.expect("readable");
    assert!(behind.iter().eq(of_all.range(late..)), "{} summaries", behind.len());

    // Where one is damaged, the indexes and it are made again.
    let [_, second] = &roll_ups[..] else { panic!("{roll_ups:?}") };
    archive.damage(second, 30);
    assert_eq!(reindex().await, (ROLL_UP, 1));
    assert_eq!(open(&archive).await.summaries(OplogTs(0)).await.expect("readable"), of_all);
}

/// One entry a tail, behind the last sealed segment.
async fn tails(archive: &Archive) -> Vec<Key> {
    let read = open(archive).await;
    let last = read.segments.last().expect("a segment");
    let before = read.head_of(last).await.expect("readable");
    let (name, raw) = (SegmentName::mongodb(first(SEGMENTS)).name, entries(SEGMENTS));
    let (mut hash, mut keys) = (RunningHash::default(), Vec::new());
    for (seq, piece) in (0..).zip(raw.chunks(raw.len().div_ceil(3))) {
        let (before_piece, raw_start) = (hash.now(), hash.bytes());
        hash.update(piece);
        let header = TailHeader {
            head: SegmentHead {
                engine: Engine::Mongodb,
                lineage: LINEAGE.0,
                epoch: OPLOG_EPOCH,
                number: first(SEGMENTS).0,
                writer: 1,
                start: Offset(before.start.0 + before.raw_len),
                previous: before.hash,
            },
            kind: TailKind::Data,
            first: seq,
            last: seq,
            raw_start,
            raw_len: piece.len() as u64,
            before: before_piece,
            after: hash.now(),
            watermark: None,
        };
        let mut object = header.encode();
        object.extend(Frame::of(Codec::Lz4, piece).expect("compresses").bytes);
        keys.push(LINEAGE.tail(&name, seq));
        archive.put(keys.last().expect("pushed"), object).await;
    }
    keys
}

#[tokio::test]
async fn a_damaged_tail_of_an_oplog_costs_only_what_lies_behind_it_and_is_named() {
    let archive = many_segments().await;
    let keys = tails(&archive).await;
    let held = async || {
        let read = open(&archive).await;
        let Some(Stored::Tails(chain)) = read.segments.last().map(|last| &last.stored) else {
            panic!("{:?}", read.segments.last())
        };
        assert_eq!(read.segments.len() as u64, SEGMENTS + 1);
        (chain.links.len(), read.damage)
    };
    assert_eq!(held().await, (3, Vec::new()));
    // In its header, and behind it.
    let header = usize::try_from(TAIL_HEADER_LEN).expect("small");
    for byte in [50, header + 20] {
        archive.damage(&keys[1], byte);
        let (links, damage) = held().await;
        let [damage] = &damage[..] else { panic!("{damage:?}") };
        assert_eq!((links, &damage.key), (1, &keys[1].to_string()));
        archive.damage(&keys[1], byte);
    }
}
