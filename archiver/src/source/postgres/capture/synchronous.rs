//! Never a synchronous standby by accident (DESIGN §5.13).
//!
//! Enters: the server's `synchronous_standby_names` and our name. Leaves: whether the server would
//! let commits wait for us. Then nothing is reported as flushed: a walsender whose flush position
//! is invalid is no candidate (syncrep.c, `SyncRepGetCandidateStandbys`). It also shows as `async`
//! then, so that pg_stat_replication cannot tell: the setting itself is asked.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::source::postgres::sql::SqlSession;
use crate::source::postgres::{ConnectOptions, Session};

/// How soon a changed setting is seen.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The alert is repeated.
const TELL_EVERY: u32 = 20;

/// Whether a name in the list means us: `*`, or our name in any case (syncrep.c,
/// `SyncRepGetStandbyPriority`). The list is `a, b`, `FIRST n (a, b)` or `ANY n (a, b)`.
pub(super) fn names_us(setting: &str, own: &str) -> bool {
    let list = match (setting.find('('), setting.rfind(')')) {
        (Some(open), Some(close)) if open < close => &setting[open + 1..close],
        _ => setting,
    };
    list.split(',').map(str::trim).any(|name| {
        let name = name.strip_prefix('"').and_then(|n| n.strip_suffix('"')).unwrap_or(name);
        name == "*" || name.eq_ignore_ascii_case(own)
    })
}

/// Asked over the replication connection before the first report is sent.
pub(super) async fn counted_at_first(session: &mut Session, own: &str) -> bool {
    session.show("synchronous_standby_names").await.is_ok_and(|setting| names_us(&setting, own))
}

/// Looks now and then, as long as somebody listens.
pub(super) fn watch_setting(
    options: ConnectOptions,
    first: bool,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(first);
    tell(first, &options.application_name);
    tokio::spawn(async move {
        let mut sql = None;
        let mut looks = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // A role that may not connect to a database keeps what it learned at the beginning.
            let Some(setting) = ask(&options, &mut sql).await else { continue };
            let now = names_us(&setting, &options.application_name);
            let changed = sender.send_if_modified(|was| std::mem::replace(was, now) != now);
            looks += 1;
            if changed || (now && looks % TELL_EVERY == 0) {
                tell(now, &options.application_name);
            }
        }
    });
    receiver
}

async fn ask(options: &ConnectOptions, sql: &mut Option<SqlSession>) -> Option<String> {
    if sql.is_none() {
        *sql = SqlSession::connect(options).await.ok();
    }
    let asked = sql.as_mut()?.show("synchronous_standby_names").await;
    if asked.is_err() {
        *sql = None;
    }
    asked.ok()
}

fn tell(counted: bool, own: &str) {
    metrics::gauge!("pitr_synchronous_unwanted").set(if counted { 1.0 } else { 0.0 });
    if counted {
        tracing::error!(
            application_name = own,
            "ALERT: synchronous_standby_names counts us as a synchronous standby, and --synchronous \
             was not given: nothing is reported as flushed, and the slot stays where it is. Name \
             real standbys there, or give --synchronous"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::names_us;

    #[test]
    fn a_list_of_synchronous_standbys_names_us_by_name_or_by_star() {
        for setting in ["*", "pitr", "a, PITR", "FIRST 1 (a, pitr)", "ANY 2 (\"pitr\", b)", "2 (*)"]
        {
            assert!(names_us(setting, "pitr"), "{setting}");
        }
        for setting in ["", "a", "pitr2, b", "ANY 1 (a, b)"] {
            assert!(!names_us(setting, "pitr"), "{setting}");
        }
    }
}
