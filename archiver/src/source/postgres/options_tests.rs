use super::*;
use secrecy::ExposeSecret;

fn env(variables: &[(&str, &str)]) -> Environment {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Environment { variables, user: Some("os".into()) }
}

fn parse(text: &str, variables: &[(&str, &str)]) -> ConnectOptions {
    ConnectOptions::parse(text, &env(variables)).expect("valid")
}

fn shown(options: &ConnectOptions) -> Vec<String> {
    options.endpoints.iter().map(ToString::to_string).collect()
}

#[test]
fn every_host_gets_its_own_port_or_the_one_for_all() {
    let options = parse("postgresql://u@h1:5433,h2,[::1]:5434/db", &[]);
    assert_eq!(shown(&options), ["h1:5433", "h2:5432", "[::1]:5434"]);
    let options = parse("host=h1,h2 port=6000", &[]);
    assert_eq!(shown(&options), ["h1:6000", "h2:6000"]);
    let error = ConnectOptions::parse("host=a,b,c port=1,2", &env(&[])).expect_err("counts differ");
    assert_eq!(error, UriError::Count { name: "port", found: 2, hosts: 3 });
}

#[test]
fn the_string_wins_over_the_environment_and_that_over_defaults() {
    let options = parse("host=h", &[("PGUSER", "env"), ("PGHOST", "other"), ("PGPORT", "7")]);
    assert_eq!(options.user, "env");
    assert_eq!(shown(&options), ["h:7"]);
    assert_eq!(options.application_name, "pitr");
    assert_eq!(parse("host=h", &[]).user, "os");
    assert_eq!(options.tls.mode, SslMode::Prefer);
    assert_eq!(options.tls.min_version, TlsMin::V1_3);
}

#[test]
fn a_setting_that_would_be_ignored_is_refused_even_from_the_environment() {
    let error = ConnectOptions::parse("host=h", &env(&[("PGSSLCRL", "x")])).expect_err("refused");
    assert_eq!(error, UriError::Unsupported { name: "sslcrl".into() });
}

#[test]
fn a_wrong_value_is_shown_with_what_was_expected() {
    for text in [
        "host=h sslmode=verify",
        "host=h port=0",
        "host=h port=x",
        "host=h connect_timeout=soon",
        "host=h target_session_attrs=leader",
        "host=h channel_binding=maybe",
        "hostaddr=h",
        "host=h sslrootcert=system sslmode=require",
    ] {
        let error = ConnectOptions::parse(text, &env(&[])).expect_err(text);
        assert!(matches!(error, UriError::Value { .. }), "{text}: {error}");
    }
}

#[test]
fn a_password_in_the_string_is_noticed_and_never_shown() {
    let options = parse("postgresql://u:hunter2@h/db", &[]);
    assert!(options.has_password());
    assert!(!format!("{options} {options:?} {:?}", options.endpoints).contains("hunter2"));
    let options = parse("host=h", &[("PGPASSWORD", "hunter2")]);
    assert!(!options.has_password());
    let found = options.password_for(&options.endpoints[0], "replication").expect("a password");
    assert_eq!(found.expose_secret(), "hunter2");
}

#[test]
fn a_unix_socket_needs_no_name() {
    let options = parse("host=/run/pg port=5433", &[]);
    assert_eq!(shown(&options), ["/run/pg/.s.PGSQL.5433"]);
    assert!(matches!(parse("", &[]).endpoints[0].host, Host::Unix(_)));
}

#[test]
fn an_address_stands_in_for_looking_up_the_name() {
    let options = parse("host=db.example hostaddr=10.0.0.1", &[]);
    let expected = Host::Tcp { name: "db.example".into(), address: "10.0.0.1".parse().ok() };
    assert_eq!(options.endpoints[0].host, expected);
}
