//! Ending recovery, and what a copy must not do once it is awake.
//!
//! Enters: a server at its target. Leaves: a writable server on a timeline of its own, whose
//! subscriptions sleep, and a list of collations that are another version here.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::target::postgres::RestoreError;
use crate::target::postgres::report::{Collation, Subscription};
use crate::target::postgres::server::Server;

const POLL: Duration = Duration::from_millis(100);
/// A database whose `DROP DATABASE` is under way or was interrupted, which takes no connection
/// (pg_database.h, `DATCONNLIMIT_INVALID_DB`).
const INVALID: &str = "datconnlimit = -2";
/// So many indexes are named of one collation.
const INDEXES_MAX: i64 = 1000;

fn asking(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> RestoreError {
    move |source| RestoreError::Query { what, source }
}

/// Ends recovery where it stands; waits for it as long as the server lives.
///
/// # Errors
/// When the server ends, or on interruption.
pub async fn promote(
    server: &mut Server,
    client: &Client,
    interrupted: &CancellationToken,
) -> Result<(), RestoreError> {
    let told = client.query_one("SELECT pg_promote(false)", &[]).await;
    told.map_err(asking("to end recovery"))?;
    loop {
        if let Some(status) = server.ended()? {
            let what = format!("the server ended while recovery was to end ({status})");
            return Err(RestoreError::Server { what, log: server.log.failures() });
        }
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
        if !row.map_err(asking("whether recovery has ended"))?.get::<_, bool>(0) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = interrupted.cancelled() => return Err(RestoreError::Interrupted),
        }
    }
}

async fn open(server: &Server, user: &str, database: &str) -> Result<Client, RestoreError> {
    server.connect(user, database).await.ok_or_else(|| RestoreError::Server {
        what: format!("the database {database} takes no connection"),
        log: server.log.failures(),
    })
}

/// Puts every subscription to sleep, and has it forget its slot: dropping it in the copy must not
/// drop the slot on the publisher. No worker runs meanwhile (`max_logical_replication_workers`).
///
/// In the catalog itself, which all databases share: `ALTER SUBSCRIPTION` wants a connection to each
/// one's own database, and one that takes none (`datallowconn`) would keep its subscription awake
/// until somebody opens it. One statement: after a crash all sleep, or none does.
///
/// # Errors
/// When the server does not answer.
pub async fn quiet_subscriptions(client: &Client) -> Result<Vec<Subscription>, RestoreError> {
    let text = "SELECT coalesce(d.datname::text, s.subdbid::text), s.subname::text, \
                s.subslotname::text \
                FROM pg_subscription s LEFT JOIN pg_database d ON d.oid = s.subdbid ORDER BY 1, 2";
    let rows = client.query(text, &[]).await.map_err(asking("subscriptions"))?;
    let quiet = "UPDATE pg_subscription SET subenabled = false, subslotname = NULL";
    client.batch_execute(quiet).await.map_err(asking("subscriptions to sleep"))?;
    let quieted = |row: &tokio_postgres::Row| Subscription {
        database: row.get(0),
        name: row.get(1),
        slot: row.get(2),
    };
    Ok(rows.iter().map(quieted).collect())
}

/// The databases that were being dropped at the moment: all that can be done with them is to drop
/// them again.
///
/// # Errors
/// When the server does not answer.
pub async fn half_dropped(client: &Client) -> Result<Vec<String>, RestoreError> {
    let text = format!("SELECT datname::text FROM pg_database WHERE {INVALID} ORDER BY 1");
    let rows = client.query(&text, &[]).await.map_err(asking("databases"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The collations of every database whose version here is not the one that data was sorted with.
///
/// # Errors
/// When a database does not let us in.
pub async fn collations(
    server: &Server,
    client: &Client,
    user: &str,
    major: u32,
) -> Result<Vec<Collation>, RestoreError> {
    let text = format!(
        "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT {INVALID} ORDER BY 1"
    );
    let rows = client.query(&text, &[]).await.map_err(asking("databases"))?;
    let mut found = Vec::new();
    for row in rows {
        let database: String = row.get(0);
        let inside = open(server, user, &database).await?;
        found.extend(of_database(&inside, &database, major).await?);
    }
    Ok(found)
}

async fn of_database(
    client: &Client,
    database: &str,
    major: u32,
) -> Result<Vec<Collation>, RestoreError> {
    let mut text = "SELECT c.oid, format('%I.%I', n.nspname, c.collname), c.collversion, \
                    pg_collation_actual_version(c.oid) \
                    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
                    WHERE c.collversion <> pg_collation_actual_version(c.oid)"
        .to_owned();
    if major >= 15 {
        // 100 is the oid of the collation "default" (pg_collation.dat).
        text.push_str(
            " UNION ALL SELECT 100::oid, 'default of the database', datcollversion, \
             pg_database_collation_actual_version(oid) FROM pg_database \
             WHERE datname = current_database() \
             AND datcollversion <> pg_database_collation_actual_version(oid)",
        );
    }
    let rows = client.query(&text, &[]).await.map_err(asking("collations"))?;
    let mut found = Vec::new();
    for row in rows {
        let oid: u32 = row.get(0);
        let text = "SELECT i.indexrelid::regclass::text FROM pg_index i \
                    WHERE $1 = ANY (i.indcollation::oid[]) ORDER BY 1 LIMIT $2";
        let indexes = client.query(text, &[&oid, &INDEXES_MAX]).await;
        let indexes = indexes.map_err(asking("indexes of a collation"))?;
        found.push(Collation {
            database: database.to_owned(),
            collation: row.get(1),
            written_with: row.get(2),
            here: row.get(3),
            indexes: indexes.iter().map(|row| row.get(0)).collect(),
        });
    }
    Ok(found)
}
