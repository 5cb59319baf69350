//! How things are shown to people: times, durations, sizes, tables.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

use super::error::{CliError, Code};
use proto::timestamp::Timestamp;

/// Pretty JSON.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("our own types have string keys")
}

/// UTC, to the second: `2026-11-20 14:19:47Z`.
pub(super) fn time(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('T') {
        Some((date, clock)) if clock.len() >= 8 => format!("{date} {}Z", &clock[..8]),
        _ => text,
    }
}

/// The two largest units: `2 h 5 min`, `48 s`.
pub(super) fn duration(seconds: f64) -> String {
    // Truncation is what is wanted; a lag of centuries is shown as such.
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", whole % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// `5m`, `90s`, `1h 30m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, CliError> {
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    parsed.and_then(|parsed| Duration::try_from(parsed).ok()).ok_or_else(|| {
        let what = format!("{text:?} is no duration");
        CliError::new(Code::Usage, what, "write it like 30s, 5m or 1h")
    })
}

/// A table with lines on a terminal, plain columns elsewhere.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, terminal: bool) -> String {
    let mut table = Table::new();
    table.load_style(if terminal { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING });
    if !terminal {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.to_vec());
    table.add_rows(rows);
    let shown = table.to_string();
    shown.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
