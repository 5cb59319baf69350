//! An object store in memory that holds every piece of log against what the database wrote as it
//! comes, every tail against the one before it, and knows what it holds without a hole.
//!
//! What can go wrong with a store and not with a wrapper around it happens here: bodies that are cut
//! or turned over on their way, puts that are done late, listings that lack the newest keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use proto::position::{Epoch, Position};
use proto::segment::{Footer, Hash, TailHeader, TailKind, read_sealed, read_tail};
use proto::store::{Key, LIST_PAGE_MAX, Object, Page, Put, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::seen::{LAGGING_LISTS, LATE_PUTS, SPOILT_PUTS, Seen};
use super::written::{Ranges, Written};

/// The longest that a listing lags, and how long after its beginning it may lag again.
const LAG_MAX: Duration = Duration::from_secs(8);
const LAG_EVERY: Duration = Duration::from_secs(20);

/// An object, and the how-many-eth it was to be created.
#[derive(Debug)]
struct Held {
    order: u64,
    bytes: Bytes,
}

/// Which of the newest keys listings lack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lag {
    pub(super) newest: u64,
    /// Some of them alone: a listing of several pages is no snapshot.
    pub(super) holes: bool,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, Held>,
    created: u64,
    held: BTreeMap<Epoch, Ranges>,
    /// The last single tail of each chain.
    chains: BTreeMap<String, TailHeader>,
    lag: Option<Lag>,
    /// When it began to lag the last time, by the clock of this day.
    lagged: Option<Instant>,
    /// How likely a body is spoilt on its way, and how likely a put is done late.
    spoils: f64,
    delays: f64,
    rng: StdRng,
    seen: Seen,
    /// The first contradiction: whoever put it may be dead, and its panic seen by nobody.
    wrong: Option<String>,
}

/// Outlives every machine.
#[derive(Debug)]
pub(super) struct MemoryStore {
    state: Mutex<State>,
    written: Arc<Written>,
}

/// What becomes of a put.
#[derive(Debug)]
pub(super) enum Doing {
    Done(Put),
    Refused(StoreError),
    /// Told that it failed; it is done after a while all the same.
    Late(Duration),
}

impl MemoryStore {
    pub(super) fn new(written: Arc<Written>, seed: u64) -> Arc<Self> {
        let state = State {
            objects: BTreeMap::new(),
            created: 0,
            held: BTreeMap::new(),
            chains: BTreeMap::new(),
            lag: None,
            lagged: None,
            spoils: 0.0,
            delays: 0.0,
            rng: StdRng::seed_from_u64(seed),
            seen: Seen::default(),
            wrong: None,
        };
        Arc::new(Self { state: Mutex::new(state), written })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// No faults of its own any more.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        (state.lag, state.spoils, state.delays) = (None, 0.0, 0.0);
    }

    /// Listings lag from now on for up to [`LAG_MAX`], and not again for [`LAG_EVERY`]: whoever asks for
    /// ten seconds before it takes something for absent sees what there is.
    pub(super) fn lag(&self, lag: Lag) {
        let (mut state, now) = (self.state(), Instant::now());
        if state.lagged.is_none_or(|began| now >= began + LAG_EVERY) {
            (state.lag, state.lagged) = (Some(lag), Some(now));
        }
    }

    /// Another clock: what was before it is over.
    pub(super) fn new_day(&self) {
        let mut state = self.state();
        (state.lag, state.lagged) = (None, None);
    }

    pub(super) fn spoil(&self, chance: f64) {
        self.state().spoils = chance;
    }

    pub(super) fn delay(&self, chance: f64) {
        self.state().delays = chance;
    }

    pub(super) fn note(&self, what: &'static str) {
        self.state().seen.count(what, 1);
    }

    pub(super) fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    /// Whether it holds every byte up to there.
    pub(super) fn holds(&self, to: Position) -> bool {
        let state = self.state();
        self.written.path(to).into_iter().all(|(epoch, from, to)| {
            from == to || state.held.get(&epoch).is_some_and(|held| held.holds(from, to))
        })
    }

    /// How far it holds the log of an epoch without a hole.
    pub(super) fn held_to(&self, epoch: Epoch) -> u64 {
        let state = self.state();
        let mut path = self.written.path(self.written.end(epoch));
        path.reverse();
        let mut reached = self.written.begin;
        for (epoch, from, to) in path {
            let end = state.held.get(&epoch).map_or(from, |held| held.end_of(from));
            if reached >= from {
                reached = reached.max(end.min(to));
            }
        }
        reached
    }

    /// A put as it comes over a network.
    pub(super) fn receive(&self, key: &Key, bytes: &Bytes) -> Doing {
        {
            let mut state = self.state();
            let (spoils, delays) = (state.spoils, state.delays);
            if state.rng.random_bool(spoils) {
                let came = spoilt(&mut state.rng, bytes);
                // What comes is held against the checksum of what was sent (docs/FORMAT.md).
                if crc32fast::hash(&came) != crc32fast::hash(bytes) {
                    state.seen.count(SPOILT_PUTS, 1);
                    return Doing::Refused(bad_digest(key));
                }
            }
            if state.rng.random_bool(delays) {
                state.seen.count(LATE_PUTS, 1);
                return Doing::Late(Duration::from_millis(state.rng.random_range(1..40_000)));
            }
        }
        Doing::Done(self.put(key, bytes))
    }

    /// Creates the object, if there is none.
    pub(super) fn put(&self, key: &Key, bytes: &Bytes) -> Put {
        if self.state().objects.contains_key(key.as_str()) {
            return Put::Exists;
        }
        let checked = self.check(key, bytes);
        let mut state = self.state();
        if let Err(wrong) = checked {
            state.wrong.get_or_insert(wrong.clone());
            drop(state);
            panic!("{wrong}");
        }
        state.created += 1;
        let held = Held { order: state.created, bytes: bytes.clone() };
        state.objects.insert(key.as_str().to_owned(), held);
        Put::Created
    }

    /// Compares a piece of log with what was written, and counts it.
    fn check(&self, key: &Key, object: &[u8]) -> Result<(), String> {
        let not_whole = |error| format!("{key} is not whole: {error}");
        let (epoch, start, raw) = match key.as_str() {
            key if key.contains("/log/") => {
                let (footer, raw): (Footer, _) = read_sealed(object).map_err(not_whole)?;
                (footer.head.epoch, footer.head.start.0, raw)
            }
            key if key.contains("/tail/") => {
                let (header, raw): (TailHeader, _) = read_tail(object).map_err(not_whole)?;
                self.check_chain(key, header)?;
                (header.head.epoch, header.head.start.0 + header.raw_start, raw)
            }
            _ => return Ok(()),
        };
        if !self.written.has(epoch, start, &raw) {
            return Err(format!("{key} is not what the database wrote at {start} of {epoch}"));
        }
        let end = start + raw.len() as u64;
        self.state().held.entry(epoch).or_default().add(start, end);
        Ok(())
    }

    /// A chain never forks: each tail continues the one before it, and no older writer follows a
    /// newer one.
    fn check_chain(&self, key: &str, header: TailHeader) -> Result<(), String> {
        if header.kind == TailKind::Merged {
            return Ok(());
        }
        let chain = key.rsplit_once('/').map_or(key, |(chain, _)| chain).to_owned();
        let last = self.state().chains.insert(chain, header);
        let expected = last.map(|last| (last.last + 1, last.raw_end(), last.after));
        let found = (header.first, header.raw_start, header.before);
        if found != expected.unwrap_or((0, 0, Hash::of(b""))) {
            return Err(format!("{key} does not continue its chain"));
        }
        if last.is_some_and(|last| last.head.writer > header.head.writer) {
            return Err(format!("{key} is an older writer's behind a newer one's"));
        }
        Ok(())
    }

    /// What contradicted, whoever put it.
    pub(super) fn wrong(&self) -> Option<String> {
        self.state().wrong.clone()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Bytes> {
        self.state().objects.get(key.as_str()).map(|held| held.bytes.clone())
    }

    pub(super) fn remove(&self, key: &Key) {
        self.state().objects.remove(key.as_str());
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>) -> Page {
        let mut state = self.state();
        let from = after.map_or_else(|| prefix.to_owned(), |after| format!("{after}\0"));
        let from = from.max(prefix.to_owned());
        let (mut objects, mut lacks, mut more) = (Vec::new(), false, false);
        for (key, held) in state.objects.range(from..).take_while(|(k, _)| k.starts_with(prefix)) {
            if state.is_hidden(held) {
                lacks = true;
            } else if objects.len() == LIST_PAGE_MAX {
                more = true;
                break;
            } else {
                let bytes = held.bytes.len() as u64;
                objects.push(Object { key: Key::new(key.clone()), bytes });
            }
        }
        state.seen.count(LAGGING_LISTS, u64::from(lacks));
        Page { objects, more }
    }

    pub(super) fn folders(&self, folder: &str) -> Vec<String> {
        let state = self.state();
        let mut found: Vec<String> = Vec::new();
        for (key, held) in &state.objects {
            let below = key.strip_prefix(folder).and_then(|rest| rest.split_once('/'));
            if let Some((name, _)) = below
                && !state.is_hidden(held)
                && found.last().is_none_or(|last| last != name)
            {
                found.push(name.to_owned());
            }
        }
        found
    }
}

impl State {
    fn is_hidden(&self, held: &Held) -> bool {
        let lags = |began: Instant| began.elapsed() < LAG_MAX;
        self.lag.filter(|_| self.lagged.is_some_and(lags)).is_some_and(|lag| {
            let newest = held.order + lag.newest > self.created;
            newest && (!lag.holes || held.order.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0)
        })
    }
}

/// Cut anywhere, or with a bit turned over.
fn spoilt(rng: &mut StdRng, bytes: &Bytes) -> Bytes {
    if bytes.is_empty() {
        return bytes.clone();
    }
    let at = rng.random_range(0..bytes.len());
    if rng.random_bool(0.5) {
        return bytes.slice(..at);
    }
    let mut came = bytes.to_vec();
    came[at] ^= 1 << rng.random_range(0..8);
    came.into()
}

fn bad_digest(key: &Key) -> StoreError {
    StoreError::Answer {
        address: "memory".to_owned(),
        action: "put",
        key: key.to_string(),
        code: "BadDigest".to_owned(),
        status: Some(400),
        class: proto::store::Class::Retry,
    }
}
