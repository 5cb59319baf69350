//! A mongod of our own: a set of one, in the folder that is restored into.
//!
//! Enters: a folder and a program. Leaves: a server on a private port, a child of ours, that ends
//! when this value goes. What it writes to its log stands in the folder's `.pitr/mongod.log`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bson::doc;
use mongodb::Client;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::error::ReplayError;
use crate::fetch::WORK_FOLDER;
use crate::fetch::place::Owner;
use crate::target::postgres::owner::can_run;

/// What a server may take to answer: it goes through its journal first.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How to run it.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) folder: PathBuf,
    pub(super) program: PathBuf,
    pub(super) port: u16,
    /// Whose the folder is, and as whom it runs; `None` is ourselves.
    owner: Option<Owner>,
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct OwnServer {
    child: Child,
    pub(super) client: Client,
    log: PathBuf,
}

impl Own {
    /// Finds the program: the one given, or `mongod` in PATH.
    ///
    /// # Errors
    /// When there is none, or no port is free.
    pub(super) fn new(
        folder: &Path,
        program: Option<PathBuf>,
        port: Option<u16>,
        owner: Option<Owner>,
    ) -> Result<Self, ReplayError> {
        let program = program.map_or_else(in_path, |given| given.is_file().then_some(given));
        let program = program.ok_or(ReplayError::NoServer)?;
        let free = || TcpListener::bind(("127.0.0.1", port.unwrap_or(0)));
        let taken = |_| ReplayError::Port { port: port.unwrap_or(0) };
        let port = free().and_then(|bound| bound.local_addr()).map_err(taken)?.port();
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        if !can_run(&program, owner) {
            let detail = format!("that user may not run {}", program.display());
            return Err(ReplayError::RunAs { detail });
        }
        let own = Self { folder, program, port, owner };
        own.give_away()?;
        Ok(own)
    }

    /// What is in the folder already becomes the owner's; the server makes the rest.
    fn give_away(&self) -> Result<(), ReplayError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let work = self.folder.join(WORK_FOLDER);
        let mut paths = vec![self.folder.clone(), work.clone()];
        paths.extend(std::fs::read_dir(&work).into_iter().flatten().flatten().map(|e| e.path()));
        for path in paths {
            let given = std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid));
            given.map_err(|source| ReplayError::Io { action: "giving away", path, source })?;
        }
        Ok(())
    }

    /// Starts it as a member of `set`, or as no member of any; it answers when this returns.
    ///
    /// # Errors
    /// When it does not start, with what its log says.
    pub(super) async fn start(&self, set: Option<&str>) -> Result<OwnServer, ReplayError> {
        let log = self.folder.join(WORK_FOLDER).join("mongod.log");
        let failed = |detail: String| ReplayError::Server { detail };
        let mut command = Command::new(&self.program);
        command
            .arg("--dbpath")
            .arg(&self.folder)
            .arg("--logpath")
            .arg(&log)
            .args(["--logappend", "--nounixsocket", "--bind_ip", "127.0.0.1", "--port"])
            .arg(self.port.to_string())
            .args(["--setParameter", "ttlMonitorEnabled=false"]);
        if let Some(set) = set {
            command.args(["--replSet", set]);
        }
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid).current_dir("/");
        }
        // A Ctrl-C goes to us, and we decide when the server ends.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            command.spawn().map_err(|error| failed(format!("{:?}: {error}", self.program)))?;
        let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port);
        let client = Client::with_uri_str(url).await;
        let client = client.map_err(ReplayError::target("connecting to the own server"))?;
        let mut server = OwnServer { child, client, log };
        server.await_answer().await?;
        Ok(server)
    }

    /// The set's only member, as which it takes writes.
    ///
    /// # Errors
    /// When it does not become the primary.
    pub(super) async fn initiate(
        &self,
        server: &mut OwnServer,
        set: &str,
    ) -> Result<(), ReplayError> {
        let admin = server.client.database("admin");
        let host = format!("127.0.0.1:{}", self.port);
        let config = doc! { "_id": set, "members": [{ "_id": 0, "host": &host }] };
        let initiate = doc! { "replSetInitiate": config };
        match admin.run_command(initiate).await {
            Err(error) if super::error::code_of(&error) == Some(ALREADY_INITIALIZED) => {
                move_to(&server.client, host).await?;
            }
            done => drop(done.map_err(ReplayError::target("making a replica set of one"))?),
        }
        let give_up = Instant::now() + READY_TIMEOUT;
        loop {
            let hello = admin.run_command(doc! { "hello": 1 }).await;
            let primary = hello.is_ok_and(|h| h.get_bool("isWritablePrimary").unwrap_or(false));
            if primary {
                return Ok(());
            }
            server.check(give_up)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

const ALREADY_INITIALIZED: i32 = 23;

/// The set that an interrupted run left has the port of that run: on another one its only member
/// would take itself for removed, and never become its primary.
async fn move_to(client: &Client, host: String) -> Result<(), ReplayError> {
    let failed = || ReplayError::target("giving the replica set of one its new port");
    let admin = client.database("admin");
    let known = admin.run_command(doc! { "replSetGetConfig": 1 }).await.map_err(failed())?;
    let mut config = known.get_document("config").cloned().unwrap_or_default();
    let member = config.get_array_mut("members").ok().and_then(|members| members.first_mut());
    let Some(member) = member.and_then(bson::Bson::as_document_mut) else { return Ok(()) };
    if member.get_str("host").is_ok_and(|known| known == host) {
        return Ok(());
    }
    member.insert("host", host);
    config.insert("version", config.get_i32("version").unwrap_or(1) + 1);
    let moved = doc! { "replSetReconfig": config, "force": true };
    admin.run_command(moved).await.map(drop).map_err(failed())
}

impl OwnServer {
    async fn await_answer(&mut self) -> Result<(), ReplayError> {
        let give_up = Instant::now() + READY_TIMEOUT;
        loop {
            let admin = self.client.database("admin");
            let asked = admin.run_command(doc! { "ping": 1 });
            if matches!(tokio::time::timeout(Duration::from_secs(2), asked).await, Ok(Ok(_))) {
                return Ok(());
            }
            self.check(give_up)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn check(&mut self, give_up: Instant) -> Result<(), ReplayError> {
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_none() && Instant::now() < give_up {
            return Ok(());
        }
        let what = ended.map_or("it does not answer".to_owned(), |status| status.to_string());
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
        let shown: String = lines.iter().rev().map(|line| format!("\n    {line}")).collect();
        Err(ReplayError::Server { detail: format!("{what}{shown}") })
    }

    /// Ends it cleanly, and waits until it has.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) async fn stop(mut self) -> Result<(), ReplayError> {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ReplayError::Server { detail: status.to_string() }),
            _ => Err(ReplayError::Server { detail: "it does not end".to_owned() }),
        }
    }

    /// Lets it run on when this program ends.
    pub(super) fn leave(mut self) -> Option<u32> {
        let pid = self.child.id();
        // Dropping a child that is not to be killed lets it be.
        let _ = self.child.try_wait();
        std::mem::forget(self.child);
        pid
    }
}

const LOG_LINES: usize = 10;

fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("mongod")).find(|file| file.is_file())
}
