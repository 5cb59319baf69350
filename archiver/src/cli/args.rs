//! The command line of `pitrd`. Every flag has a `PITR_*` variable and a key in `--config`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::cli::LogFormat;
use proto::mongodb::SourceMode;
use proto::position::ByteCount;
use proto::segment::Codec;

use crate::ship::AckFrom;
use crate::source::postgres::capture::OnSlotMax;

/// The sidecar: streams a database's own log into an archive, second by second.
#[derive(Debug, Parser)]
#[command(name = "pitrd", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// A TOML file; its keys are flags without dashes
    #[arg(long, value_name = "FILE", env = "PITR_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// JSON for programs, on standard output; errors too
    #[arg(long, global = true, env = "PITR_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// How the log on standard error looks
    #[arg(long, global = true, value_enum, default_value = "text", env = "PITR_LOG_FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stream the log into the archive until stopped; the first start creates everything
    Run(Box<RunArgs>),
    /// Take a base now; joins a running writer
    Base(BaseArgs),
    /// Look whether everything is in place for `run`; changes nothing
    Check(CheckArgs),
    /// Create a named restore point
    Point(PointArgs),
}

#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// libpq URI or keywords (`postgresql://user@host:5432/db?sslmode=verify-full`), or
    /// `mongodb://host1,host2/?replicaSet=rs0`
    #[arg(long, value_name = "URL", env = "PITR_SOURCE", hide_env_values = true)]
    pub source: Option<String>,
    /// The lowest TLS version: 1.3 or 1.2
    #[arg(long, value_name = "VERSION", default_value = "1.3", env = "PITR_TLS_MIN")]
    pub tls_min: String,
}

#[derive(Debug, Clone, Args)]
pub struct ArchiveArgs {
    /// A path, `file:///…`, or `s3://bucket/prefix?endpoint=…&region=…&path-style=true`
    #[arg(long, value_name = "URL", env = "PITR_ARCHIVE")]
    pub archive: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct ModeArgs {
    /// MongoDB: what is followed. change-stream is for deployments where local cannot be read, and
    /// carries less
    #[arg(long, value_enum, default_value = "oplog", env = "PITR_SOURCE_MODE")]
    pub source_mode: SourceMode,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub archive: ArchiveArgs,
    #[command(flatten)]
    pub mode: ModeArgs,
    /// The folder for the log until the store has it [default: in the state folder]
    #[arg(long, value_name = "DIR", env = "PITR_SPOOL")]
    pub spool: Option<PathBuf>,
    /// When the spool holds this much, the source is disconnected
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = size, env = "PITR_SPOOL_MAX")]
    pub spool_max: ByteCount,
    /// New log goes to the store this often
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration, env = "PITR_FLUSH")]
    pub flush: Duration,
    /// Whose confirmation lets the database drop its log
    #[arg(long, value_enum, default_value = "store", env = "PITR_ACK")]
    pub ack: AckFrom,
    /// Commits may wait for us (`synchronous_standby_names` names us on purpose)
    #[arg(long, env = "PITR_SYNCHRONOUS", value_parser = FalseyValueParser::new())]
    pub synchronous: bool,
    /// zstd[:LEVEL], lz4 or none
    #[arg(long, value_name = "CODEC", default_value = "zstd:3", env = "PITR_COMPRESSION")]
    pub compression: Codec,
    /// The replication slot; created if absent
    #[arg(long, value_name = "NAME", default_value = "pitr", env = "PITR_SLOT")]
    pub slot: String,
    /// What the slot may hold back on the server [default: half of max_slot_wal_keep_size, else
    /// 8GiB]
    #[arg(long, value_name = "SIZE", value_parser = size, env = "PITR_SLOT_MAX")]
    pub slot_max: Option<ByteCount>,
    /// Beyond --slot-max, with the spool full: drop the slot, or keep it whatever becomes of the
    /// server's disk
    #[arg(long, value_enum, default_value = "release", env = "PITR_ON_SLOT_MAX")]
    pub on_slot_max: OnSlotMax,
    /// Address of /metrics and /health
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9750", env = "PITR_LISTEN")]
    pub listen: String,
    /// A base is taken when the newest is older than this
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration, env = "PITR_BASE_EVERY")]
    pub base_every: Duration,
    /// Take no bases
    #[arg(long, env = "PITR_NO_BASE", value_parser = FalseyValueParser::new())]
    pub no_base: bool,
    /// kB/s that a base may read, 32 to 1048576
    #[arg(long, value_name = "KB", env = "PITR_BASE_RATE")]
    pub base_rate: Option<u32>,
    /// Make durable what the server has now, and exit
    #[arg(long)]
    pub once: bool,
    /// Follow this timeline although it is no plain promotion
    #[arg(long, value_name = "N")]
    pub accept_timeline: Option<u32>,
    /// Begin a new lineage: this cluster does not continue the archived one. The newest lineage
    /// goes on if it is this server's own one already
    #[arg(long)]
    pub new_lineage: bool,
    /// Stream from a standby too; without this only the primary is followed
    #[arg(long, env = "PITR_FROM_STANDBY")]
    pub from_standby: bool,
    /// Take over from another writer at once
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Debug, Clone, Args)]
pub struct BaseArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub archive: ArchiveArgs,
    /// What `pg_stat_progress_basebackup` and the base show
    #[arg(long, value_name = "L", default_value = "pitr", env = "PITR_LABEL")]
    pub label: String,
    /// Begin with a checkpoint at once, or spread over its usual time
    #[arg(long, value_enum, default_value = "fast", env = "PITR_CHECKPOINT")]
    pub checkpoint: CheckpointArg,
    /// kB/s that the base may read, 32 to 1048576
    #[arg(long, value_name = "KB", env = "PITR_BASE_RATE")]
    pub base_rate: Option<u32>,
    /// zstd[:LEVEL], lz4 or none
    #[arg(long, value_name = "CODEC", default_value = "zstd:3", env = "PITR_COMPRESSION")]
    pub compression: Codec,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CheckpointArg {
    Fast,
    Spread,
}

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub archive: ArchiveArgs,
    #[command(flatten)]
    pub mode: ModeArgs,
    /// The replication slot
    #[arg(long, value_name = "NAME", default_value = "pitr", env = "PITR_SLOT")]
    pub slot: String,
}

#[derive(Debug, Clone, Args)]
pub struct PointArgs {
    /// The name to restore to: `pitr restore --at-name NAME`
    pub name: String,
    #[command(flatten)]
    pub source: SourceArgs,
}

/// `512MiB`, `10GiB`, `1gb`; a bare number is bytes. Units are binary, as PostgreSQL's are.
pub(super) fn size(text: &str) -> Result<ByteCount, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text:?} is no size"))?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("{text:?}: the unit is one of KiB, MiB, GiB, TiB")),
    };
    number.checked_mul(1 << shift).map(ByteCount).ok_or_else(|| format!("{text:?} is too large"))
}

/// `500ms`, `1s`, `5m`, `24h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text:?} is no duration"))?;
    let millis = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text:?}: the unit is one of ms, s, m, h, d")),
    };
    let millis = number.checked_mul(millis).ok_or_else(|| format!("{text:?} is too long"))?;
    if millis == 0 { Err(format!("{text:?}: not zero")) } else { Ok(Duration::from_millis(millis)) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        for (text, bytes) in [("512", 512), ("10GiB", 10 << 30), ("1 mb", 1 << 20), ("3k", 3072)] {
            assert_eq!(size(text), Ok(ByteCount(bytes)), "{text}");
        }
        for (text, millis) in [("500ms", 500), ("1s", 1000), ("5m", 300_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "10", "0s", "1y", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "GiB", "1.5GiB", "1X", "99999999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
