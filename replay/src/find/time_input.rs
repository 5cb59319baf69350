//! The notations of a moment that people paste, each with exactly one meaning.
//!
//! In: text. Out: a [`Timestamp`], or why it has none or more than one: a moment is never guessed.
//! Understood are RFC 3339 with `T` or a space, PostgreSQL's and most programs' log lines, an
//! IANA zone behind the time, `ISODate("…")`, and `-15m` before now. Digits beyond microseconds,
//! which no database keeps, are cut off.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use proto::timestamp::Timestamp;

/// What a text may refer to.
#[derive(Debug, Clone)]
pub struct Here {
    /// For `-15m`.
    pub now: Timestamp,
    /// Only to show what a time without a zone could mean.
    pub local: TimeZone,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeInputError {
    #[error("{text:?} is not a time (expected one like 2026-11-20T14:20:00Z or -15m)")]
    NotATime { text: String },
    #[error("{text:?} names a day or time that does not exist")]
    NoSuchTime { text: String },
    #[error("{text:?} has no zone: it is {utc} if it is UTC{}", or_local(*.local, zone))]
    NoZone { text: String, utc: Timestamp, local: Option<Timestamp>, zone: String },
    #[error(
        "zone {abbreviation:?} in {text:?} stands for several: it is {utc} if UTC is meant{}; \
         write an offset like +01:00 or a zone like Europe/Berlin",
        or_local(*.local, zone)
    )]
    Abbreviation {
        text: String,
        abbreviation: String,
        utc: Timestamp,
        local: Option<Timestamp>,
        zone: String,
    },
    #[error("zone {zone:?} is unknown here")]
    UnknownZone { zone: String },
    #[error("{text:?} exists twice, as clocks were set back: {first} or {second}")]
    Twice { text: String, first: Timestamp, second: Timestamp },
    #[error("{text:?} does not exist, as clocks were set forward: {before} or {after}")]
    Skipped { text: String, before: Timestamp, after: Timestamp },
    #[error("{text:?} says offset {offset} and zone {zone}, which do not agree then")]
    Contradiction { text: String, offset: String, zone: String },
    #[error("{text:?} is a bare number{}; write the time itself", of_epoch(readings))]
    Number { text: String, readings: Vec<Timestamp> },
}

/// The moment that `text` stands for.
///
/// # Errors
/// When it stands for none, or for more than one; the readings are named.
pub fn parse(text: &str, here: &Here) -> Result<Timestamp, TimeInputError> {
    let trimmed = unquote(text.trim());
    let trimmed = iso_date(trimmed).unwrap_or(trimmed);
    if let Some(back) = trimmed.strip_prefix('-') {
        return ago(back, here).ok_or_else(|| not_a_time(text));
    }
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(TimeInputError::Number { text: text.to_owned(), readings: epochs(trimmed) });
    }
    let (civil, zone) = civil(trimmed).ok_or_else(|| not_a_time(text))?;
    let civil = civil.ok_or_else(|| TimeInputError::NoSuchTime { text: text.to_owned() })?;
    in_zone(text, civil, zone.trim(), here)
}

fn not_a_time(text: &str) -> TimeInputError {
    TimeInputError::NotATime { text: text.to_owned() }
}

fn unquote(text: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
        .map_or(text, str::trim)
}

/// `ISODate("2026-11-20T14:19:47Z")`, as mongosh prints it.
fn iso_date(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("ISODate(")?.strip_suffix(')')?;
    Some(unquote(inner.trim()))
}

/// `15m`, `1h30m`, `2d`: that long before now.
fn ago(text: &str, here: &Here) -> Option<Timestamp> {
    let mut rest = text;
    let mut seconds = 0_i64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = unit.split_at(letters);
        let each = match unit {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<i64>().ok()?.checked_mul(each)?)?;
        rest = tail.trim_start();
    }
    let micros = seconds.checked_mul(1_000_000).filter(|_| !text.is_empty())?;
    Some(here.now.plus_micros(-micros))
}

/// What a bare number could mean: seconds, milliseconds or microseconds since 1970.
fn epochs(text: &str) -> Vec<Timestamp> {
    let Ok(number) = text.split('.').next().unwrap_or("").parse::<i64>() else { return Vec::new() };
    let readings = [1_000_000, 1000, 1].into_iter().filter_map(|unit| number.checked_mul(unit));
    let plausible = readings.map(Timestamp).filter(|t| {
        let years = t.0 / 31_556_952_000_000;
        (10..200).contains(&years)
    });
    plausible.collect()
}

/// Date and time of day, and what stands behind them. Inside is `None` when the digits are in
/// their places and name no day or time.
fn civil(text: &str) -> Option<(Option<DateTime>, &str)> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
    let rest = match rest.strip_prefix(['T', 't']) {
        Some(rest) => rest,
        None => rest.strip_prefix(' ')?.trim_start(),
    };
    let (hour, rest) = number(rest, 2)?;
    let (minute, mut rest) = number(rest.strip_prefix(':')?, 2)?;
    let (mut second, mut micros) = (0, 0);
    if let Some(tail) = rest.strip_prefix(':') {
        (second, rest) = number(tail, 2)?;
        if let Some(tail) = rest.strip_prefix(['.', ',']) {
            let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, tail) = tail.split_at(digits);
            let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
            micros = six.parse().ok().filter(|_| digits > 0)?;
            rest = tail;
        }
    }
    let narrow = |n: i32| i8::try_from(n).expect("two digits");
    let civil = DateTime::new(
        i16::try_from(year).expect("four digits"),
        narrow(month),
        narrow(day),
        narrow(hour),
        narrow(minute),
        narrow(second),
        micros * 1000,
    );
    Some((civil.ok(), rest))
}

fn number(text: &str, digits: usize) -> Option<(i32, &str)> {
    let head = text.get(..digits).filter(|head| head.bytes().all(|b| b.is_ascii_digit()))?;
    Some((head.parse().ok()?, &text[digits..]))
}

fn in_zone(
    text: &str,
    civil: DateTime,
    zone: &str,
    here: &Here,
) -> Result<Timestamp, TimeInputError> {
    let at = |offset: Offset| {
        let moment = offset.to_timestamp(civil).map_err(|_| not_a_time(text))?;
        Ok(Timestamp(moment.as_microsecond()))
    };
    // RFC 9557: an offset, and the zone in brackets.
    if let Some((offset, name)) = zone.strip_suffix(']').and_then(|z| z.split_once('[')) {
        let named = named(name)?;
        return match parse_offset(offset.trim()) {
            None if offset.is_empty() => in_named(text, civil, &named),
            None => Err(not_a_time(text)),
            Some(offset) => {
                let moment = at(offset)?;
                let real = jiff::Timestamp::from_microsecond(moment.0);
                let real = real.map(|t| named.to_offset(t)).map_err(|_| not_a_time(text))?;
                let (text, zone) = (text.to_owned(), name.to_owned());
                // `Z` says nothing of the local time, so it agrees with every zone.
                if real == offset || zone.is_empty() {
                    Ok(moment)
                } else {
                    let offset = offset.to_string();
                    Err(TimeInputError::Contradiction { text, offset, zone })
                }
            }
        };
    }
    if let Some(offset) = parse_offset(zone) {
        return at(offset);
    }
    let readings = || {
        let local = here.local.to_ambiguous_timestamp(civil).unambiguous().ok();
        let local = local.map(|t| Timestamp(t.as_microsecond()));
        let name = here.local.iana_name().unwrap_or("the local zone").to_owned();
        Ok::<_, TimeInputError>((at(Offset::UTC)?, local, name))
    };
    if zone.is_empty() {
        let (utc, local, zone) = readings()?;
        return Err(TimeInputError::NoZone { text: text.to_owned(), utc, local, zone });
    }
    if zone.contains('/') {
        return in_named(text, civil, &named(zone)?);
    }
    if zone.bytes().all(|b| b.is_ascii_alphabetic()) && zone.len() <= 5 {
        let abbreviation = zone.to_owned();
        let (utc, local, zone) = readings()?;
        let text = text.to_owned();
        return Err(TimeInputError::Abbreviation { text, abbreviation, utc, local, zone });
    }
    Err(not_a_time(text))
}

fn named(name: &str) -> Result<TimeZone, TimeInputError> {
    TimeZone::get(name).map_err(|_| TimeInputError::UnknownZone { zone: name.to_owned() })
}

fn in_named(text: &str, civil: DateTime, zone: &TimeZone) -> Result<Timestamp, TimeInputError> {
    let at = |offset: Offset| {
        let moment = offset.to_timestamp(civil).map_err(|_| not_a_time(text))?;
        Ok::<_, TimeInputError>(Timestamp(moment.as_microsecond()))
    };
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => at(offset),
        AmbiguousOffset::Fold { before, after } => {
            let text = text.to_owned();
            Err(TimeInputError::Twice { first: at(before)?, second: at(after)?, text })
        }
        AmbiguousOffset::Gap { before, after } => {
            let text = text.to_owned();
            Err(TimeInputError::Skipped { before: at(before)?, after: at(after)?, text })
        }
    }
}

/// `Z`, `UTC`, `GMT`, `+01`, `+0100`, `+01:00`, `+01:00:00`.
fn parse_offset(zone: &str) -> Option<Offset> {
    if matches!(zone, "Z" | "z" | "UTC" | "GMT" | "utc" | "gmt") {
        return Some(Offset::UTC);
    }
    let (sign, rest) = match zone.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, zone.strip_prefix(['-', '\u{2212}'])?),
    };
    let colons = rest.contains(':');
    let (hours, mut rest) = number(rest, 2)?;
    let (mut minutes, mut seconds) = (0, 0);
    for part in [&mut minutes, &mut seconds] {
        if rest.is_empty() {
            break;
        }
        let tail = if colons { rest.strip_prefix(':')? } else { rest };
        (*part, rest) = number(tail, 2)?;
    }
    let plain = rest.is_empty() && minutes < 60 && seconds < 60 && hours <= 15;
    let total = sign * (hours * 3600 + minutes * 60 + seconds);
    plain.then(|| Offset::from_seconds(total).ok())?
}

fn or_local(local: Option<Timestamp>, zone: &str) -> String {
    local.map_or_else(String::new, |local| format!(", and {local} if it is {zone}"))
}

fn of_epoch(readings: &[Timestamp]) -> String {
    let shown: Vec<String> = readings.iter().map(Timestamp::to_string).collect();
    if shown.is_empty() { String::new() } else { format!(", perhaps {}", shown.join(" or ")) }
}

#[cfg(test)]
#[path = "time_input_tests.rs"]
mod tests;
