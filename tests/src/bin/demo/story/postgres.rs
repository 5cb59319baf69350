//! A PostgreSQL server with pgbench's tables, of which one is dropped.

use std::path::Path;

use anyhow::Result;
use tests::hashes::Hashes;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::wait::Deadline;
use tests::{fetch, scope, user};

use super::{Before, Server};
use crate::needs;
use crate::screen::Screen;

const CLIENTS: u32 = 4;
const SCALE: u32 = 5;
/// What is lost by accident.
const VICTIM: &str = "pgbench_accounts";

pub(super) fn start(screen: &mut Screen) -> Result<Cluster> {
    let major = scope::newest_postgres();
    screen.step(&format!("A PostgreSQL {major}, fetched once, with pgbench's tables"));
    let prefix = fetch::postgres(major)?;
    let programs = ["postgres", "initdb", "psql", "pgbench"];
    let programs = programs.map(|program| prefix.join("bin").join(program));
    needs::libraries("PostgreSQL", &programs, Some(&prefix.join("lib")))?;
    let cluster = Cluster::start_new(major)?;
    cluster.pgbench_init("postgres", SCALE)?;
    screen.note(&format!("{}, {} rows", cluster.replication_url(), 100_000 * SCALE));
    Ok(cluster)
}

impl Server for Cluster {
    const WORDS: (&'static str, &'static str) = ("table", "row");
    const LOAD: &'static str = "pgbench, 4 clients";

    fn source(&self) -> String {
        self.replication_url()
    }

    fn load(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<String> {
        let before = commits(self)?;
        let running = self.pgbench_start("postgres", CLIENTS)?;
        meanwhile()?;
        running.stop()?;
        Ok(format!("{} transactions", commits(self)? - before))
    }

    fn record(&self) -> Result<Before> {
        let moment = Self::record(self, "postgres")?;
        Ok(Before { hashes: moment.hashes, time: moment.time })
    }

    fn accident(&self, screen: &Screen) -> Result<String> {
        let drop = format!("DROP TABLE {VICTIM}");
        screen.command(&format!("psql -c '{drop}'"));
        self.sql(&drop)?;
        self.sql("INSERT INTO pgbench_history VALUES (1, 1, 1, 1, now())")?;
        Ok(format!("public.{VICTIM}"))
    }

    fn await_archived(&self, pitrd: &mut Pitrd, _archive: &str) -> Result<()> {
        let end = self.flush_position()?;
        pitrd.wait_durable_within(end, &Deadline::seconds(60))
    }

    fn restore_arguments(&self) -> Result<Vec<String>> {
        let mut arguments = vec!["--pg-bin".to_owned(), self.bin_dir().display().to_string()];
        if let Some(user) = user::run_as() {
            arguments.extend(["--run-as".to_owned(), user.to_owned()]);
        }
        Ok(arguments)
    }

    fn hashes(&self) -> Result<Hashes> {
        self.table_hashes("postgres")
    }

    fn hashes_of(&self, copy: &Path) -> Result<Hashes> {
        let restored = Self::open(self.major(), copy)?;
        restored.start()?;
        restored.table_hashes("postgres")
    }
}

fn commits(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.value("postgres", "SELECT count(*) FROM pgbench_history")?.parse()?)
}
