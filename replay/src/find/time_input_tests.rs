//! Notations that people paste.

use super::*;

fn here() -> Here {
    Here {
        now: Timestamp::parse("2026-11-20T15:00:00Z").expect("a time"),
        local: TimeZone::get("America/New_York").expect("a zone"),
    }
}

fn read(text: &str) -> Result<String, TimeInputError> {
    parse(text, &here()).map(|time| time.to_string())
}

#[test]
fn one_moment_is_understood_in_every_notation() {
    for text in [
        "2026-11-20T14:19:47.310Z",
        "2026-11-20 14:19:47.310Z",
        "2026-11-20t14:19:47.310z",
        "2026-11-20 14:19:47.310 UTC",
        "2026-11-20 14:19:47.310 GMT",
        "2026-11-20 14:19:47,310 UTC",
        "2026-11-20 15:19:47.31+01",
        "2026-11-20 15:19:47.31 +01",
        "2026-11-20T15:19:47.310000+0100",
        "2026-11-20T15:19:47.310000+01:00",
        "2026-11-20T15:19:47.310000+01:00:00",
        "2026-11-20T15:19:47.310+01:00[Europe/Berlin]",
        "2026-11-20T15:19:47.310[Europe/Berlin]",
        "2026-11-20 15:19:47.310 Europe/Berlin",
        "2026-11-20 09:19:47.310 America/New_York",
        "2026-11-20 19:49:47.310000999 +05:30",
        "2026-11-20 07:19:47.310 -07",
        " \"2026-11-20 14:19:47.310 UTC\" ",
        "ISODate(\"2026-11-20T14:19:47.310Z\")",
        "ISODate('2026-11-20T14:19:47.310Z')",
    ] {
        assert_eq!(read(text).as_deref(), Ok("2026-11-20T14:19:47.310000Z"), "{text}");
    }
    assert_eq!(read("2026-11-20 14:20 Z").as_deref(), Ok("2026-11-20T14:20:00.000000Z"));
}

#[test]
fn a_time_before_now_is_counted_back() {
    for (text, expected) in [
        ("-15m", "2026-11-20T14:45:00.000000Z"),
        ("-90s", "2026-11-20T14:58:30.000000Z"),
        ("-1h30m", "2026-11-20T13:30:00.000000Z"),
        ("-1h 30min", "2026-11-20T13:30:00.000000Z"),
        ("-2d", "2026-11-18T15:00:00.000000Z"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
    }
    for text in ["-", "-15", "-m", "-15x", "-99999999999999999d", "15m"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn a_time_without_a_zone_is_refused_with_both_readings() {
    for text in ["2026-11-20 14:20", "2026-11-20T14:20:00", "ISODate(\"2026-11-20T14:20:00\")"] {
        let error = read(text).expect_err("no zone");
        assert!(matches!(error, TimeInputError::NoZone { .. }), "{text}: {error}");
        let shown = error.to_string();
        assert!(shown.contains("2026-11-20T14:20:00.000000Z if it is UTC"), "{shown}");
        assert!(shown.contains("2026-11-20T19:20:00.000000Z if it is America/New_York"), "{shown}");
    }
}

#[test]
fn an_abbreviation_is_refused_with_both_readings() {
    let error = read("2026-11-20 14:19:47.310 CET").expect_err("CET");
    let TimeInputError::Abbreviation { abbreviation, utc, local, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(abbreviation, "CET");
    assert_eq!(utc.to_string(), "2026-11-20T14:19:47.310000Z");
    assert_eq!(local.map(|t| t.to_string()).as_deref(), Some("2026-11-20T19:19:47.310000Z"));
}

#[test]
fn an_hour_that_exists_twice_or_never_is_refused_with_both_readings() {
    let error = read("2026-10-25 02:30 Europe/Berlin").expect_err("twice");
    let TimeInputError::Twice { first, second, .. } = error else { panic!("{error}") };
    assert_eq!(first.to_string(), "2026-10-25T00:30:00.000000Z");
    assert_eq!(second.to_string(), "2026-10-25T01:30:00.000000Z");
    let error = read("2026-03-29 02:30 Europe/Berlin").expect_err("never");
    assert!(matches!(error, TimeInputError::Skipped { .. }), "{error}");
    let offset = read("2026-10-25T02:30:00+01:00[Europe/Berlin]");
    assert_eq!(offset.as_deref(), Ok("2026-10-25T01:30:00.000000Z"));
}

#[test]
fn a_number_of_seconds_is_refused_and_shown_as_a_time() {
    for text in ["1795184387", "1795184387310", "1795184387.310"] {
        let error = read(text).expect_err("a number");
        assert!(matches!(error, TimeInputError::Number { .. }), "{text}: {error}");
        assert!(error.to_string().contains("2026-11-20T14:19:47"), "{error}");
    }
}

#[test]
fn what_is_no_time_is_refused() {
    for text in [
        "",
        "now",
        "yesterday",
        "2026-11-20",
        "14:20",
        "2026-11-20 14",
        "20.11.2026 14:20 UTC",
        "2026-11-20 14:20 +1",
        "2026-11-20 14:20 +25",
        "2026-11-20 14:20:00. Z",
        "2026-11-20 14:20 UTC+1",
        "2026-11-20T14:20:00Z trailing",
        "2026-11-20T14:20:0ö Z",
    ] {
        assert!(matches!(read(text), Err(TimeInputError::NotATime { .. })), "{text}");
    }
    for text in ["2026-02-30 14:20 Z", "2026-11-20 24:00 Z", "2026-11-20 14:20:60 Z"] {
        assert!(matches!(read(text), Err(TimeInputError::NoSuchTime { .. })), "{text}");
    }
    let error = read("2026-11-20 14:20 Europe/Nowhere");
    assert!(matches!(error, Err(TimeInputError::UnknownZone { .. })));
    let error = read("2026-11-20T14:20:00+05:00[Europe/Berlin]");
    assert!(matches!(error, Err(TimeInputError::Contradiction { .. })));
}
