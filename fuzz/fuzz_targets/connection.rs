//! Connection strings of both engines, the password file and the service file.
#![no_main]

use archiver::source::mongodb;
use archiver::source::postgres::secret_files::{PasswordQuery, find_password, parse_service};
use archiver::source::postgres::uri::Parameters;
use archiver::source::postgres::{ConnectOptions, Environment};
use fuzz::seeds;

fn seeds() -> Vec<seeds::Seed> {
    [
        "postgresql://u%40x:hush@h1:5432,h2:5433,[::1]/db?sslmode=verify-full&application_name=a%20b",
        "host=a,b hostaddr='::1,10.0.0.1' port=5432 user = 'it\\'s' connect_timeout=5 sslrootcert=system",
        "postgres:///db?host=/tmp&target_session_attrs=primary&keepalives=0&ssl=true",
        "*:5432:replication:me:hu\\:sh\n#x\nh:*:*:*:\\\\",
        "# a\n[one]\nhost=a\n[two]\nhost = b\nport=1\n",
        "mongodb://me:hush%40x@a:1,[::1]:2/db?replicaSet=rs0&readPreference=secondary&tls=true&authSource=admin&w=majority",
        "mongodb://me:hush%€x@a/",
    ].iter().enumerate().map(|(at, text)| seeds::seed(&at.to_string(), *text)).collect()
}

/// A value as `key=value` takes it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

const NAMES: [&str; 6] = ["host", "port", "dbname", "user", "application_name", "sslmode"];

fn input(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(found) = Parameters::parse(&text) {
        let given = |name: &&str| found.get(name).map(|value| format!("{name}={} ", quoted(value)));
        let pairs: String = NAMES.iter().filter_map(given).collect();
        let again = Parameters::parse(&pairs).expect("our own text");
        assert!(NAMES.iter().all(|name| again.get(name) == found.get(name)), "pairs read back");
        // A service is a file of the machine's.
        if found.get("service").is_none() {
            let env = Environment { user: Some("me".to_owned()), ..Environment::default() };
            if let Ok(options) = ConnectOptions::parse(&text, &env) {
                assert!(!options.endpoints.is_empty() && !options.user.is_empty());
                assert!(options.endpoints.iter().all(|endpoint| endpoint.port > 0));
            }
        }
    }
    let query = PasswordQuery { host: "h", port: 5432, dbname: "replication", user: "me" };
    let _ = find_password(&text, query);
    let _ = parse_service(&text, "two", "a file");
    let _ = mongodb::options::holds_secret(&text);
    // The other scheme asks the DNS.
    if text.starts_with("mongodb://") {
        let parsed = std::pin::pin!(mongodb::ConnectOptions::parse(&text));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match parsed.poll(&mut context) {
            std::task::Poll::Ready(Ok(options)) => assert!(!options.hosts().is_empty()),
            std::task::Poll::Ready(Err(_)) => {}
            std::task::Poll::Pending => panic!("nothing is waited for"),
        }
    }
}

fuzz::target!("connection", most: 8 << 20, seeds: seeds, input: input);
