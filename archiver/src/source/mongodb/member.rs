//! One member of a set, asked directly: never somebody else in its place.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::Document;
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::ServerAddress;

use super::error::code;
use super::{ConnectOptions, Error, Hello};

/// What a short question may take, connecting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
const UNAUTHORIZED: i32 = 13;

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Member {
    name: String,
    client: Client,
    has_credentials: bool,
    /// Why the driver could not reach it last: when it gives up, it says only that it did.
    failure: Arc<Mutex<Option<mongodb::error::Error>>>,
}

impl Member {
    /// A client of this host. Nothing is connected yet.
    ///
    /// # Errors
    /// When the options cannot be used, such as a certificate that is not there.
    pub fn new(options: &ConnectOptions, host: &ServerAddress) -> Result<Self, Error> {
        let name = host.to_string();
        let failure = Arc::new(Mutex::new(None));
        let mut client = options.of_one(host);
        let seen = failure.clone();
        client.sdam_event_handler = Some(EventHandler::callback(move |event| {
            let mut last = seen.lock().expect("no holder panics");
            match event {
                SdamEvent::ServerHeartbeatFailed(event) => *last = Some(event.failure),
                SdamEvent::ServerHeartbeatSucceeded(_) => *last = None,
                _ => {}
            }
        }));
        let client = Client::with_options(client).map_err(|source| Error::Driver {
            member: name.clone(),
            doing: "prepare a connection",
            source: Box::new(source),
        })?;
        Ok(Self { name, client, has_credentials: options.has_credentials(), failure })
    }

    /// Host and port, as it was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Runs one command.
    ///
    /// # Errors
    /// When the server is away or refuses.
    pub async fn run(
        &self,
        doing: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Document, Error> {
        let database = self.client.database(database);
        self.within(doing, PATIENCE, async { database.run_command(command).await }).await
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// As [`Self::run`], and when it is no server whose oplog can be followed.
    pub async fn hello(&self) -> Result<Hello, Error> {
        let answer = self.run("say hello", "admin", bson::doc! { "hello": 1 }).await?;
        Hello::read(&self.name, &answer)
    }

    /// The driver waits without end for a server that stands still.
    pub(super) async fn within<T>(
        &self,
        doing: &'static str,
        after: Duration,
        work: impl Future<Output = Result<T, mongodb::error::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(after, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.error(doing, error)),
            Err(_) => Err(Error::TimedOut { member: self.name.clone(), doing, after }),
        }
    }

    pub(super) fn error(&self, doing: &'static str, error: mongodb::error::Error) -> Error {
        let member = self.name.clone();
        if code(&error) == Some(UNAUTHORIZED) {
            return match self.has_credentials {
                true => Error::NoRight { member, right: doing, source: Box::new(error) },
                false => Error::NoCredentials { member },
            };
        }
        let gave_up = matches!(*error.kind, ErrorKind::ServerSelection { .. });
        let why = self.failure.lock().expect("no holder panics").clone().filter(|_| gave_up);
        Error::Driver { member, doing, source: Box::new(why.unwrap_or(error)) }
    }

    /// Closes its connections, now.
    pub async fn close(self) {
        self.client.shutdown().immediate(true).await;
    }
}
