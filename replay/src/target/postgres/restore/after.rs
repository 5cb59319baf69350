//! From a folder that is laid out to one that is at the moment: recovery, proof, and how it is left.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proto::store::Store;
use tokio_util::sync::CancellationToken;

use super::phases::Phases;
use super::{RestoreOptions, Then};
use crate::fetch::prefetch::Prefetcher;
use crate::fetch::{PLAN_FILE, WORK_FOLDER};
use crate::plan::Plan;
use crate::target::postgres::binaries::Binaries;
use crate::target::postgres::config::{self, Sources};
use crate::target::postgres::layout::{REPORT_FILE, STATE_FILE};
use crate::target::postgres::recovery::{self, AtTarget, Recovery};
use crate::target::postgres::report::{Left, Report};
use crate::target::postgres::server::{Server, Start};
use crate::target::postgres::{RestoreError, owner};
use crate::target::progress::Progress;

const USUAL_PORT: u16 = 5432;

/// What running a laid-out folder needs.
pub(super) struct Run<'a> {
    pub(super) store: Arc<dyn Store>,
    pub(super) plan: &'a Plan,
    pub(super) options: &'a RestoreOptions,
    pub(super) binaries: &'a Binaries,
    pub(super) sources: Sources<'a>,
    pub(super) jobs: usize,
    pub(super) progress: &'a dyn Progress,
    pub(super) interrupted: &'a CancellationToken,
}

impl Run<'_> {
    fn start(&self, stays_on: Option<u16>) -> Start<'_> {
        Start {
            folder: self.sources.folder,
            binaries: self.binaries,
            owner: self.sources.owner,
            stays_on,
        }
    }

    /// Recovery to the target, proof, and the folder left as asked.
    pub(super) async fn recover(
        self,
        report: &mut Report,
        phases: &mut Phases,
    ) -> Result<(), RestoreError> {
        let folder = self.sources.folder;
        let port = port(self.options)?;
        let pausing = port.filter(|_| self.options.then == Then::Pause);
        let work = folder.join(WORK_FOLDER);
        let plan = Arc::new(self.plan.clone());
        let (store, owner) = (self.store.clone(), self.sources.owner);
        // An earlier run may have ended recovery already, and was stopped behind it.
        let recovered = recovery::has_ended(&self.start(None), &self.sources).await?;
        let prefetcher = Prefetcher::start(store, plan, &work, owner, self.jobs)?;
        let reached = if recovered {
            self.enter_recovered().await?
        } else {
            let recovery = Recovery {
                sources: Sources { ..self.sources },
                start: self.start(pausing),
                prefetcher: &prefetcher,
                progress: self.progress,
                interrupted: self.interrupted,
            };
            Box::pin(recovery.to_target()).await?
        };
        phases.ended("recovery");
        report.log_bytes = prefetcher.fetched_bytes();
        let ended = reached.promoted.then_some(folder);
        let (client, log) = (&reached.client, &reached.server.log);
        let proved = recovery::prove(client, self.plan, log, ended).await;
        let (checks, position) = match proved {
            Ok(proved) => proved,
            Err(error) => {
                let _ = reached.server.stop().await;
                return Err(error);
            }
        };
        (report.checks, report.reached) = (checks, position);
        let left = match self.options.then {
            Then::Pause if !reached.promoted => self.leave_paused(reached, report).await,
            _ => Box::pin(self.end(reached, report, port)).await,
        };
        prefetcher.stop().await;
        left?;
        phases.ended("finish");
        report.next = next_commands(report, self.options, Some(self.binaries));
        Ok(())
    }

    /// The server of a folder whose recovery has ended.
    async fn enter_recovered(&self) -> Result<AtTarget, RestoreError> {
        let mut server = Server::start(&self.start(None)).await?;
        let candidates = crate::target::postgres::superuser::candidates(self.sources.folder);
        let entered = recovery::enter_when_up(&mut server, &candidates, self.interrupted).await;
        match entered {
            Ok((client, user)) => Ok(AtTarget {
                server,
                client,
                user,
                promoted: true,
                raised: self.sources.raised.clone(),
            }),
            Err(error) => {
                let _ = server.stop().await;
                Err(error)
            }
        }
    }

    /// Ends recovery, puts to sleep what must not wake up in a copy, and stops or starts it.
    async fn end(
        &self,
        mut reached: AtTarget,
        report: &mut Report,
        port: Option<u16>,
    ) -> Result<(), RestoreError> {
        let woken = self.wake(&mut reached, report).await;
        drop(reached.client);
        let stopped = reached.server.stop().await;
        woken?;
        stopped?;
        config::end_recovery(self.sources.folder, self.sources.owner)?;
        report.left = Left::Stopped;
        // Before the journal goes: a folder with neither would be nobody's.
        super::keep(report, self.sources.owner)?;
        clear_work(self.sources.folder)?;
        if let Some(port) = port {
            report.pid = Some(self.start_for_good(port)?);
            report.port = Some(port);
            report.left = Left::Running;
        }
        Ok(())
    }

    async fn wake(&self, reached: &mut AtTarget, report: &mut Report) -> Result<(), RestoreError> {
        if !reached.promoted {
            let server = &mut reached.server;
            recovery::promote(server, &reached.client, self.interrupted).await?;
        }
        let (server, client, user) = (&reached.server, &reached.client, &reached.user);
        report.subscriptions = recovery::quiet_subscriptions(client).await?;
        let major = self.plan.base.version_num / 10_000;
        report.collations = recovery::collations(server, client, user, major).await?;
        for database in recovery::half_dropped(client).await? {
            let note = format!("the database {database} was being dropped: DROP DATABASE it again");
            self.progress.say(&format!("note: {note}"));
            report.notes.push(note);
        }
        report.new_timeline = Some(recovery::timeline_of(client).await?);
        let what = "for a checkpoint";
        client
            .batch_execute("CHECKPOINT")
            .await
            .map_err(|source| RestoreError::Query { what, source })
    }

    /// Lets readers in by the copy's own rules, and goes.
    async fn leave_paused(
        &self,
        reached: AtTarget,
        report: &mut Report,
    ) -> Result<(), RestoreError> {
        let AtTarget { server, client, user, .. } = reached;
        let major = self.plan.base.version_num / 10_000;
        report.collations = recovery::collations(&server, &client, &user, major).await?;
        config::open_to_readers(self.sources.folder, self.sources.owner)?;
        let what = "to read its rules again";
        client
            .batch_execute("SELECT pg_reload_conf()")
            .await
            .map_err(|source| RestoreError::Query { what, source })?;
        report.port = Some(server.port);
        report.pid = Some(server.leave());
        report.left = Left::Paused;
        Ok(())
    }

    /// By `pg_ctl`, as anybody would.
    fn start_for_good(&self, port: u16) -> Result<u32, RestoreError> {
        let folder = self.sources.folder;
        let program = self.binaries.program("pg_ctl");
        let mut command = Command::new(&program);
        command.arg("-D").arg(folder).arg("-l").arg(folder.join(WORK_FOLDER).join("server.log"));
        command.args(["-w", "-t", "600", "-s", "-o"]);
        command.arg(format!("-c port={port} -c listen_addresses=localhost"));
        command.arg("start").current_dir(folder);
        owner::as_owner(&mut command, self.sources.owner);
        let failed = |detail: String| RestoreError::Program { program: program.clone(), detail };
        let output = command.output().map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let text = std::fs::read_to_string(folder.join("postmaster.pid")).unwrap_or_default();
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.ok_or_else(|| failed("it left no postmaster.pid".to_owned()))
    }
}

/// What a finished copy needs no more: fetched log, plan, and the journal last of all, so that a
/// killed run is known for what it is.
fn clear_work(folder: &Path) -> Result<(), RestoreError> {
    let work = folder.join(WORK_FOLDER);
    let failed = |source| RestoreError::Io { action: "emptying", path: work.clone(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&work).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    let rank = |name: &OsString| match name.to_str() {
        Some(STATE_FILE) => 2,
        Some(PLAN_FILE) => 1,
        _ => 0,
    };
    names.sort_by_key(rank);
    let kept = |name: &OsString| name == "server.log" || name == REPORT_FILE;
    for path in names.iter().filter(|name| !kept(name)).map(|name| work.join(name)) {
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(failed)?;
    }
    Ok(())
}

/// Where a server that is left running listens.
pub(super) fn port(options: &RestoreOptions) -> Result<Option<u16>, RestoreError> {
    match options.then {
        Then::Pause | Then::Start => free_port(options.port).map(Some),
        Then::Stop | Then::LayOut => Ok(None),
    }
}

/// The port that was asked for, or the first free one from the usual one on.
fn free_port(wanted: Option<u16>) -> Result<u16, RestoreError> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    match wanted {
        Some(port) if free(port) => Ok(port),
        Some(port) => Err(RestoreError::Port { port }),
        None => (USUAL_PORT..USUAL_PORT + 200)
            .find(|port| free(*port))
            .ok_or(RestoreError::Port { port: USUAL_PORT }),
    }
}

/// Check, cut over, protect the copy.
pub(super) fn next_commands(
    report: &Report,
    options: &RestoreOptions,
    binaries: Option<&Binaries>,
) -> Vec<String> {
    let folder = super::super::config::shell_quoted(&report.folder.display().to_string());
    let bin = binaries.map_or(String::new(), |found| format!("{}/", found.folder.display()));
    let ctl = match owner::name(options.run_as.as_deref()) {
        Some(user) => format!("runuser -u {user} -- {bin}pg_ctl -D {folder}"),
        None => format!("{bin}pg_ctl -D {folder}"),
    };
    let port = report.port.or(options.port).unwrap_or(5433);
    let ask = format!("{bin}psql -h localhost -p {port} -d postgres -c 'SELECT now()'");
    let check = match report.left {
        Left::Paused | Left::Running => ask,
        Left::Stopped => format!("{ctl} -o '-p {port}' -w start && {ask}"),
        Left::LaidOut => format!("{ctl} -o '-p {port}' -w -t 86400 start && {ask}"),
    };
    let cut_over = match report.left {
        Left::Paused | Left::LaidOut => {
            format!("{bin}psql -h localhost -p {port} -d postgres -c 'SELECT pg_promote()'")
        }
        Left::Stopped | Left::Running => format!("{ctl} -o '-p 5432' -w restart"),
    };
    let archive = super::super::config::shell_quoted(&report.archive);
    vec![
        format!("check:    {check}"),
        format!("cut over: {cut_over}"),
        format!(
            "protect:  pitrd run --source 'postgresql://localhost:5432/postgres' --archive \
             A-NEW-ARCHIVE   (never {archive}, which is the source's)"
        ),
    ]
}
