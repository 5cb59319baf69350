//! Fetches log ahead of a recovery that is under way, and answers its `wal-fetch`.
//!
//! Enters: a plan, and names over a unix socket in the work folder. Leaves: whole files in the folder beside
//! it, fetched in parallel and ahead in the order in which recovery will ask, bounded by bytes.
//! After a crash at any line only whole files stand under final names, and nobody answers the
//! socket: `wal-fetch` then fetches by itself.

mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::postgres::lsn::{Lsn, SegmentId};
use proto::store::Store;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::place::{Owner, write_whole};
use super::{AHEAD_FOLDER, FetchError, assemble};
use crate::plan::{self, Plan};

/// How much is fetched ahead, unless told otherwise.
pub const AHEAD_BYTES: u64 = 256 << 20;
/// And never more files than this, however small they are.
const AHEAD_FILES_MAX: u64 = 64;
/// Requests that wait to be looked at: recovery asks one by one.
const REQUESTS_MAX: usize = 16;

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The whole file stands in the folder.
    File,
    /// Proved by the plan.
    Absent,
    Doubt(String),
}

struct Request {
    name: String,
    reply: oneshot::Sender<Answer>,
}

/// A running prefetcher; it ends when this is dropped.
#[derive(Debug)]
pub struct Prefetcher {
    stop: CancellationToken,
    task: JoinHandle<()>,
    seen: Arc<Seen>,
}

/// A file that recovery asked for and did not get.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub name: String,
    pub why: Arc<FetchError>,
}

/// What others may look at while it runs.
#[derive(Debug, Default)]
struct Seen {
    /// End of the last segment handed over.
    handed_over: AtomicU64,
    fetched_bytes: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
}

impl Prefetcher {
    /// Clears what an earlier run left, begins to fetch and to answer.
    ///
    /// # Errors
    /// When the folder or the socket cannot be made.
    pub fn start(
        store: Arc<dyn Store>,
        plan: Arc<Plan>,
        work: &Path,
        owner: Option<Owner>,
        parallel: usize,
    ) -> Result<Self, FetchError> {
        let folder = work.join(AHEAD_FOLDER);
        fresh_folder(&folder, owner)?;
        let listener = serve::listen(work, owner)?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let stop = CancellationToken::new();
        let seen = Arc::new(Seen::default());
        let window = (AHEAD_BYTES / plan.segment_size().bytes()).clamp(2, AHEAD_FILES_MAX);
        let ahead = Ahead {
            order: plan.segments.iter().map(|segment| segment.name.clone()).collect(),
            cursor: 0,
            window: usize::try_from(window).expect("a few dozen"),
            parallel: parallel.max(1),
            fetch: Arc::new(Fetch { store, plan, folder, owner }),
            states: BTreeMap::new(),
            waiting: Vec::new(),
            running: JoinSet::new(),
            seen: seen.clone(),
        };
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = ahead.run(inbox) => {}
                () = serve::answer(listener, requests) => {}
            }
        });
        Ok(Self { stop, task, seen })
    }

    /// Everything before this position has been handed to recovery.
    pub fn handed_over(&self) -> Option<Lsn> {
        let at = self.seen.handed_over.load(Ordering::Relaxed);
        (at > 0).then_some(Lsn(at))
    }

    /// Raw bytes of log fetched so far.
    pub fn fetched_bytes(&self) -> u64 {
        self.seen.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Why the last request could not be served, if one could not.
    pub fn trouble(&self) -> Option<Trouble> {
        self.seen.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Ends it and waits until nothing of it runs any more.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn fresh_folder(folder: &Path, owner: Option<Owner>) -> Result<(), FetchError> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(FetchError::io("emptying", folder)(e));
        }
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(FetchError::io("creating", folder))?;
    if let Some(owner) = owner {
        std::os::unix::fs::chown(folder, Some(owner.uid), Some(owner.gid))
            .map_err(FetchError::io("giving away", folder))?;
    }
    Ok(())
}

/// What one fetch needs; shared by those that run.
#[derive(Debug)]
struct Fetch {
    store: Arc<dyn Store>,
    plan: Arc<Plan>,
    folder: PathBuf,
    owner: Option<Owner>,
}

impl Fetch {
    async fn file(&self, name: &str) -> Result<u64, FetchError> {
        let bytes: Bytes = assemble::file(&*self.store, &self.plan, name)
            .await?
            .ok_or_else(|| FetchError::NotInPlan { name: name.to_owned() })?;
        let (path, owner) = (self.folder.join(name), self.owner);
        let written = tokio::task::spawn_blocking(move || {
            // One that was handed over before and never taken: the same bytes, fetched again.
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FetchError::io("removing", &path)(e));
                }
                _ => {}
            }
            write_whole(&path, &bytes, owner).map(|()| bytes.len() as u64)
        });
        written.await.map_err(|e| FetchError::Stopped { detail: e.to_string() })?
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fetching,
    Ready,
    /// Not fetched again until somebody asks for it.
    Failed,
}

struct Ahead {
    fetch: Arc<Fetch>,
    /// The planned segments, in the order in which recovery reads them.
    order: Vec<String>,
    /// The one that recovery will ask for next, as far as we know.
    cursor: usize,
    window: usize,
    parallel: usize,
    states: BTreeMap<String, State>,
    waiting: Vec<Request>,
    running: JoinSet<(String, Result<u64, FetchError>)>,
    seen: Arc<Seen>,
}

impl Ahead {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        loop {
            self.fill();
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.take_request(request),
                    None => return,
                },
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    self.fetched(done);
                }
            }
        }
    }

    /// The names that recovery will ask for next.
    fn window(&self) -> &[String] {
        let end = self.order.len().min(self.cursor + self.window);
        self.order.get(self.cursor..end).unwrap_or_default()
    }

    /// Begins to fetch what recovery will want, nearest first.
    fn fill(&mut self) {
        let free = self.parallel.saturating_sub(self.running.len());
        let wanted = self.window().iter().filter(|name| !self.states.contains_key(*name));
        for name in wanted.take(free).cloned().collect::<Vec<_>>() {
            self.begin(name);
        }
    }

    fn begin(&mut self, name: String) {
        self.states.insert(name.clone(), State::Fetching);
        let fetch = self.fetch.clone();
        self.running.spawn(async move {
            let result = fetch.file(&name).await;
            (name, result)
        });
    }

    fn take_request(&mut self, request: Request) {
        match self.fetch.plan.answer(&request.name) {
            plan::Answer::Absent => {
                let _ = request.reply.send(Answer::Absent);
                return;
            }
            plan::Answer::Unknown => {
                let error = FetchError::NotInPlan { name: request.name.clone() };
                return self.doubt(request, &Arc::new(error));
            }
            plan::Answer::Segment(_) | plan::Answer::History(_) => {}
        }
        if let Some(at) = self.order.iter().position(|name| *name == request.name) {
            self.move_window(at);
        }
        match self.states.get(&request.name) {
            Some(State::Ready) => self.hand_over(request),
            Some(State::Fetching) => self.waiting.push(request),
            Some(State::Failed) | None => {
                self.begin(request.name.clone());
                self.waiting.push(request);
            }
        }
    }

    /// Recovery reads on from here: files outside the new window are let go, so that jumping back
    /// (to the redo position, or after a restart) never holds more than one window of bytes.
    fn move_window(&mut self, to: usize) {
        self.cursor = to;
        let kept: BTreeSet<String> = self.window().iter().cloned().collect();
        let folder = &self.fetch.folder;
        self.states.retain(|name, state| {
            let keep = *state == State::Fetching || kept.contains(name) || name.len() != 24;
            if !keep && *state == State::Ready {
                let _ = std::fs::remove_file(folder.join(name));
            }
            keep
        });
    }

    fn fetched(&mut self, done: Result<(String, Result<u64, FetchError>), tokio::task::JoinError>) {
        let (name, result) = match done {
            Ok(done) => done,
            // A fetch that panicked does not say which it was: whoever waits gets the doubt.
            Err(error) => {
                let error = Arc::new(FetchError::Stopped { detail: error.to_string() });
                for request in std::mem::take(&mut self.waiting) {
                    self.doubt(request, &error);
                }
                self.states.retain(|_, state| *state == State::Ready);
                return;
            }
        };
        let waiting = self.waiting.iter().position(|request| request.name == name);
        let waiting = waiting.map(|at| self.waiting.swap_remove(at));
        match (result, waiting) {
            (Ok(bytes), waiting) => {
                self.seen.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.states.insert(name, State::Ready);
                if let Some(request) = waiting {
                    self.hand_over(request);
                }
            }
            (Err(error), waiting) => {
                tracing::warn!(name, error = error.told(), "log could not be fetched");
                self.states.insert(name, State::Failed);
                if let Some(request) = waiting {
                    self.doubt(request, &Arc::new(error));
                }
            }
        }
    }

    fn hand_over(&mut self, request: Request) {
        self.states.remove(&request.name);
        let size = self.fetch.plan.segment_size();
        if let Ok(id) = SegmentId::parse(&request.name, size) {
            self.cursor += 1;
            self.seen.handed_over.store(id.end(size).0, Ordering::Relaxed);
        }
        let _ = request.reply.send(Answer::File);
    }

    fn doubt(&self, request: Request, why: &Arc<FetchError>) {
        let trouble = Trouble { name: request.name, why: why.clone() };
        *self.seen.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(trouble);
        let _ = request.reply.send(Answer::Doubt(why.told()));
    }
}

pub use serve::ask;
