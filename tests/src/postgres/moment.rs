//! What a database held at one exact position: the record that a restore is compared with.
//!
//! Under load, a snapshot and a position asked for one after the other do not belong together. So
//! a moment is recorded while SHARE locks keep writers out of every table: the position and the
//! time are then between the last commit that the hashes contain and the first that they do not.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use proto::postgres::lsn::Lsn;

use super::Cluster;
use crate::hashes::{Hashes, differences};

/// What the tables held, and where and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub database: String,
    pub hashes: Hashes,
    /// Not before the end of the last commit contained, not after the start of the next one.
    pub lsn: Lsn,
    /// By the server's clock, RFC 3339 in UTC with microseconds.
    pub time: String,
}

/// Unlogged tables are left out: a restore empties them. Sequences too: recovery may skip values.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' \
     AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' \
     ORDER BY CASE c.relname WHEN 'pgbench_accounts' THEN 0 WHEN 'pgbench_tellers' THEN 1 \
     WHEN 'pgbench_branches' THEN 2 ELSE 3 END, c.oid";

/// Text must not depend on who asks.
const SESSION: &str = "SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = \
     'postgres'; SET extra_float_digits = 3; SET bytea_output = 'hex'; \
     SET max_parallel_workers_per_gather = 0; SET deadlock_timeout = '50ms';\n";

/// Reads before any snapshot is taken, so that the snapshot sees what the locks waited for.
const CLOCK: &str = "SELECT pg_sleep(0.002) \\g /dev/null\n\
     SELECT 'position', pg_current_wal_insert_lsn();\n\
     SELECT 'time', to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"');\n\
     SELECT pg_sleep(0.002) \\g /dev/null\n";

impl Cluster {
    /// The content of every permanent table of a database, in one snapshot. Works on a server in
    /// recovery; under load the position of that snapshot is not known: see [`Self::record`].
    pub fn table_hashes(&self, database: &str) -> Result<Hashes> {
        let tables = self.tables(database)?;
        let script = format!("{SESSION}BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n");
        let text = self.psql(database, &(script + &hash_queries(&tables) + "COMMIT;\n"))?;
        Ok(parse(&text).0)
    }

    /// The content of every permanent table together with the exact position and time. Writers of
    /// these tables wait for as long as it takes.
    pub fn record(&self, database: &str) -> Result<Moment> {
        let mut last = None;
        for _ in 0..20 {
            // A writer that takes its tables in another order makes a deadlock, which we lose.
            match self.try_record(database) {
                Ok(moment) => return Ok(moment),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("it was tried")?).context("cannot record a moment")
    }

    fn try_record(&self, database: &str) -> Result<Moment> {
        let tables = self.tables(database)?;
        let mut script = format!("{SESSION}BEGIN ISOLATION LEVEL REPEATABLE READ;\n");
        let lockable: Vec<_> = tables.iter().filter(|(_, kind)| kind == "r").collect();
        for chunk in lockable.chunks(100) {
            let names: Vec<&str> = chunk.iter().map(|(name, _)| name.as_str()).collect();
            script.push_str(&format!("LOCK TABLE {} IN SHARE MODE;\n", names.join(", ")));
        }
        script.push_str(CLOCK);
        script.push_str(&hash_queries(&tables));
        script.push_str("COMMIT;\n");
        let (hashes, mut facts) = parse(&self.psql(database, &script)?);
        Ok(Moment {
            database: database.to_owned(),
            hashes,
            lsn: facts.remove("position").context("psql printed no position")?.parse()?,
            time: facts.remove("time").context("psql printed no time")?,
        })
    }

    /// Name and kind of every table that is hashed.
    fn tables(&self, database: &str) -> Result<Vec<(String, String)>> {
        let query = TABLES.replacen("SELECT format(", "SELECT c.relkind, format(", 1);
        let rows = self.query(database, &query)?;
        Ok(rows.into_iter().map(|mut row| (row.remove(1), row.remove(0))).collect())
    }

    /// Fails, naming the tables that differ, unless this server holds exactly what was recorded.
    pub fn assert_holds(&self, moment: &Moment) -> Result<()> {
        let found = self.table_hashes(&moment.database)?;
        let differs = differences(&moment.hashes, &found);
        if differs.is_empty() {
            return Ok(());
        }
        bail!(
            "the content is not that of {} ({}) in {}: {}",
            moment.lsn,
            moment.time,
            moment.database,
            differs.join(", ")
        )
    }
}

/// Two sums of 64-bit hashes and a count: no sort, no limit of 1 GB on the way.
fn hash_queries(tables: &[(String, String)]) -> String {
    let query = |name: &str, from: &str| {
        let label = name.replace('\'', "''");
        format!(
            "SELECT 'table', '{label}', count(*) || ':' || md5(\
             coalesce(sum(hashtextextended(t::text, 1)::numeric), 0) || ':' || \
             coalesce(sum(hashtextextended(t::text, 2)::numeric), 0)) FROM {from} t;\n"
        )
    };
    let mut script: String = tables.iter().map(|(name, _)| query(name, name)).collect();
    script.push_str(&query("(large objects)", "pg_largeobject"));
    script
}

/// `table|name|hash` and `fact|value`. A name may hold the separator; a hash never does.
fn parse(text: &str) -> (Hashes, BTreeMap<String, String>) {
    let (mut hashes, mut facts) = (Hashes::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some((name, hash)) = line.strip_prefix("table|").and_then(|it| it.rsplit_once('|')) {
            hashes.insert(name.to_owned(), hash.to_owned());
        } else if let Some((name, value)) = line.split_once('|') {
            facts.insert(name.to_owned(), value.to_owned());
        }
    }
    (hashes, facts)
}
