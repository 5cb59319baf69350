//! Configuration that stands outside the data folder, as Debian has it: BASE_BACKUP leaves it out.
//!
//! Enters: how to connect. Leaves: the files' texts by name, as far as the role may read them
//! (`pg_read_all_settings` to know where they are, `pg_read_server_files` and EXECUTE on
//! `pg_read_file` to read them). What may not be read is left out: nothing of it is needed to
//! restore, only to run the restored cluster as before.

use std::collections::BTreeMap;
use std::path::Path;

use crate::source::postgres::conn::{Connection, Purpose};
use crate::source::postgres::{Class, ConnectOptions, Error};

const FILE_MAX: usize = 1 << 20;
const FILES_MAX: usize = 100;

/// # Errors
/// When the server cannot be asked at all.
pub(super) async fn read(options: &ConnectOptions) -> Result<BTreeMap<String, String>, Error> {
    let mut connection = Connection::connect(options, Purpose::Sql).await?;
    let files = read_all(&mut connection).await;
    connection.close().await;
    files
}

async fn read_all(connection: &mut Connection) -> Result<BTreeMap<String, String>, Error> {
    const DOING: &str = "reading configuration files";
    let data = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'";
    let paths = "SELECT setting FROM pg_catalog.pg_settings \
                 WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> '' \
                 UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL";
    let Some(data) = texts(connection, DOING, data).await?.pop() else {
        return Ok(BTreeMap::new());
    };
    let mut files = BTreeMap::new();
    for path in texts(connection, DOING, paths).await?.into_iter().take(FILES_MAX) {
        if Path::new(&path).starts_with(&data) {
            continue;
        }
        let quoted = path.replace('\\', "\\\\").replace('\'', "''");
        let text = format!("SELECT pg_catalog.pg_read_file(E'{quoted}', 0, {FILE_MAX})");
        match texts(connection, DOING, &text).await {
            Ok(mut content) => {
                files.extend(content.pop().map(|content| (name_of(&path), content)));
            }
            Err(error) if error.class() == Class::Permission => return Ok(files),
            Err(Error::Server { source, .. }) => {
                tracing::debug!(path, error = %source, "a configuration file is left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// `/etc/postgresql/15/main/conf.d/a.conf` is `conf.d/a.conf`.
fn name_of(path: &str) -> String {
    let start = match path.find("/conf.d/") {
        Some(at) => at + 1,
        None => path.rfind('/').map_or(0, |at| at + 1),
    };
    path[start..].to_owned()
}

/// The first column.
async fn texts(
    connection: &mut Connection,
    doing: &'static str,
    text: &str,
) -> Result<Vec<String>, Error> {
    let sets = connection.query(doing, text).await?;
    let rows = sets.into_iter().flat_map(|set| set.rows);
    let first = rows.filter_map(|row| row.into_iter().next().flatten());
    Ok(first.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_keeps_the_name_that_its_configuration_gives_it() {
        assert_eq!(super::name_of("/etc/postgresql/15/main/pg_hba.conf"), "pg_hba.conf");
        assert_eq!(super::name_of("/etc/postgresql/15/main/conf.d/a.conf"), "conf.d/a.conf");
    }
}
