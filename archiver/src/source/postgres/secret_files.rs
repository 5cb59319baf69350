//! The two files in which libpq users keep what does not belong on a command line: the password
//! file (`~/.pgpass`) and the connection service file (`~/.pg_service.conf`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::SecretString;

use super::uri::{Parameters, UriError};

/// What a line of the password file is matched against.
#[derive(Debug, Clone, Copy)]
pub struct PasswordQuery<'a> {
    /// The host name; `localhost` for a Unix socket in the default folder.
    pub host: &'a str,
    pub port: u16,
    /// `replication` for a replication connection.
    pub dbname: &'a str,
    pub user: &'a str,
}

/// The text of the password file, or nothing when it does not exist or others could read it.
pub fn read_password_file(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "the password file is not a plain file: ignored");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        // fe-connect.c, passwordFromFile: such a file is ignored, not an error.
        tracing::warn!(path = %path.display(), "the password file can be read by others: ignored (chmod 0600)");
        return None;
    }
    std::fs::read_to_string(path).ok()
}

/// The password of the first line that matches: `host:port:dbname:user:password`, `*` for any.
pub fn find_password(text: &str, query: PasswordQuery<'_>) -> Option<SecretString> {
    let port = query.port.to_string();
    let wanted = [query.host, &port, query.dbname, query.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split_fields(line);
        let [parts @ .., password] = fields.as_slice() else { return None };
        let matches = parts.len() == wanted.len()
            && parts.iter().zip(wanted).all(|(part, wanted)| part == "*" || part == wanted);
        matches.then(|| SecretString::from(password.clone()))
    })
}

/// Splits at the first four unescaped colons; `\:` and `\\` stand for themselves.
fn split_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut().expect("never empty").extend(chars.next()),
            c => fields.last_mut().expect("never empty").push(c),
        }
    }
    fields
}

/// The parameters of `[name]` in a service file, or `None` when the file or section is missing.
pub fn read_service(path: &Path, name: &str) -> Result<Option<Parameters>, UriError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_service(&text, name, &path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(UriError::File { path: path.display().to_string(), kind: error.kind() }),
    }
}

/// The same, of the file's text; `path` names it in errors.
///
/// # Errors
/// When a line of the section cannot be read.
pub fn parse_service(text: &str, name: &str, path: &str) -> Result<Option<Parameters>, UriError> {
    let mut found: Option<Parameters> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.strip_suffix(']') == Some(name) {
                found = Some(Parameters::default());
            }
            continue;
        }
        let Some(parameters) = found.as_mut() else { continue };
        let problem =
            |problem| UriError::ServiceFile { path: path.to_owned(), line: number + 1, problem };
        let (key, value) = line.split_once('=').ok_or_else(|| problem("a name without '='"))?;
        if key.trim() == "service" {
            return Err(problem("a service inside a service"));
        }
        parameters.set(key.trim(), value.trim().to_owned())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const QUERY: PasswordQuery<'_> =
        PasswordQuery { host: "db", port: 5432, dbname: "replication", user: "u" };

    fn password(text: &str) -> Option<String> {
        find_password(text, QUERY).map(|secret| secret.expose_secret().to_owned())
    }

    #[test]
    fn the_first_matching_line_of_the_password_file_counts() {
        let text = "# db:5432:*:u:no\nother:*:*:*:no\ndb:5432:app:u:no\ndb:*:replication:u:a\\:b:c\\\\\n*:*:*:*:late";
        assert_eq!(password(text).as_deref(), Some("a:b:c\\"));
        assert_eq!(password("db:5433:*:u:x\nshort:line"), None);
    }

    #[test]
    fn a_password_file_that_others_can_read_is_ignored() {
        let folder = std::env::temp_dir().join(format!("pgpass-{}", std::process::id()));
        std::fs::write(&folder, "*:*:*:*:x").expect("a temporary file");
        let mode = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode));
        mode(0o640).expect("permissions");
        assert!(read_password_file(&folder).is_none());
        mode(0o600).expect("permissions");
        assert!(read_password_file(&folder).is_some());
        std::fs::remove_file(&folder).expect("our own file");
    }

    #[test]
    fn a_service_is_one_section_of_its_file() {
        let text = "# c\n[a]\nhost=h1\n[b]\nhost = h2\nport=5433\n\n[c]\nhost=h3\n";
        let found = parse_service(text, "b", "f").expect("valid").expect("there");
        assert_eq!((found.get("host"), found.get("port")), (Some("h2"), Some("5433")));
        assert!(parse_service(text, "d", "f").expect("valid").is_none());
        assert!(parse_service("[a]\nservice=b", "a", "f").is_err());
        assert!(parse_service("[a]\nnonsense", "a", "f").is_err());
    }
}
