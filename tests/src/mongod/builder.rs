//! From wishes to running servers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use bson::{Document, doc};

use super::{Access, Node, ROOT, ROOT_PASSWORD, ReplicaSet};
use crate::certificates::Authority;
use crate::ports::Port;
use crate::scratch::Folder;
use crate::server::Server;
use crate::wait::{self, Deadline};
use crate::{fetch, user};

/// What every server runs with: small, on loopback alone, and quick to go.
const ARGUMENTS: &[&str] = &[
    "--bind_ip=127.0.0.1",
    "--nounixsocket",
    "--wiredTigerCacheSizeGB=0.25",
    "--setParameter=diagnosticDataCollectionEnabled=false",
    "--setParameter=shutdownTimeoutMillisForSignaledShutdown=1000",
];

/// A replica set to be.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    name: String,
    oplog_mb: u32,
    /// Another size for one member.
    oplog_of: Option<(usize, u32)>,
    preferred: Option<usize>,
    auth: bool,
    tls: bool,
    splitting: bool,
    arguments: Vec<String>,
}

impl Builder {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            name: "rs0".to_owned(),
            oplog_mb: 256,
            oplog_of: None,
            preferred: None,
            auth: false,
            tls: false,
            splitting: false,
            arguments: Vec::new(),
        }
    }

    /// The set's name; `rs0` if not given.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// An oplog of this many MB, such as 8 for one that is soon rolled over.
    pub fn oplog_mb(mut self, megabytes: u32) -> Self {
        self.oplog_mb = megabytes;
        self
    }

    /// An oplog of another size for this member.
    pub fn oplog_mb_of(mut self, node: usize, megabytes: u32) -> Self {
        self.oplog_of = Some((node, megabytes));
        self
    }

    /// This member is the primary whenever it can be.
    pub fn prefer(mut self, node: usize) -> Self {
        self.preferred = Some(node);
        self
    }

    /// Commands for tests alone: `prepareTransaction`, `replSetTest`, `dbHash` at a timestamp.
    pub fn test_commands(self) -> Self {
        self.parameter("enableTestCommands", "1")
    }

    /// A server parameter from the start.
    pub fn parameter(self, name: &str, value: &str) -> Self {
        self.argument(&format!("--setParameter={name}={value}"))
    }

    /// A further argument of mongod.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Asks for a password: [`super::ROOT`] may do everything, further users by
    /// [`ReplicaSet::create_user`].
    pub fn auth(mut self) -> Self {
        self.auth = true;
        self
    }

    /// Speaks nothing but TLS, with a certificate for `localhost` and 127.0.0.1.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Of the newer server, which sends large change events in fragments.
    pub fn splitting(mut self) -> Self {
        self.splitting = true;
        self
    }

    /// Makes the set, starts it and waits for a primary that takes writes.
    pub fn start(self) -> Result<ReplicaSet> {
        let shared = Folder::new("mongod-set")?;
        let mut common = vec![format!("--replSet={}", self.name)];
        if self.auth {
            common.push(format!("--keyFile={}", key_file(shared.path())?.display()));
        }
        let authority = self.authority(&shared)?;
        common.extend(tls_arguments(authority.as_ref())?);
        let access = Access {
            root: self.auth,
            certificate_authority: authority.as_ref().map(Authority::certificate),
        };
        let nodes = (0..self.nodes)
            .map(|number| {
                let size = self.oplog_of.filter(|(node, _)| *node == number);
                let size = size.map_or(self.oplog_mb, |(_, megabytes)| megabytes);
                let own = [&common[..], &[format!("--oplogSize={size}")]].concat();
                self.node(&own, access.clone())
            })
            .collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            node.launch()?;
        }
        for node in &nodes {
            node.await_ready(&Deadline::seconds(60))?;
        }
        let set = ReplicaSet { name: self.name.clone(), nodes, access, authority, _shared: shared };
        initiate(&set, self.auth, self.preferred)?;
        Ok(set)
    }

    /// One server that is of no set, running.
    pub fn standalone(self) -> Result<Node> {
        let node = self.node(&[], Access::default())?;
        node.start()?;
        Ok(node)
    }

    /// A server of no set on data that is there, such as a restored folder; not running yet.
    pub(super) fn on(self, data: &Path) -> Result<Node> {
        let mut node = self.node(&[], Access::default())?;
        node.data = data.to_path_buf();
        Ok(node)
    }

    fn node(&self, common: &[String], access: Access) -> Result<Node> {
        let program =
            if self.splitting { fetch::mongod::splitting()? } else { fetch::mongod::usual()? };
        let folder = Folder::new("mongod")?;
        let data = folder.sub("data")?;
        // What the test gives itself counts.
        let given = |argument: &&&str| {
            let name = argument.split_once('=').map_or(**argument, |(name, _)| name);
            name != "--setParameter" && self.arguments.iter().any(|own| own.starts_with(name))
        };
        let own = ARGUMENTS.iter().filter(|argument| !given(argument));
        let own = own.map(|&argument| argument.to_owned());
        let arguments = own.chain(common.iter().cloned()).chain(self.arguments.iter().cloned());
        Ok(Node {
            program,
            arguments: arguments.collect(),
            access,
            server: Server::new("mongod", folder.path()),
            client: Mutex::new(None),
            data,
            port: Port::take()?,
            folder,
        })
    }

    fn authority(&self, shared: &Folder) -> Result<Option<Authority>> {
        self.tls.then(|| super::authority(&shared.sub("tls")?)).transpose()
    }
}

/// What the members of a set know each other by.
fn key_file(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("key");
    std::fs::write(&path, "c2hhcmVkIGJ5IGFsbCBtZW1iZXJzIG9mIHRoaXMgc2V0\n")?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400))?;
    user::hand_over(&path)?;
    Ok(path)
}

/// A server's certificate, and another one for what it asks of the other members: each is good for
/// one use alone.
fn tls_arguments(authority: Option<&Authority>) -> Result<Vec<String>> {
    let Some(authority) = authority else { return Ok(Vec::new()) };
    let mut arguments = vec![
        "--tlsMode=requireTLS".to_owned(),
        "--tlsAllowConnectionsWithoutCertificates".to_owned(),
        format!("--tlsCAFile={}", authority.certificate().display()),
    ];
    let files = [
        ("tlsCertificateKeyFile", authority.server("server")?),
        ("tlsClusterFile", authority.client("member")?),
    ];
    for (argument, files) in files {
        let both = [std::fs::read(&files.certificate)?, std::fs::read(&files.key)?].concat();
        let path = files.certificate.with_extension("pem");
        std::fs::write(&path, both)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        user::hand_over(&path)?;
        arguments.push(format!("--{argument}={}", path.display()));
    }
    Ok(arguments)
}

/// With elections of a second, for tests that wait for them.
fn initiate(set: &ReplicaSet, auth: bool, preferred: Option<usize>) -> Result<()> {
    let member = |(number, node): (usize, &Node)| {
        let priority = if preferred == Some(number) { 10 } else { 1 };
        doc! { "_id": number as i32, "host": node.host(), "priority": priority }
    };
    let members: Vec<Document> = set.nodes.iter().enumerate().map(member).collect();
    let config = doc! {
        "_id": &set.name,
        "members": members,
        "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 },
    };
    let first = set.nodes.first().context("a set has a member")?;
    first.run_as(None, "admin", doc! { "replSetInitiate": config })?;
    wait::until(&Deadline::seconds(120), "a first primary", || {
        let is_primary = |node: &&Node| {
            let said = node.run_as(None, "admin", doc! { "hello": 1 });
            said.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
        };
        let first = preferred.map_or(&set.nodes[..], |number| &set.nodes[number..=number]);
        let Some(primary) = first.iter().find(is_primary) else { return Ok(None) };
        if auth {
            // A server without a user lets one who comes from its own machine make the first.
            let user = doc! { "createUser": ROOT, "pwd": ROOT_PASSWORD, "roles": ["root"] };
            primary.run_as(None, "admin", user)?;
        }
        Ok(Some(()))
    })
    .with_context(|| first.log_tail())?;
    set.await_members(&Deadline::seconds(120))
}
