//! Configurations written into small folders, read back line by line.

use std::collections::BTreeMap;
use std::path::Path;

use proto::archive::base::Complete;
use tempfile::TempDir;

use super::{Sources, end_recovery, lines, restore_command};
use crate::fetch::testing::Archive;
use crate::plan::Plan;
use crate::target::postgres::testing::complete;

struct Case {
    folder: TempDir,
    plan: Plan,
    base: Complete,
    raised: BTreeMap<String, u64>,
}

async fn case(conf: Option<&str>, auto: &str) -> Case {
    let folder = TempDir::new().expect("a folder");
    std::fs::create_dir(folder.path().join(".pitr")).expect("made");
    if let Some(conf) = conf {
        std::fs::write(folder.path().join("postgresql.conf"), conf).expect("written");
    }
    std::fs::write(folder.path().join("postgresql.auto.conf"), auto).expect("written");
    let archive = Archive::new(&folder.path().join("archive"), 1 << 20).await;
    let (plan, base) = (archive.plan, complete(Vec::new(), Vec::new()));
    Case { folder, plan, base, raised: BTreeMap::new() }
}

impl Case {
    fn configure(&self, program: &str) -> Vec<String> {
        let sources = Sources {
            folder: self.folder.path(),
            base: &self.base,
            plan: &self.plan,
            binaries: None,
            owner: None,
            program: Path::new(program),
            raised: &self.raised,
        };
        sources.configure().expect("configured")
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).expect(name)
    }

    /// What `postgresql.auto.conf` says of a setting: the last line counts.
    fn auto(&self, name: &str) -> Option<String> {
        let text = self.text("postgresql.auto.conf");
        let settings = text.lines().filter_map(lines::parse);
        settings.rev().find(|setting| setting.name == name).map(|setting| setting.value)
    }
}

#[tokio::test]
async fn a_path_with_every_quote_and_percent_stays_one_word_of_the_command() {
    let case = case(Some(""), "").await;
    case.configure("/it's 100% \"odd\"/pitr");
    let command = case.auto("restore_command").expect("set");
    assert_eq!(command, restore_command(Path::new("/it's 100% \"odd\"/pitr")));
    assert_eq!(command, r#"exec '/it'\''s 100%% "odd"/pitr' wal-fetch "%f" "%p""#);
}

#[tokio::test]
async fn an_earlier_recoverys_target_does_not_meet_ours() {
    let auto = "recovery_target_time = 'x'\nprimary_conninfo = 'host=a'\nwork_mem = '3MB'\n";
    let conf = "recovery_target_name = 'old'\nrecovery_min_apply_delay = 3600000\n";
    let case = case(Some(conf), auto).await;
    std::fs::write(case.folder.path().join("standby.signal"), "").expect("written");
    case.configure("/bin/pitr");
    assert_eq!(case.auto("recovery_target_time"), None);
    assert_eq!(case.auto("primary_conninfo").as_deref(), Some(""));
    assert_eq!(case.auto("recovery_target_timeline").as_deref(), Some("1"));
    assert_eq!(case.auto("recovery_target_action").as_deref(), Some("pause"));
    assert_eq!(case.auto("archive_mode").as_deref(), Some("off"));
    assert_eq!(case.auto("work_mem").as_deref(), Some("3MB"));
    assert!(!case.text("postgresql.conf").lines().any(|line| line.starts_with("recovery")));
    assert!(!case.folder.path().join("standby.signal").exists());
}

#[tokio::test]
async fn written_twice_it_comes_out_the_same_and_its_end_takes_recovery_out() {
    let conf = "shared_preload_libraries = 'pg_cron, other'\nmax_connections = 40\n";
    let mut case = case(Some(conf), "").await;
    case.base
        .postgres
        .as_mut()
        .expect("ours")
        .settings
        .insert("max_connections".into(), "120".into());
    case.plan.settings.insert("max_worker_processes".into(), 33);
    case.raised.insert("max_wal_senders".into(), 44);
    case.configure("/bin/pitr");
    let once = case.text("postgresql.auto.conf");
    case.configure("/bin/pitr");
    assert_eq!(case.text("postgresql.auto.conf"), once);
    for (name, value) in [
        ("max_connections", "120"),
        ("max_worker_processes", "33"),
        ("max_wal_senders", "44"),
        ("shared_preload_libraries", "other"),
        ("cron.launch_active_jobs", "off"),
    ] {
        assert_eq!(case.auto(name).as_deref(), Some(value), "{name}");
    }
    end_recovery(case.folder.path(), None).expect("ended");
    for gone in ["restore_command", "recovery_target_lsn", "max_logical_replication_workers"] {
        assert_eq!(case.auto(gone), None, "{gone}");
    }
    assert_eq!(case.auto("archive_mode").as_deref(), Some("off"));
}

#[tokio::test]
async fn includes_inside_the_folder_are_cleaned_and_those_outside_dropped_with_a_note() {
    let conf = "include 'mine.conf'\ninclude_dir = 'conf.d'\ninclude '/etc/postgresql/x.conf'\n";
    let case = case(Some(conf), "").await;
    let path = case.folder.path();
    std::fs::write(path.join("mine.conf"), "hba_file = '/etc/x/pg_hba.conf'\n").expect("written");
    std::fs::create_dir(path.join("conf.d")).expect("made");
    std::fs::write(path.join("conf.d/a.conf"), "external_pid_file = '/run/x'\nport = 7\n")
        .expect("written");
    let notes = case.configure("/bin/pitr");
    assert!(notes.iter().any(|note| note.contains("/etc/postgresql/x.conf")), "{notes:?}");
    assert!(case.text("mine.conf").starts_with("# taken out"));
    assert!(case.text("conf.d/a.conf").ends_with("\nport = 7\n"));
    let kept: Vec<String> = case.text("postgresql.conf").lines().map(str::to_owned).collect();
    assert_eq!(kept[..2], ["include 'mine.conf'", "include_dir = 'conf.d'"]);
    assert!(kept[2].starts_with('#'));
}

#[tokio::test]
async fn a_base_without_configuration_gets_a_minimal_one_from_what_was_saved() {
    let mut case = case(None, "").await;
    case.base
        .postgres
        .as_mut()
        .expect("ours")
        .settings
        .insert("max_connections".into(), "77".into());
    case.base
        .postgres
        .as_mut()
        .expect("ours")
        .settings
        .insert("data_directory".into(), "/var/lib/x".into());
    let hba = "local all all peer\ninclude /etc/hba.more\n";
    case.base.config_files.insert("pg_hba.conf".into(), hba.into());
    let notes = case.configure("/bin/pitr");
    assert!(case.text("postgresql.conf").contains("max_connections = '77'"));
    assert!(!case.text("postgresql.conf").contains("data_directory"));
    assert!(case.text("pg_hba.conf").contains("\n# taken out by pitr restore: include"));
    assert!(case.folder.path().join("pg_ident.conf").exists());
    assert!(notes.len() >= 2, "{notes:?}");
}
