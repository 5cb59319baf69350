//! The command line of `pitr` (DESIGN §7). Every flag has a `PITR_*` variable and, by the same
//! name without its dashes, a key in the configuration file.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};

/// Looks into an archive that pitrd writes, and brings the database back as it was at any moment.
#[derive(Debug, Parser)]
#[command(name = "pitr", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// A file of flags: `archive = "s3://…"`; flags and variables are stronger
    #[arg(long, global = true, env = "PITR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The archive: a path, file:///… or s3://bucket/prefix
    #[arg(long, global = true, env = "PITR_ARCHIVE", value_name = "URL")]
    pub archive: Option<String>,
    /// One of the archive's lineages [default: the newest]
    #[arg(long, global = true, env = "PITR_LINEAGE", value_name = "N")]
    pub lineage: Option<u32>,
    /// One JSON object instead of text
    #[arg(long, global = true, env = "PITR_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whether the database is protected, since when, and until when it can be restored
    Status(StatusArgs),
    /// Bases, restorable ranges, gaps and timelines
    List,
    /// What a restore would do: base, log, bytes, where it stops
    Plan(TargetArgs),
    /// Brings the database back as it was at a moment
    Restore(RestoreArgs),
    /// Whether everything in the archive is there and unbroken
    Verify(VerifyArgs),
    /// Makes the index of times and marks again from the log
    Reindex,
    /// What recovery runs for each file that it wants: 0 served, 1 proven absent, 200 otherwise
    #[command(name = "wal-fetch")]
    WalFetch {
        /// As PostgreSQL asks for it: %f
        name: String,
        /// Where to put it: %p
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Exit with 11 when the newest proof is older than this
    #[arg(long, env = "PITR_FAIL_IF_LAG", value_name = "DURATION")]
    pub fail_if_lag: Option<String>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Read and check every byte, not only what stands where
    #[arg(long, env = "PITR_READ_DATA", value_parser = FalseyValueParser::new())]
    pub read_data: bool,
}

/// Which moment.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// A time with its zone (2026-11-20T14:20:00Z, "2026-11-20 14:20 +01:00"), or -15m; of MongoDB
    /// also T,I
    #[arg(
        long,
        group = "moment",
        env = "PITR_AT",
        value_name = "TIME",
        allow_hyphen_values = true
    )]
    pub at: Option<String>,
    /// A position in the log: 16/B374D848
    #[arg(long, group = "moment", env = "PITR_AT_LSN", value_name = "LSN")]
    pub at_lsn: Option<String>,
    /// The end of a transaction
    #[arg(long, group = "moment", env = "PITR_AT_XID", value_name = "XID")]
    pub at_xid: Option<u32>,
    /// A restore point (pg_create_restore_point)
    #[arg(long, group = "moment", env = "PITR_AT_NAME", value_name = "NAME")]
    pub at_name: Option<String>,
    /// The newest moment in the archive
    #[arg(long, group = "moment", env = "PITR_LATEST", value_parser = FalseyValueParser::new())]
    pub latest: bool,
    /// Stop before what stands exactly at the moment
    #[arg(long, env = "PITR_EXCLUSIVE", value_parser = FalseyValueParser::new())]
    pub exclusive: bool,
    /// Which of the moments that a refusal listed
    #[arg(long, env = "PITR_CANDIDATE", value_name = "N")]
    pub candidate: Option<usize>,
    /// Begin with this base [default: the nearest before the moment]
    #[arg(long, env = "PITR_BASE", value_name = "ID")]
    pub base: Option<String>,
    /// Follow the log to this timeline [default: the newest]
    #[arg(long, env = "PITR_TIMELINE", value_name = "N")]
    pub timeline: Option<u32>,
}

#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// The folder to restore into: absent or empty; of MongoDB also mongodb://…, an empty replica set
    #[arg(long, env = "PITR_INTO", value_name = "DIR")]
    pub into: Option<String>,
    /// Leave it running at the moment, read-only
    #[arg(long, group = "after", env = "PITR_PAUSE", value_parser = FalseyValueParser::new())]
    pub pause: bool,
    /// Leave it running, writable
    #[arg(long, group = "after", env = "PITR_START", value_parser = FalseyValueParser::new())]
    pub start: bool,
    /// Lay the folder out and do not run recovery
    #[arg(long, group = "after", env = "PITR_NO_RUN", value_parser = FalseyValueParser::new())]
    pub no_run: bool,
    /// Where postgres and pg_ctl are [default: looked for]
    #[arg(long, env = "PITR_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// The mongod that a folder is restored with [default: the one in PATH]
    #[arg(long, env = "PITR_MONGOD", value_name = "FILE")]
    pub mongod: Option<PathBuf>,
    /// MongoDB, of a change stream: read a dotted path that may be a name too as a path, and list
    /// the collection
    #[arg(long, env = "PITR_ACCEPT_OPEN_PATHS", value_parser = FalseyValueParser::new())]
    pub accept_open_paths: bool,
    /// The user that is to own the folder, when this runs as root
    #[arg(long, env = "PITR_RUN_AS", value_name = "USER")]
    pub run_as: Option<String>,
    /// The port of a server that is left running
    #[arg(long, env = "PITR_PORT", value_name = "N")]
    pub port: Option<u16>,
    /// Put a tablespace elsewhere: /old=/new
    #[arg(long, env = "PITR_TABLESPACE", value_name = "A=B", value_delimiter = ',')]
    pub tablespace: Vec<String>,
    /// So many objects are fetched at once
    #[arg(long, env = "PITR_JOBS", value_name = "N")]
    pub jobs: Option<usize>,
    /// Print the plan and stop
    #[arg(long, env = "PITR_DRY_RUN", value_parser = FalseyValueParser::new())]
    pub dry_run: bool,
}
