//! From options to a connection that has been let in: which host, with or without TLS, in which role.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::{backend, frontend};
use proto::postgres::lsn::Timeline;

use super::auth;
use super::conn::{Connection, Message, Purpose, READ_BYTES};
use super::dial::{Attempt, Socket};
use super::error::{Class, Error, ServerError};
use super::options::{ConnectOptions, Endpoint, TargetSession};
use super::session;
use super::tls;
use crate::source::buffers::Buffers;

impl Connection {
    /// Connects to the first endpoint that answers and has the wanted role.
    ///
    /// # Errors
    /// When none does; the last error, or all of them if there are several hosts.
    pub async fn connect(options: &ConnectOptions, purpose: Purpose) -> Result<Self, Error> {
        let mut errors = Vec::new();
        for endpoint in &options.endpoints {
            match Self::connect_endpoint(options, endpoint, purpose).await {
                Ok(connection) => return Ok(connection),
                Err(error) => errors.push(error),
            }
        }
        let last = errors.pop().expect("there is always an endpoint");
        if errors.is_empty() {
            Err(last)
        } else {
            Err(Error::EveryHost { last: Box::new(last), others: errors })
        }
    }

    async fn connect_endpoint(
        options: &ConnectOptions,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        let config = tls::client_config(&options.tls).map_err(|source| Error::Tls {
            endpoint: endpoint.clone(),
            source: Box::new(source),
        })?;
        let config = Arc::new(config);
        let attempts = Attempt::of(options.tls.mode, &endpoint.host);
        for (index, attempt) in attempts.iter().enumerate() {
            let trial = Self::connect_once(options, endpoint, purpose, *attempt, &config);
            let result = tokio::time::timeout(options.connect_timeout, Box::pin(trial)).await;
            let result = result.unwrap_or(Err(Error::TimedOut {
                doing: "connecting",
                after: options.connect_timeout,
            }));
            match result {
                Err(error) if index + 1 < attempts.len() && may_try_otherwise(&error) => {}
                result => return result,
            }
        }
        unreachable!("the last attempt always returns")
    }

    async fn connect_once(
        options: &ConnectOptions,
        endpoint: &Endpoint,
        purpose: Purpose,
        attempt: Attempt,
        config: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, Error> {
        let mut connection = Self {
            socket: Socket::open(options, endpoint, attempt, config).await?,
            input: BytesMut::new(),
            input_size: 0,
            buffers: Buffers::of(READ_BYTES),
            output: BytesMut::new(),
            flush_needed: false,
            endpoint: endpoint.clone(),
            parameters: HashMap::new(),
            notices: Vec::new(),
            process_id: 0,
        };
        connection.queue_startup(options, purpose)?;
        auth::authenticate(&mut connection, options, purpose).await?;
        connection.finish_startup().await?;
        connection.check_role(options.target)?;
        if options.endpoints.len() > 1 {
            connection.check_timeline(options.newest.get(), purpose).await?;
        }
        Ok(connection)
    }

    fn queue_startup(&mut self, options: &ConnectOptions, purpose: Purpose) -> Result<(), Error> {
        let mut parameters = vec![
            ("user", options.user.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", options.application_name.as_str()),
            // Times and numbers are read by programs here.
            ("DateStyle", "ISO"),
        ];
        match purpose {
            Purpose::Replication => parameters.push(("replication", "true")),
            Purpose::Sql => parameters.push(("database", options.database())),
        }
        parameters.extend(options.options.as_deref().map(|text| ("options", text)));
        frontend::startup_message(parameters, &mut self.output)
            .map_err(|source| Error::Io { doing: "starting the session", source })
    }

    async fn finish_startup(&mut self) -> Result<(), Error> {
        loop {
            match self.message("starting the session").await? {
                Message::Other(backend::Message::BackendKeyData(body)) => {
                    self.process_id = body.process_id();
                }
                Message::Other(backend::Message::ReadyForQuery(_)) => return Ok(()),
                Message::Other(backend::Message::ErrorResponse(body)) => {
                    let source = Box::new(ServerError::from_fields(body.fields()));
                    return Err(Error::Refused { endpoint: self.endpoint.clone(), source });
                }
                _ => return Err(Error::unexpected("the session's parameters", "another message")),
            }
        }
    }

    /// PostgreSQL 14 and later report both parameters at startup, on walsenders too.
    fn check_role(&self, target: TargetSession) -> Result<(), Error> {
        let on = |name| self.parameter(name) == Some("on");
        let standby = on("in_hot_standby");
        let read_only = standby || on("default_transaction_read_only");
        let (fits, wanted) = match target {
            TargetSession::Any => (true, "any"),
            TargetSession::ReadWrite => (!read_only, "read-write"),
            TargetSession::ReadOnly => (read_only, "read-only"),
            TargetSession::Primary => (!standby, "primary"),
            TargetSession::Standby => (standby, "standby"),
        };
        if fits {
            Ok(())
        } else {
            Err(Error::WrongRole { endpoint: self.endpoint.clone(), wanted })
        }
    }

    /// Of several hosts, an old primary that came back is passed by.
    async fn check_timeline(&mut self, newest: Timeline, purpose: Purpose) -> Result<(), Error> {
        let found = match purpose {
            Purpose::Replication => session::identify(self).await?.timeline,
            Purpose::Sql if self.parameter("in_hot_standby") == Some("on") => return Ok(()),
            Purpose::Sql => session::timeline_by_sql(self).await?,
        };
        if found >= newest {
            return Ok(());
        }
        Err(Error::LeftBehind { endpoint: self.endpoint.clone(), found, newest })
    }
}

/// With `allow` and `prefer` libpq turns to the other kind of connection when the server refuses
/// this one, not when it cannot be reached.
fn may_try_otherwise(error: &Error) -> bool {
    match error {
        Error::Tls { .. } => true,
        Error::Refused { source, .. } => source.class() == Class::Config,
        _ => false,
    }
}
