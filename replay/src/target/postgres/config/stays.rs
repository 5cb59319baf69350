//! What a copy's configuration must say to start anywhere and to disturb nobody: archiving off, no
//! library that is not here, no certificate that is not here, no standby to wait for.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use super::{InForce, Sources, quoted};

/// What a standby must have at least as much of as the log's server, with defaults
/// (xlogrecovery.c, `CheckRequiredParameterValues`).
pub(in crate::target::postgres) const STANDBY_NEEDS: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];
const LIBRARIES: [&str; 3] =
    ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];
const LOCALES: [&str; 4] = ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"];
/// Settings of a running server that say nothing about how a copy should run.
const NOT_SAVED: [&str; 24] = [
    "application_name",
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "client_encoding",
    "config_file",
    "data_directory",
    "external_pid_file",
    "extra_float_digits",
    "hba_file",
    "ident_file",
    "log_directory",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
    "ssl",
    "stats_temp_directory",
    "synchronous_standby_names",
    "unix_socket_directories",
    "unix_socket_group",
];

/// The block that stays, and notes on what it changes.
pub(super) fn block(
    sources: &Sources<'_>,
    in_force: &InForce,
    notes: &mut Vec<String>,
) -> Vec<(String, String)> {
    let mut block = vec![("archive_mode".to_owned(), "off".to_owned())];
    let mut set = |name: &str, value: String| block.push((name.to_owned(), value));
    if in_force.get("synchronous_standby_names").is_some_and(|names| !names.is_empty()) {
        set("synchronous_standby_names", String::new());
        notes.push("synchronous_standby_names is emptied: nobody follows the copy".to_owned());
    }
    for (name, default) in STANDBY_NEEDS {
        let has = in_force.get(name).and_then(|value| value.parse().ok()).unwrap_or(default);
        let needs = needed(sources, name);
        if needs > has {
            set(name, needs.to_string());
        }
    }
    for name in LIBRARIES {
        if let Some(value) = in_force.get(name)
            && let Some(kept) = libraries(sources, name, value, notes)
        {
            set(name, kept);
        }
    }
    if in_force.get("shared_preload_libraries").is_some_and(|value| value.contains("pg_cron")) {
        // Should somebody load it again: its jobs would run twice.
        set("cron.launch_active_jobs", "off".to_owned());
    }
    if in_force.is_on("ssl") && !certificates_are_here(sources.folder, in_force) {
        set("ssl", "off".to_owned());
        notes.push("ssl is turned off: its certificate files are not here".to_owned());
    }
    elsewhere(sources, in_force, &mut set, notes);
    block
}

/// Addresses, sockets, locales and memory that this machine does not have.
fn elsewhere(
    sources: &Sources<'_>,
    in_force: &InForce,
    set: &mut impl FnMut(&str, String),
    notes: &mut Vec<String>,
) {
    if let Some(addresses) = in_force.get("listen_addresses")
        && !addresses.is_empty()
        && !addresses.split(',').any(|address| is_ours(address.trim()))
    {
        set("listen_addresses", "localhost".to_owned());
        notes.push(format!("listen_addresses {addresses:?} is not of this machine: localhost"));
    }
    if in_force.get("unix_socket_directories").is_none()
        && let Some(known) = sources.binaries.and_then(super::Binaries::settings)
        && let Some(default) = known.get("unix_socket_directories")
        && default.split(',').any(|path| !Path::new(path.trim()).is_dir())
    {
        set("unix_socket_directories", "/tmp".to_owned());
    }
    let here = locales();
    for name in LOCALES {
        if let Some(value) = in_force.get(name)
            && !here.is_empty()
            && !value.is_empty()
            && !here.contains(&plain_locale(value))
        {
            set(name, "C".to_owned());
            notes.push(format!("{name} {value:?} is not installed here: C"));
        }
    }
    let buffers = in_force.get("shared_buffers").and_then(bytes_of_buffers);
    if let (Some(buffers), Some(memory)) = (buffers, memory())
        && buffers > memory / 2
    {
        set("shared_buffers", format!("{}kB", memory / 4 / 1024));
        set("huge_pages", "try".to_owned());
        notes.push("shared_buffers is lowered to a quarter of this machine's memory".to_owned());
    }
}

/// The most that the base, the plan and the log itself ask for.
fn needed(sources: &Sources<'_>, name: &str) -> u64 {
    let saved = sources.base.postgres().settings.get(name).and_then(|value| value.parse().ok());
    let planned = sources.plan.settings.get(name).copied();
    let raised = sources.raised.get(name).copied();
    [saved, planned, raised].into_iter().flatten().max().unwrap_or(0)
}

/// The libraries of a list that are here, if some are not.
fn libraries(
    sources: &Sources<'_>,
    name: &str,
    value: &str,
    notes: &mut Vec<String>,
) -> Option<String> {
    let folder = sources.binaries.and_then(super::Binaries::library_folder);
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for library in value.split(',').map(|name| name.trim().trim_matches('"')) {
        if library.is_empty() {
            continue;
        }
        let bare = library.strip_prefix("$libdir/").unwrap_or(library);
        let is_here = match &folder {
            // Without a server to look at, only what is known to disturb is dropped.
            None => true,
            Some(folder) => {
                let file = folder.join(bare);
                let with_suffix = folder.join(format!("{bare}.so"));
                let plugins = folder.join("plugins").join(format!("{bare}.so"));
                file.is_file() || with_suffix.is_file() || plugins.is_file()
            }
        };
        if bare == "pg_cron" {
            notes.push("pg_cron is not loaded: no job runs in a copy".to_owned());
            dropped.push(library);
        } else if is_here {
            kept.push(library);
        } else {
            notes.push(format!("{name}: {library:?} is dropped: it is not installed here"));
            dropped.push(library);
        }
    }
    (!dropped.is_empty()).then(|| kept.join(", "))
}

fn certificates_are_here(folder: &Path, in_force: &InForce) -> bool {
    let here = |name: &str, default: &str| {
        let path = in_force.get(name).filter(|path| !path.is_empty()).unwrap_or(default);
        folder.join(path).is_file()
    };
    let optional = |name: &str| {
        in_force.get(name).is_none_or(|path| path.is_empty() || folder.join(path).is_file())
    };
    here("ssl_cert_file", "server.crt")
        && here("ssl_key_file", "server.key")
        && ["ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file"].into_iter().all(optional)
}

/// Whether a server here could listen on it; names are left to the resolver.
fn is_ours(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(ip) => TcpListener::bind((ip, 0)).is_ok(),
        Err(_) => address == "*" || address.eq_ignore_ascii_case("localhost"),
    }
}

/// `de_DE.UTF-8` and `de_DE.utf8` are the same.
fn plain_locale(name: &str) -> String {
    name.to_lowercase().replace('-', "")
}

fn locales() -> Vec<String> {
    let output = Command::new("locale").arg("-a").output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let mut here: Vec<String> =
        text.iter().flat_map(|text| text.lines()).map(plain_locale).collect();
    if !here.is_empty() {
        here.extend(["c", "posix", "c.utf8"].map(str::to_owned));
    }
    here
}

/// `4GB`, `16384` (of 8 KiB) and the like, in bytes.
fn bytes_of_buffers(value: &str) -> Option<u64> {
    let value = value.trim();
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..end].parse().ok()?;
    let unit = match value[end..].trim() {
        "" => 8192,
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// A `postgresql.conf` out of the settings that the source ran with.
pub(super) fn minimal_conf(
    settings: &BTreeMap<String, String>,
    known: Option<&BTreeMap<String, String>>,
) -> String {
    let mut text = String::from(
        "# Written by pitr restore: the source kept its configuration outside its data folder.\n\
         # These are the settings that it ran with when the base was taken.\n",
    );
    for (name, value) in settings {
        let lower = name.to_lowercase();
        let ssl_file = lower.starts_with("ssl_") && lower.ends_with("_file");
        let left_behind =
            ssl_file || lower.starts_with("recovery_target") || NOT_SAVED.contains(&lower.as_str());
        // Settings of extensions have a dot and are taken before their library is loaded.
        let settable = known.map_or_else(
            || STANDBY_NEEDS.iter().any(|(needed, _)| *needed == lower) || lower == "port",
            |known| known.contains_key(&lower) || lower.contains('.'),
        );
        if settable && !left_behind {
            text.push_str(&format!("{name} = {}\n", quoted(value)));
        }
    }
    text
}

/// A `pg_hba.conf`: the saved one without what it includes from elsewhere, or one that lets the
/// folder's owner in.
pub(super) fn hba(saved: Option<&str>, notes: &mut Vec<String>) -> String {
    match saved {
        Some(saved) => without_includes(saved, notes),
        None => {
            notes.push("pg_hba.conf is not in the base: the owner comes in by socket".to_owned());
            "# Written by pitr restore: the base has no pg_hba.conf.\n\
             local all all peer\n\
             host all all 127.0.0.1/32 scram-sha-256\n\
             host all all ::1/128 scram-sha-256\n"
                .to_owned()
        }
    }
}

/// Without `include` lines (PostgreSQL 16 on): a file that is missing keeps the server from
/// starting.
pub(super) fn without_includes(text: &str, notes: &mut Vec<String>) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if line.trim_start().starts_with("include") {
            notes.push(format!("{:?} is dropped from an authentication file", line.trim()));
            out.push_str("# taken out by pitr restore: ");
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}
