//! What the documents tell people to type is typed: the blocks marked `sh run` of README,
//! OPERATIONS and RECOVERY, one document after the other, each on a server and archive of its own.
//!
//! The blocks see PATH with our programs and the server's, `SOURCE`, `ARCHIVE`, `DIR`, `MOMENT`,
//! and the variables that stand for flags. `sh run background` is left running to the end.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tests::fetch;
use tests::ports::Port;
use tests::postgres::{Cluster, SUPERUSER};
use tests::process::{self, Death};
use tests::programs;
use tests::scope;
use tests::scratch::Folder;
use tests::user;
use tests::wait::Deadline;

/// A fenced block that is to be executed.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    background: bool,
    script: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            let background = line == "```sh run background";
            inside = background || line == "```sh run";
            if inside {
                found.push(Block { line: at + 1, background, script: String::new() });
            }
        } else if inside && let Some(block) = found.last_mut() {
            block.script.push_str(line);
            block.script.push('\n');
        }
    }
    found
}

/// One document's server, archive and folder.
struct Reader {
    environment: Vec<(String, String)>,
    archive: String,
    cluster: Cluster,
    folder: Folder,
    running: Vec<Child>,
    _port: Port,
}

impl Reader {
    fn new() -> Result<Self> {
        let cluster = Cluster::start_new(scope::newest_postgres())?;
        let (folder, port) = (Folder::new("docs")?, Port::take()?);
        let below = |name: &str| folder.path().join(name).display().to_string();
        let archive = below("archive");
        let source = cluster.url("pitr", "postgres");
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = fetch::profile()?;
        let path = format!("{}:{}:{path}", programs.display(), cluster.bin_dir().display());
        let mut environment = vec![
            ("PATH", path),
            ("HOME", folder.path().display().to_string()),
            ("PGHOST", cluster.socket_dir().display().to_string()),
            ("PGPORT", cluster.port().to_string()),
            ("PGUSER", SUPERUSER.to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
            ("SOURCE", source.clone()),
            ("ARCHIVE", archive.clone()),
            ("DIR", below("restored")),
            ("PITR_SOURCE", source),
            ("PITR_ARCHIVE", archive.clone()),
            ("PITR_PG_BIN", cluster.bin_dir().display().to_string()),
            ("PITR_SPOOL", below("spool")),
            ("PITR_LISTEN", format!("127.0.0.1:{}", port.number())),
        ];
        if let Some(user) = user::run_as() {
            environment.push(("PITR_RUN_AS", user.to_owned()));
        }
        let environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let running = Vec::new();
        Ok(Self { environment, archive, cluster, folder, running, _port: port })
    }

    fn command(&self, script: &str) -> Command {
        let mut command = process::command("sh", None, Death::Kill);
        command.args(["-eu", "-c", script]).current_dir(self.folder.path());
        command.stdin(Stdio::null()).envs(self.environment.iter().cloned());
        command
    }

    fn execute(&mut self, document: &str, block: &Block) -> Result<()> {
        let place = format!("{document}, line {}:\n{}", block.line, block.script);
        println!("{place}");
        if block.background {
            // `exec`, so that its end is the shell's end.
            let log = std::fs::File::create(self.folder.path().join("background.log"))?;
            let mut command = self.command(&format!("exec {}", block.script));
            command.stdout(log.try_clone()?).stderr(log);
            self.running.push(process::spawn(command)?);
            let log = self.folder.path().join("background.log");
            return self.make_a_moment().with_context(|| place + &process::tail_of(&log, 30));
        }
        let output = self.command(&block.script).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        println!("{said}");
        if !output.status.success() {
            bail!("{place}--- ended with {}\n{said}", output.status);
        }
        Ok(())
    }

    /// Once there is a base: something to come back to, and a commit behind it that proves it.
    fn make_a_moment(&mut self) -> Result<()> {
        self.await_window("")?;
        self.cluster.sql("CREATE TABLE before_it (n int)")?;
        let moment = self.cluster.record("postgres")?.time;
        self.cluster.sql("CREATE TABLE behind_it (n int)")?;
        self.await_window(&moment)?;
        self.environment.push(("MOMENT".to_owned(), moment));
        Ok(())
    }

    /// RFC 3339 in UTC with six decimals: in the order of text.
    fn await_window(&self, moment: &str) -> Result<()> {
        let deadline = Deadline::seconds(180);
        programs::wait_for_status(
            &self.archive,
            &[],
            "a restorable moment",
            &deadline,
            |status| {
                let last = status["windows"].as_array().and_then(|windows| windows.last());
                last.and_then(|window| window["to"].as_str()).is_some_and(|to| to >= moment)
            },
        )?;
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(process::end);
    }
}

fn read_document(name: &str, protected: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let found = blocks(&std::fs::read_to_string(root.join(name))?);
    assert!(!found.is_empty(), "{name} has nothing to execute");
    let mut reader = Reader::new()?;
    if protected {
        reader.cluster.sql("CREATE ROLE pitr LOGIN REPLICATION; GRANT pg_monitor TO pitr")?;
        let script = "pitrd run\n".to_owned();
        reader.execute("before", &Block { line: 0, background: true, script })?;
    }
    found.iter().try_for_each(|block| reader.execute(name, block))
}

#[test]
fn what_readme_says_to_type_works() -> Result<()> {
    read_document("README.md", false)
}

#[test]
fn what_operations_says_to_type_works() -> Result<()> {
    read_document("docs/OPERATIONS.md", false)
}

#[test]
fn what_recovery_says_to_type_works() -> Result<()> {
    read_document("docs/RECOVERY.md", true)
}

#[test]
fn only_marked_blocks_are_executed() {
    let text = "```sh\nno\n```\n```sh run\na\nb\n```\nno\n```sh run background\nc\n```\n";
    let block = |line, background, script: &str| Block { line, background, script: script.into() };
    assert_eq!(blocks(text), [block(4, false, "a\nb\n"), block(9, true, "c\n")]);
}
