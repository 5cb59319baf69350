use anyhow::Result;
use archiver::source::postgres::conn::Purpose;
use archiver::source::postgres::{Class, ConnectOptions, Connection, Environment, Error, Session};
use tests::postgres::Cluster;
use tests::scope;

const HBA: [&str; 4] = [
    "hostssl all,replication certified 127.0.0.1/32 cert",
    "hostssl replication scram 127.0.0.1/32 scram-sha-256",
    "host all,replication md5 127.0.0.1/32 md5",
    "host all,replication scram 127.0.0.1/32 scram-sha-256",
];

fn secured(major: u32) -> Result<Cluster> {
    let builder = HBA.iter().fold(Cluster::builder(major).tls(), |builder, line| builder.hba(line));
    let cluster = builder.start()?;
    cluster.sql(
        "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'right';
         CREATE ROLE certified LOGIN REPLICATION;
         CREATE ROLE nobody LOGIN;",
    )?;
    Ok(cluster)
}

async fn connect(
    cluster: &Cluster,
    user: &str,
    password: &str,
    parameters: &[(&str, &str)],
) -> Result<Session, Error> {
    let mut environment = Environment::default();
    environment.variables.insert("PGPASSWORD".into(), password.into());
    let url = cluster.url_with(user, "postgres", parameters);
    let options = ConnectOptions::parse(&url, &environment).expect("a valid URI");
    Session::connect(&options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_chain_is_checked_down_to_the_host_name() -> Result<()> {
    let cluster = secured(scope::newest_postgres())?;
    let ca = cluster.authority().expect("TLS").certificate().display().to_string();
    let full: &[_] = &[("sslmode", "verify-full"), ("sslrootcert", ca.as_str())];
    let session = connect(&cluster, "scram", "right", full).await?;
    session.close().await;

    let bound = [full, &[("channel_binding", "require")]].concat();
    connect(&cluster, "scram", "right", &bound).await?;

    let wrong = connect(&cluster, "scram", "wrong", full).await.err().expect("refused");
    assert_eq!(wrong.class(), Class::Config, "{wrong}");
    let none = connect(&cluster, "scram", "", full).await.err().expect("refused");
    assert!(matches!(none, Error::NoPassword { .. }), "{none}");
    assert!(!format!("{wrong} {wrong:?}").contains("wrong"), "the password is not shown");

    let named = [full, &[("host", "elsewhere.invalid"), ("hostaddr", "127.0.0.1")]].concat();
    let name = connect(&cluster, "scram", "right", &named).await.err().expect("refused");
    assert_eq!(name.class(), Class::Config, "{name}");
    assert!(matches!(name, Error::Tls { .. }));
    let chain = [("sslmode", "verify-ca"), ("sslrootcert", ca.as_str())];
    let chain = [&chain[..], &[("host", "elsewhere.invalid"), ("hostaddr", "127.0.0.1")]].concat();
    connect(&cluster, "scram", "right", &chain).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_authority_is_an_error_of_configuration() -> Result<()> {
    let cluster = secured(scope::newest_postgres())?;
    let folder = tests::scratch::Folder::new("authority")?;
    let other = tests::certificates::Authority::new(folder.path(), "another")?;
    let ca = other.certificate().display().to_string();
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = [("sslmode", mode), ("sslrootcert", ca.as_str())];
        let error = connect(&cluster, "scram", "right", &parameters).await.err().expect(mode);
        assert_eq!(error.class(), Class::Config, "{mode}: {error}");
    }
    let session = connect(&cluster, "scram", "right", &[("sslmode", "require")]).await;
    session.expect("without a root certificate, require means encryption only").close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sslmode_ends_in_a_connection_where_the_server_allows_it() -> Result<()> {
    let cluster = secured(scope::newest_postgres())?;
    for (mode, tls) in [("disable", false), ("allow", false), ("prefer", true), ("require", true)] {
        let url = cluster.url_with("postgres", "postgres", &[("sslmode", mode)]);
        let options = ConnectOptions::parse(&url, &Environment::default())?;
        let connection = Connection::connect(&options, Purpose::Sql).await?;
        assert_eq!(connection.is_tls(), tls, "{mode}");
    }
    let plain = Cluster::start_new(scope::newest_postgres())?;
    for (mode, works) in [("disable", true), ("allow", true), ("prefer", true), ("require", false)]
    {
        let result = connect(&plain, "postgres", "", &[("sslmode", mode)]).await;
        assert_eq!(result.is_ok(), works, "{mode}");
        if let Err(error) = result {
            assert_eq!(error.class(), Class::Config, "{error}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_go_through_md5_and_scram_without_tls() -> Result<()> {
    // The server of 18 warns about MD5 and still knows it.
    let cluster = secured(scope::newest_postgres())?;
    cluster.sql(
        "SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'right'",
    )?;
    for user in ["md5", "scram"] {
        let parameters = [("sslmode", "disable")];
        connect(&cluster, user, "right", &parameters).await?.close().await;
        let error = connect(&cluster, user, "wrong", &parameters).await.err().expect("refused");
        assert_eq!(error.class(), Class::Config, "{user}: {error}");
    }
    let bound = [("sslmode", "disable"), ("channel_binding", "require")];
    let error =
        connect(&cluster, "scram", "right", &bound).await.err().expect("no TLS, no binding");
    assert!(matches!(error, Error::NoChannelBinding { .. }), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_replicate_is_told_apart() -> Result<()> {
    let cluster = secured(scope::newest_postgres())?;
    let error = connect(&cluster, "nobody", "", &[]).await.err().expect("refused");
    assert_eq!(error.class(), Class::Permission, "{error}");
    let error = connect(&cluster, "unknown", "", &[]).await.err().expect("refused");
    assert_eq!(error.class(), Class::Config, "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_first_that_fits_is_used() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let port = tests::ports::Port::take()?;
    let closed = port.number();
    let url = format!(
        "postgresql://postgres@127.0.0.1:{closed},127.0.0.1:{}/postgres?target_session_attrs=primary",
        cluster.port()
    );
    let options = ConnectOptions::parse(&url, &Environment::default())?;
    Session::connect(&options).await?.close().await;
    let url = url.replace("=primary", "=standby");
    let options = ConnectOptions::parse(&url, &Environment::default())?;
    let error = Session::connect(&options).await.err().expect("no standby");
    assert!(error.is_retryable(), "{error}: a standby may come back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_serves_too() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let url = cluster.socket_url("postgres", "postgres");
    let options = ConnectOptions::parse(&url, &Environment::default())?;
    let mut session = Session::connect(&options).await?;
    assert_eq!(session.identify().await?.system_id, cluster.system_identifier()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_and_a_foreign_one_is_an_error_of_configuration() -> Result<()>
{
    let cluster = secured(scope::newest_postgres())?;
    let authority = cluster.authority().expect("TLS");
    let folder = tests::scratch::Folder::new("authority")?;
    let other = tests::certificates::Authority::new(folder.path(), "another")?;
    let ca = authority.certificate().display().to_string();
    for (client, works) in
        [(authority.client("certified")?, true), (other.client("certified")?, false)]
    {
        let (certificate, key) =
            (client.certificate.display().to_string(), client.key.display().to_string());
        let parameters = [
            ("sslmode", "verify-full"),
            ("sslrootcert", ca.as_str()),
            ("sslcert", certificate.as_str()),
            ("sslkey", key.as_str()),
        ];
        match connect(&cluster, "certified", "", &parameters).await {
            Ok(session) => session.close().await,
            Err(error) => {
                assert!(!works, "{error}");
                assert_eq!(error.class(), Class::Config, "{error:?}");
            }
        }
    }
    let bare = [("sslmode", "verify-full"), ("sslrootcert", ca.as_str())];
    let error = connect(&cluster, "certified", "", &bare).await.err().expect("no certificate");
    assert_eq!(error.class(), Class::Config, "{error}");
    Ok(())
}
