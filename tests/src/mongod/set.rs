//! A set as a whole: who is its primary, and what is asked of whoever that is.

use ::mongodb::Client;
use anyhow::{Context, Result};
use bson::{Document, doc};

use super::{Access, Builder, Node, ask, runtime};
use crate::certificates::Authority;
use crate::scratch::Folder;
use crate::wait::{self, Deadline};

/// The members of a replica set, on loopback.
#[derive(Debug)]
pub struct ReplicaSet {
    pub(super) name: String,
    pub(super) nodes: Vec<Node>,
    pub(super) access: Access,
    pub(super) authority: Option<Authority>,
    // Last: what the members share goes after them.
    pub(super) _shared: Folder,
}

impl ReplicaSet {
    /// A set of so many members; `.start()` makes it.
    pub fn builder(nodes: usize) -> Builder {
        Builder::new(nodes)
    }

    /// A running set of one.
    pub fn single() -> Result<Self> {
        Builder::new(1).start()
    }

    /// A running set of three.
    pub fn three() -> Result<Self> {
        Builder::new(3).start()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The authority behind the servers' certificates, if they speak TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The only member that takes writes, once there is one.
    pub fn primary(&self) -> Result<&Node> {
        wait::until(&Deadline::seconds(120), "a primary", || {
            let running = |node: &&Node| node.is_running() && node.is_primary();
            Ok(self.nodes.iter().find(running))
        })
    }

    /// Those that follow, as far as they run.
    pub fn secondaries(&self) -> Vec<&Node> {
        self.nodes.iter().filter(|node| node.is_running() && node.is_secondary()).collect()
    }

    /// What `pitrd --source` is given: all members, as one who may do everything.
    pub fn url(&self) -> String {
        self.url_of(self.access.root())
    }

    /// All members, as this user and password; `None`: as nobody.
    pub fn url_of(&self, user: Option<(&str, &str)>) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(Node::host).collect();
        self.access.url(user, &hosts.join(","), &[("replicaSet", &self.name)])
    }

    /// A client that finds the primary by itself. It may be used on any runtime.
    pub fn client(&self) -> Result<Client> {
        runtime::client(&self.url())
    }

    /// Runs one command on the primary.
    pub fn run(&self, database: &str, command: Document) -> Result<Document> {
        self.primary()?.run(database, command)
    }

    /// A user of the database `admin` with these roles of it.
    pub fn create_user(&self, name: &str, password: &str, roles: &[&str]) -> Result<()> {
        // On every member that runs: a secondary that is behind would not let it in yet.
        let members = self.nodes.iter().filter(|node| node.is_running()).count();
        let concern = doc! { "w": i32::try_from(members)?, "wtimeout": 120_000 };
        let user =
            doc! { "createUser": name, "pwd": password, "roles": roles, "writeConcern": concern };
        ask::ask(&self.client()?, "admin", user, ask::LONG).map(drop)
    }

    /// Makes another member the primary, and waits until it is.
    pub fn step_down(&self) -> Result<&Node> {
        let before = self.primary()?.port();
        self.primary()?.step_down(20)?;
        wait::until(&Deadline::seconds(120), "another primary", || {
            let primary = self.primary()?;
            Ok((primary.port() != before).then_some(primary))
        })
    }

    /// Waits until every member that runs is primary or secondary, and writes reach a majority.
    pub fn await_members(&self, deadline: &Deadline) -> Result<()> {
        wait::until(deadline, "every member to follow", || {
            let settled =
                |node: &Node| !node.is_running() || node.is_primary() || node.is_secondary();
            Ok(self.nodes.iter().all(settled).then_some(()))
        })
        .with_context(|| self.nodes.iter().map(Node::log_tail).collect::<String>())?;
        let note = doc! {
            "appendOplogNote": 1, "data": { "msg": "ready" },
            "writeConcern": { "w": "majority" },
        };
        self.run("admin", note).map(drop)
    }
}
