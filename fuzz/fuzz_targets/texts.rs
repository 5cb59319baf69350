//! Text that people and servers wrote: moments, lines of configuration files.
#![no_main]

use fuzz::seeds;
use proto::timestamp::Timestamp;
use replay::find::time_input::{Here, TimeInputError, parse};
use replay::target::postgres::config::lines;

fn seeds() -> Vec<seeds::Seed> {
    [
        "2026-11-20T14:20:00Z",
        "2026-11-20 14:19:47,31 Europe/Berlin",
        "2026-11-20T14:19:47+01:00[Europe/Berlin]",
        "-1h30m",
        "ISODate(\"2026-11-20T14:19:47Z\")",
        "1795150757",
        "2026-10-25 02:30 Europe/Berlin",
        "2026-11-20 14:19:47.310 CET",
        "'2026-02-30 1:2'",
        "2026-11-20 14:19:47+02",
        "a.b = 'it''s \\'so\\' # no'",
        "  Port 5432 # here\ninclude_dir 'conf.d'\nx = 'open",
    ]
    .iter()
    .enumerate()
    .map(|(at, text)| seeds::seed(&at.to_string(), *text))
    .collect()
}

fn input(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let here = Here { now: Timestamp(1_795_150_757_310_000), local: jiff::tz::TimeZone::UTC };
    match parse(&text, &here) {
        Ok(time) => {
            let shown = time.to_string();
            assert!(
                parse(&shown, &here).is_ok_and(|again| again == time)
                    || shown.starts_with('-')
                    || shown.ends_with("us"),
                "a moment reads back as it is shown"
            );
        }
        Err(TimeInputError::NoZone { utc, .. }) => {
            let _ = utc.to_string();
        }
        Err(error) => drop(error.to_string()),
    }
    for line in text.lines() {
        if let Some(setting) = lines::parse(line) {
            let again =
                lines::parse(&format!("{} = {}", setting.name, lines::quoted(&setting.value)));
            assert_eq!(again.as_ref(), Some(&setting), "a setting reads back");
        }
    }
    let out = lines::without(&text, |_| Some("all"));
    assert!(
        out.lines().all(|line| lines::parse(line).is_none()),
        "a line that is taken out sets nothing"
    );
    // Of a line that ends in several returns one goes with its end.
    let same = lines::without(&text, |_| None);
    assert!(text.contains('\r') || lines::without(&same, |_| None) == same, "nothing else changes");
    let _ = lines::without_block(&text, "<", ">");
}

fuzz::target!("texts", most: 8 << 20, seeds: seeds, input: input);
