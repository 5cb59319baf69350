//! A real S3 server: SeaweedFS with all its parts in one process, on ports and in a folder of its
//! own. Two instances with a port in common mix up each other's routing, because its unix sockets
//! are named after ports: so every port is given, and locked (see `ports`).

use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;

use crate::fetch;
use crate::ports::Port;
use crate::process::{self, Death, Signal};
use crate::scratch::Folder;
use crate::server::Server;
use crate::wait::Deadline;

pub const REGION: &str = "us-east-1";

/// The bucket that every server has from the start. Each further bucket takes volumes of its own,
/// and there are 60: use prefixes.
pub const BUCKET: &str = "archive";

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// May do everything.
    Admin,
    /// Creates, reads and lists. This server counts deletion as writing.
    Writer,
    /// Reads and lists.
    Reader,
    /// Has a key that this server does not know.
    Stranger,
}

impl Identity {
    const KNOWN: [Self; 3] = [Self::Admin, Self::Writer, Self::Reader];

    pub fn access_key(self) -> &'static str {
        match self {
            Self::Admin => "pitr-admin",
            Self::Writer => "pitr-writer",
            Self::Reader => "pitr-reader",
            Self::Stranger => "pitr-stranger",
        }
    }

    pub fn secret_key(self) -> &'static str {
        match self {
            Self::Admin => "pitr-admin-secret",
            Self::Writer => "pitr-writer-secret",
            Self::Reader => "pitr-reader-secret",
            Self::Stranger => "pitr-stranger-secret",
        }
    }

    fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Admin => &["Admin", "Read", "List", "Tagging", "Write"],
            Self::Writer => &["Read", "List", "Write"],
            Self::Reader => &["Read", "List"],
            Self::Stranger => &[],
        }
    }

    /// The variables that a child process finds these credentials in.
    pub fn environment(self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key()),
            ("AWS_REGION", REGION),
            // Nobody answers there, and asking takes seconds.
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }
}

/// A running server; it and its data go when this value goes.
#[derive(Debug)]
pub struct Seaweed {
    server: Server,
    s3: Port,
    others: Vec<(&'static str, Port)>,
    folder: Folder,
}

/// The ports that `weed server -s3` takes, or would take from a default that another instance has.
const PORTS: [&str; 7] = [
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
];

/// The file that says who may do what.
const IDENTITIES: &str = "s3.json";

fn identities(known: &[Identity]) -> String {
    let identities: Vec<_> = known
        .iter()
        .map(|who| {
            serde_json::json!({
                "name": who.access_key(),
                "credentials": [{"accessKey": who.access_key(), "secretKey": who.secret_key()}],
                "actions": who.actions(),
            })
        })
        .collect();
    serde_json::json!({ "identities": identities }).to_string()
}

impl Seaweed {
    /// A server of one's own, for tests that stop or fill it.
    pub fn start_new() -> Result<Self> {
        let folder = Folder::new("seaweed")?;
        std::fs::write(folder.path().join(IDENTITIES), identities(&Identity::KNOWN))?;
        let others =
            PORTS.iter().map(|&name| Ok((name, Port::take()?))).collect::<Result<Vec<_>>>()?;
        let server = Server::new("the S3 server", folder.path());
        let seaweed = Self { server, s3: Port::take()?, others, folder };
        seaweed.remove_sockets();
        seaweed.start()?;
        Ok(seaweed)
    }

    /// The server that tests share when they only need a store; it ends with the process.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Seaweed, String>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start_new().map_err(|error| format!("{error:#}"))) {
            Ok(seaweed) => Ok(seaweed),
            Err(error) => bail!("no S3 server to share: {error}"),
        }
    }

    /// Starts it on the data that it has, and waits until it takes an object.
    pub fn start(&self) -> Result<()> {
        let mut weed = process::command(fetch::seaweedfs()?, None, Death::Kill);
        weed.current_dir(self.folder.path())
            .env("TMPDIR", self.folder.sub("tmp")?)
            .env("HOME", self.folder.path())
            .args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-dir={}", self.folder.sub("data")?.display()))
            .arg(format!("-s3.config={}", self.folder.path().join(IDENTITIES).display()))
            .arg(format!("-s3.port={}", self.s3.number()))
            .args(self.others.iter().map(|(name, port)| format!("-{name}={}", port.number())))
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            // It reports home by default; the default eight volumes are full after a bucket or
            // two, whereupon puts fail with 500; and a restart waits for an election.
            .args(["-master.telemetry=false", "-volume.max=60", "-master.volumeSizeLimitMB=1024"])
            .args(["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]);
        self.server.launch(weed)?;
        self.await_ready(&Deadline::seconds(120))
    }

    fn await_ready(&self, deadline: &Deadline) -> Result<()> {
        let bucket_there = || {
            let client = self.client(Identity::Admin);
            async move {
                // It may be there from an earlier start; the put tells.
                let _ = client.create_bucket().bucket(BUCKET).send().await;
                let put = client.put_object().bucket(BUCKET).key("ready");
                put.body(ByteStream::from_static(b"ready")).send().await.is_ok()
            }
        };
        self.server.await_ready(deadline, || blocking(bucket_there()))
    }

    /// From its next start on it knows these alone, as when keys were revoked.
    pub fn knows(&self, known: &[Identity]) -> Result<()> {
        Ok(std::fs::write(self.folder.path().join(IDENTITIES), identities(known))?)
    }

    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Ends it at once: SIGTERM would take ten seconds.
    pub fn kill9(&self) -> Result<()> {
        self.server.kill9()
    }

    /// Requests hang from here on: connections stay open, and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.server.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.server.signal(Signal::CONT)
    }

    pub fn port(&self) -> u16 {
        self.s3.number()
    }

    pub fn endpoint(&self) -> String {
        endpoint(self.port())
    }

    /// An archive's address.
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        url_at(&self.endpoint(), bucket, prefix)
    }

    /// The same archive reached through another port, such as a proxy's.
    pub fn url_via(&self, port: u16, bucket: &str, prefix: &str) -> String {
        url_at(&endpoint(port), bucket, prefix)
    }

    /// The variables for a child process that may do everything.
    pub fn environment(&self) -> Vec<(String, String)> {
        Identity::Admin.environment()
    }

    /// A client for tests inside a runtime.
    pub fn client(&self, who: Identity) -> aws_sdk_s3::Client {
        let keys = (who.access_key(), who.secret_key());
        let credentials =
            aws_credential_types::Credentials::new(keys.0, keys.1, None, None, "tests");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(self.endpoint())
            .credentials_provider(credentials)
            .force_path_style(true)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// The keys of a bucket under a prefix, in order.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let request = self.client(Identity::Admin).list_objects_v2().bucket(bucket).prefix(prefix);
        let pages = request.into_paginator().send().try_collect();
        let pages = blocking(pages)?.context("cannot list")?;
        let keys = pages.iter().flat_map(|page| page.contents()).filter_map(|object| object.key());
        Ok(keys.map(str::to_owned).collect())
    }

    /// One object's bytes.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>> {
        let request = self.client(Identity::Admin).get_object().bucket(bucket).key(key);
        blocking(async move { Ok(request.send().await?.body.collect().await?.to_vec()) })?
    }

    /// Replaces an object, for tests of damage.
    pub fn put(&self, bucket: &str, key: &str, bytes: Vec<u8>) -> Result<()> {
        let request = self.client(Identity::Admin).put_object().bucket(bucket).key(key);
        blocking(request.body(ByteStream::from(bytes)).send())?.context("cannot put")?;
        Ok(())
    }

    /// Removes an object, for tests of loss.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        let request = self.client(Identity::Admin).delete_object().bucket(bucket).key(key);
        blocking(request.send())?.context("cannot delete")?;
        Ok(())
    }

    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        let request = self.client(Identity::Admin).create_bucket().bucket(bucket);
        blocking(request.send())?.context("cannot create a bucket")?;
        Ok(())
    }

    /// It makes unix sockets in /tmp, whatever TMPDIR says, and leaves them behind when killed.
    fn remove_sockets(&self) {
        let ports = self.others.iter().map(|(_, port)| port).chain([&self.s3]);
        for (port, part) in
            ports.flat_map(|port| ["master", "volume", "filer", "s3"].map(|part| (port, part)))
        {
            for kind in ["", "-grpc"] {
                let name = format!("/tmp/seaweedfs-{part}{kind}-{}.sock", port.number());
                let _ = std::fs::remove_file(name);
            }
        }
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = self.server.kill9();
        self.remove_sockets();
    }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn url_at(endpoint: &str, bucket: &str, prefix: &str) -> String {
    let endpoint = endpoint.replace(':', "%3A").replace('/', "%2F");
    format!("s3://{bucket}/{prefix}?endpoint={endpoint}&region={REGION}&path-style=true")
}

/// Runs a future to its end on a thread of its own, so that it may be called from anywhere.
fn blocking<T: Send>(future: impl Future<Output = T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let run = || -> Result<T> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(future))
        };
        match scope.spawn(run).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
