//! TIMELINE_HISTORY, and the file of a backup's label.
#![no_main]

use archiver::base::label::BackupLabel;
use fuzz::{Input, seeds};
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, Timeline};

fn seeds() -> Vec<seeds::Seed> {
    let with = |timeline: u8, text: &str| [&[timeline, 0][..], text.as_bytes()].concat();
    vec![
        seeds::seed(
            "third",
            with(
                3,
                "1\t0/3000148\tno recovery target specified\n# a comment\n\n2\t1/A0000000\tbefore 2026-11-20 14:20:00+00\n",
            ),
        ),
        seeds::seed("first", with(1, "")),
        seeds::seed(
            "label",
            with(
                1,
                "START WAL LOCATION: 0/A000028 (file 00000001000000000000000A)\nCHECKPOINT LOCATION: 0/A000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIMELINE: 3\n",
            ),
        ),
    ]
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let timeline = Timeline(input.short().into());
    if let Some(label) = BackupLabel::parse(&String::from_utf8_lossy(input.0)) {
        let text = format!("START WAL LOCATION: {} (file x)\n", label.start);
        assert_eq!(BackupLabel::parse(&text).map(|label| label.start), Some(label.start));
    }
    let Ok(history) = History::parse(timeline, bytes::Bytes::copy_from_slice(input.0)) else {
        return;
    };
    assert_eq!(history.raw, input.0, "the bytes are kept as they came");
    let path = history.path();
    assert_eq!(path.len(), history.entries.len() + 1);
    assert!(path.windows(2).all(|two| two[0].timeline < two[1].timeline), "timelines rise");
    assert!(path.iter().any(|stretch| stretch.timeline == history.owner_of(Lsn(7 << 20))));
    assert!(history.continues(&history));
    for branch in &history.entries {
        assert!(branch.parent < timeline);
        assert_eq!(history.left_at(branch.parent), Some(branch.at));
        let _ = (
            branch.is_promotion(),
            history.owner_of(branch.at),
            history.contains(branch.parent, branch.at),
        );
    }
    let line = |branch: &proto::postgres::history::Branch| {
        format!("{}\t{}\t{}\n", branch.parent.0, branch.at, branch.reason)
    };
    let text: String = history.entries.iter().map(line).collect();
    let again = History::parse(timeline, text.into()).expect("our own text");
    assert_eq!(again.entries.len(), history.entries.len());
    assert!(again.continues(&history), "a history reads back as it says");
}

fuzz::target!("history", most: 4 << 20, seeds: seeds, input: input);
