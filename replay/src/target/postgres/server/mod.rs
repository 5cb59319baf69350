//! The server that performs the recovery: started on a private socket, watched, always stopped.
//!
//! Enters: a data folder. Leaves: a process of ours in its own process group, reachable only
//! through a folder that its user alone enters. It is stopped by its pid when we end, however we
//! end: by us, by our destructor, or by the kernel (PR_SET_PDEATHSIG) when we are killed.

mod log;

pub use log::Log;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio_postgres::{Client, Config, NoTls};

use super::RestoreError;
use super::binaries::Binaries;
use super::config::PRIVATE_HBA;
use super::layout::give;
use crate::fetch::WORK_FOLDER;
use crate::fetch::place::Owner;

const PRIVATE_PORT: u16 = 5432;
/// A fast shutdown writes one checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// An earlier server of a killed restore gets the kernel's signal; this long it may take.
const EARLIER_TIMEOUT: Duration = Duration::from_secs(120);
/// Of 107 bytes: a slash, `.s.PGSQL.65535` and `.lock` follow.
const SOCKET_FOLDER_MAX: usize = 86;
const POLL: Duration = Duration::from_millis(100);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    pub folder: &'a Path,
    pub binaries: &'a Binaries,
    pub owner: Option<Owner>,
    /// Listens on this port of the loopback too, and lives on when we end.
    pub stays_on: Option<u16>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    pid: rustix::process::Pid,
    /// Where its socket is.
    pub sockets: PathBuf,
    pub port: u16,
    pub log: Log,
    folder: PathBuf,
    stays: bool,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { action, path, source }
}

impl Server {
    /// Starts the server; it need not answer yet when this returns.
    ///
    /// # Errors
    /// When the program cannot be run, or an earlier server does not end.
    pub async fn start(start: &Start<'_>) -> Result<Self, RestoreError> {
        earlier_has_ended(start.folder).await?;
        let work = start.folder.join(WORK_FOLDER);
        let sockets = socket_folder(&work, start.owner)?;
        let path = work.join("server.log");
        let log = Log::open(&path)?;
        // Whoever starts the server next appends to it as its own user.
        give(&path, start.owner)?;
        let port = start.stays_on.unwrap_or(PRIVATE_PORT);
        let mut command = Command::new(start.binaries.program("postgres"));
        command.arg("-D").arg(start.folder).args(arguments(start, &sockets, port));
        command.current_dir(start.folder).env_remove("PGDATA").env_remove("PGPORT");
        command.stdin(Stdio::null());
        let (out, err) = (log.writer()?, log.writer()?);
        command.stdout(out).stderr(err);
        super::owner::as_owner(&mut command, start.owner);
        // A Ctrl-C goes to us, and we decide when the server ends.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if start.stays_on.is_none() {
            end_with_parent(&mut command);
        }
        let program = start.binaries.program("postgres");
        let failed = |detail: String| RestoreError::Program { program, detail };
        let child = tokio::process::Command::from(command).spawn();
        let child = child.map_err(|e| failed(e.to_string()))?;
        let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| RestoreError::Stopped { detail: "no process".to_owned() })?;
        Ok(Self {
            child: Some(child),
            pid,
            sockets,
            port,
            log,
            folder: start.folder.to_owned(),
            stays: start.stays_on.is_some(),
        })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, RestoreError> {
        match &mut self.child {
            Some(child) => child.try_wait().map_err(io("waiting for", &self.folder)),
            None => Ok(None),
        }
    }

    /// A connection, as soon as the server takes one; `None` while it does not.
    pub async fn connect(&self, user: &str, database: &str) -> Option<Client> {
        let mut config = Config::new();
        config
            .host_path(&self.sockets)
            .port(self.port)
            .user(user)
            .dbname(database)
            .application_name("pitr restore")
            // Nothing that the copy's own settings say shall keep us from finishing it.
            .options(
                "-c default_transaction_read_only=off -c statement_timeout=0 \
                      -c lock_timeout=0 -c client_min_messages=warning",
            )
            .connect_timeout(Duration::from_secs(10));
        let (client, connection) = config.connect(NoTls).await.ok()?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the server ended");
            }
        });
        Some(client)
    }

    /// Ends it cleanly (a fast shutdown) and waits until it has.
    ///
    /// # Errors
    /// When it does not end, or not cleanly.
    pub async fn stop(mut self) -> Result<(), RestoreError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::INT);
        let ended = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await;
        let _ = std::fs::remove_dir_all(&self.sockets);
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(_) => {
                let what = "the server did not end cleanly".to_owned();
                Err(RestoreError::Server { what, log: self.log.failures() })
            }
            Err(_) => {
                let _ = child.start_kill();
                let what = "the server did not end within ten minutes".to_owned();
                Err(RestoreError::Server { what, log: self.log.failures() })
            }
        }
    }

    /// Lets it live on without us.
    pub fn leave(mut self) -> u32 {
        self.child = None;
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::INT);
            if !self.stays {
                let _ = std::fs::remove_dir_all(&self.sockets);
            }
        }
    }
}

/// What overrides the copy's own settings while recovery is ours.
fn arguments(start: &Start<'_>, sockets: &Path, port: u16) -> Vec<String> {
    let work = start.folder.join(WORK_FOLDER);
    let listen = if start.stays_on.is_some() { "localhost" } else { "" };
    let settings = [
        ("unix_socket_directories", sockets.display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
        ("unix_socket_group", String::new()),
        ("listen_addresses", listen.to_owned()),
        ("port", port.to_string()),
        ("hba_file", work.join(PRIVATE_HBA).display().to_string()),
        ("ident_file", work.join("pg_ident.conf").display().to_string()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        // Its words are read: in English.
        ("lc_messages", "C".to_owned()),
        ("log_min_messages", "info".to_owned()),
        ("log_line_prefix", "%m [%p] ".to_owned()),
        ("archive_mode", "off".to_owned()),
        ("synchronous_standby_names", String::new()),
        ("max_logical_replication_workers", "0".to_owned()),
        // The folder is to be left at the moment: nothing is tidied.
        ("autovacuum", "off".to_owned()),
        ("restart_after_crash", "off".to_owned()),
    ];
    settings.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// A folder that only the server's user enters, short enough for a socket's address (unix(7)): in
/// the work folder, so that nothing is left behind by a kill, or among the temporary files.
fn socket_folder(work: &Path, owner: Option<Owner>) -> Result<PathBuf, RestoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let own = work.join("sockets");
    let short = |path: &PathBuf| path.as_os_str().len() <= SOCKET_FOLDER_MAX;
    let path = Some(own).filter(short).unwrap_or_else(|| {
        std::env::temp_dir().join(format!("pitr-{:016x}", rand::random::<u64>()))
    });
    let _ = std::fs::remove_dir_all(&path);
    std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(io("creating", &path))?;
    give(&path, owner)?;
    Ok(path)
}

/// Has the kernel stop the server (a fast shutdown) when we are gone.
fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let set = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::INT))?;
        // Gone between fork and here: the signal would never come.
        match rustix::process::getppid() {
            Some(now) if now == parent => Ok(()),
            _ => Err(std::io::ErrorKind::Interrupted.into()),
        }
    };
    // SAFETY: between fork and exec only two system calls are made (prctl, getppid); nothing
    // allocates, locks or touches memory that the parent shares.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(command, set);
    }
}

/// A server that a killed restore left has been told to end; the next one needs its folder.
///
/// # Errors
/// When it goes on running.
pub async fn earlier_has_ended(folder: &Path) -> Result<(), RestoreError> {
    let path = folder.join("postmaster.pid");
    let deadline = tokio::time::Instant::now() + EARLIER_TIMEOUT;
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        let runs = pid.is_some_and(|pid| {
            !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
        });
        if !runs {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let what = format!("a server runs in {} already", folder.display());
            return Err(RestoreError::Server { what, log: Vec::new() });
        }
        tokio::time::sleep(POLL).await;
    }
}
