//! Any store, with faults: scripted for one call, or by chance from a seed.
//!
//! Enters: calls of a [`Store`]. Leaves: what the store inside answers, unless a fault stands in the
//! way. Faults are set and counted through a [`Faults`] handle while others use the store: a test
//! that wants a fault also asserts that it fired.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Body, Class, Key, Page, Put, Range, Store, StoreError};

/// How many of the keys created through the wrapper are remembered, to hide the newest.
const CREATED_MAX: usize = 10_000;

/// A call of the [`Store`] trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Put,
    Get,
    Head,
    List,
    Folders,
    Delete,
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing was done.
    FailBefore(Class),
    /// It was done, and the answer is lost.
    FailAfter(Class),
    /// It is done after a while.
    Delay(Duration),
    /// A get gives fewer bytes than there are.
    Short,
    /// A get gives bytes with one bit turned over.
    Flip,
    /// A get or head finds nothing, though it is there; a listing is empty.
    Omit,
    /// A listing lacks so many of the keys that were created last.
    HideNewest(usize),
}

/// The kinds of faults, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Away,
    FailBefore,
    FailAfter,
    Delay,
    Short,
    Flip,
    Omit,
    HideNewest,
}

impl Fault {
    pub fn kind(self) -> Kind {
        match self {
            Self::FailBefore(_) => Kind::FailBefore,
            Self::FailAfter(_) => Kind::FailAfter,
            Self::Delay(_) => Kind::Delay,
            Self::Short => Kind::Short,
            Self::Flip => Kind::Flip,
            Self::Omit => Kind::Omit,
            Self::HideNewest(_) => Kind::HideNewest,
        }
    }

    fn applies_to(self, op: Op) -> bool {
        match self {
            Self::FailBefore(_) | Self::FailAfter(_) | Self::Delay(_) => true,
            Self::Short | Self::Flip => op == Op::Get,
            Self::Omit => matches!(op, Op::Get | Op::Head | Op::List | Op::Folders),
            Self::HideNewest(_) => op == Op::List,
        }
    }
}

/// A fault for certain calls to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Any call when `None`.
    pub op: Option<Op>,
    /// Only keys that contain this; empty for all.
    pub key_part: String,
    /// So many matching calls go well first.
    pub skip: u32,
    /// Then so many do not.
    pub times: u32,
    pub fault: Fault,
}

impl Rule {
    /// The next call of `op`.
    pub fn once(op: Op, fault: Fault) -> Self {
        Self { op: Some(op), key_part: String::new(), skip: 0, times: 1, fault }
    }

    pub fn on(mut self, key_part: impl Into<String>) -> Self {
        self.key_part = key_part.into();
        self
    }

    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    away: bool,
    rules: Vec<Rule>,
    /// How likely each fault is, per call that it applies to.
    chances: Vec<(f64, Fault)>,
    created: VecDeque<Key>,
    calls: BTreeMap<Op, u64>,
    fired: BTreeMap<Kind, u64>,
}

/// Sets and counts the faults of one [`FaultStore`].
#[derive(Debug, Clone)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    /// While away, every call fails at once as if nobody answered.
    pub fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Adds a rule; of several that match a call, the one added first counts.
    pub fn script(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// From now on, each call that no rule matches meets one of these with its probability.
    pub fn set_chances(&self, chances: Vec<(f64, Fault)>) {
        self.state().chances = chances;
    }

    /// No more faults; counters stay.
    pub fn heal(&self) {
        let mut state = self.state();
        state.away = false;
        state.rules.clear();
        state.chances.clear();
    }

    /// How often a fault of this kind has happened.
    pub fn fired(&self, kind: Kind) -> u64 {
        self.state().fired.get(&kind).copied().unwrap_or_default()
    }

    /// How often any fault has happened.
    pub fn fired_in_all(&self) -> u64 {
        self.state().fired.values().sum()
    }

    /// How often the call was made, faulty or not.
    pub fn calls(&self, op: Op) -> u64 {
        self.state().calls.get(&op).copied().unwrap_or_default()
    }

    fn count(&self, kind: Kind) {
        *self.state().fired.entry(kind).or_default() += 1;
    }
}

impl State {
    fn choose(&mut self, op: Op, key: &str) -> Option<Fault> {
        *self.calls.entry(op).or_default() += 1;
        let matching = self.rules.iter_mut().find(|rule| {
            rule.times > 0
                && rule.op.is_none_or(|wanted| wanted == op)
                && rule.fault.applies_to(op)
                && key.contains(&rule.key_part)
        });
        if let Some(rule) = matching {
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            rule.times -= 1;
            let fault = rule.fault;
            self.rules.retain(|rule| rule.times > 0);
            return Some(fault);
        }
        let rng = &mut self.rng;
        let mut likely = self.chances.iter().filter(|(_, fault)| fault.applies_to(op));
        likely.find(|(chance, _)| rng.random_bool(*chance)).map(|(_, fault)| *fault)
    }
}

/// The wrapper.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    faults: Faults,
}

impl FaultStore {
    /// No faults until the handle says so; chances roll by `seed` and the order of calls.
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> (Arc<Self>, Faults) {
        let faults = Faults(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            away: false,
            rules: Vec::new(),
            chances: Vec::new(),
            created: VecDeque::new(),
            calls: BTreeMap::new(),
            fired: BTreeMap::new(),
        })));
        (Arc::new(Self { inner, faults: faults.clone() }), faults)
    }

    fn error(&self, key: &str, detail: &str, class: Class) -> StoreError {
        StoreError::Unreachable {
            address: self.inner.address(),
            action: "use",
            key: key.to_owned(),
            detail: detail.to_owned(),
            class,
        }
    }

    /// What is to happen to this call once it is done, or the failure that takes its place.
    async fn begin(&self, op: Op, key: &str) -> Result<Option<Fault>, StoreError> {
        let fault = {
            let mut state = self.faults.state();
            if state.away {
                *state.calls.entry(op).or_default() += 1;
                *state.fired.entry(Kind::Away).or_default() += 1;
                return Err(self.error(key, "injected: the store is away", Class::Retry));
            }
            state.choose(op, key)
        };
        match fault {
            Some(Fault::FailBefore(class)) => {
                self.faults.count(Kind::FailBefore);
                Err(self.error(key, "injected: failed before it was done", class))
            }
            Some(Fault::Delay(wait)) => {
                self.faults.count(Kind::Delay);
                tokio::time::sleep(wait).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    /// Whether the call finds nothing, though it is done.
    fn omits(&self, fault: Option<Fault>) -> bool {
        let omits = fault == Some(Fault::Omit);
        if omits {
            self.faults.count(Kind::Omit);
        }
        omits
    }

    fn end<T>(&self, fault: Option<Fault>, key: &str, done: T) -> Result<T, StoreError> {
        let Some(Fault::FailAfter(class)) = fault else { return Ok(done) };
        self.faults.count(Kind::FailAfter);
        Err(self.error(key, "injected: done, and the answer was lost", class))
    }

    fn spoil(&self, fault: Option<Fault>, bytes: Bytes) -> Bytes {
        let Some(fault @ (Fault::Short | Fault::Flip)) = fault else { return bytes };
        if bytes.is_empty() {
            return bytes;
        }
        self.faults.count(fault.kind());
        let at = self.faults.state().rng.random_range(0..bytes.len());
        if fault == Fault::Short {
            return bytes.slice(..at);
        }
        let mut spoilt = bytes.to_vec();
        spoilt[at] ^= 1 << (at % 8);
        spoilt.into()
    }

    fn hide(&self, fault: Option<Fault>, page: &mut Page) {
        let Some(Fault::HideNewest(count)) = fault else { return };
        let newest: Vec<Key> =
            self.faults.state().created.iter().rev().take(count).cloned().collect();
        let before = page.objects.len();
        page.objects.retain(|object| !newest.contains(&object.key));
        if page.objects.len() < before {
            self.faults.count(Kind::HideNewest);
        }
    }
}

#[async_trait]
impl Store for FaultStore {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        let fault = self.begin(Op::Put, key.as_str()).await?;
        let put = self.inner.put(key, body).await?;
        if put == Put::Created {
            let mut state = self.faults.state();
            if state.created.len() >= CREATED_MAX {
                state.created.pop_front();
            }
            state.created.push_back(key.clone());
        }
        self.end(fault, key.as_str(), put)
    }

    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        let fault = self.begin(Op::Get, key.as_str()).await?;
        let bytes = self.inner.get(key, range).await?;
        if self.omits(fault) {
            return Err(StoreError::Absent { address: self.inner.address(), key: key.clone() });
        }
        self.end(fault, key.as_str(), self.spoil(fault, bytes))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let fault = self.begin(Op::Head, key.as_str()).await?;
        let found = self.inner.head(key).await?;
        self.end(fault, key.as_str(), if self.omits(fault) { None } else { found })
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let fault = self.begin(Op::List, prefix).await?;
        let mut page = self.inner.list(prefix, after).await?;
        self.hide(fault, &mut page);
        if self.omits(fault) {
            page = Page { objects: Vec::new(), more: false };
        }
        self.end(fault, prefix, page)
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let fault = self.begin(Op::Folders, folder).await?;
        let found = self.inner.folders(folder).await?;
        self.end(fault, folder, if self.omits(fault) { Vec::new() } else { found })
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let fault = self.begin(Op::Delete, key.as_str()).await?;
        self.inner.delete(key).await?;
        self.end(fault, key.as_str(), ())
    }

    async fn refuses_wrong_checksum(&self, key: &Key) -> Result<Option<bool>, StoreError> {
        self.inner.refuses_wrong_checksum(key).await
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}

#[cfg(test)]
mod tests;
