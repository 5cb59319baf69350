//! Who there is in a replica set, and what tells it from another.
//!
//! Enters: a connection string. Leaves: the members that answer. Hosts that the set knows but this
//! machine cannot reach are no error as long as one member answers.

use std::collections::BTreeSet;

use bson::doc;
use futures_util::future::join_all;
use mongodb::options::ServerAddress;

use super::options::Prefer;
use super::{ConnectOptions, Error, Hello, Member};

/// The members that answered just now.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<(Member, Hello)>,
    /// What the others said instead.
    refused: Vec<Error>,
}

/// What is the same on all members of a set, and is not on another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFacts {
    /// The UUID of `config.transactions`: made once, by the set's first primary, the same on every
    /// member, and to be read with the role `backup`, which may not read `settings.replicaSetId`
    /// (docs/decisions/0011-mongodb-source.md).
    pub id: String,
    pub name: String,
    /// `6.0.5`.
    pub version: String,
    /// The feature compatibility version: `6.0`.
    pub fcv: String,
}

impl ReplicaSet {
    /// Asks the hosts of the connection string, and those that they name.
    ///
    /// # Errors
    /// When nobody can be used: [`Error::EveryMember`] with what each said.
    pub async fn find(options: &ConnectOptions) -> Result<Self, Error> {
        Self::find_among(options, &BTreeSet::new()).await
    }

    /// The same, asking also hosts that were members when the set was last seen: those of the
    /// connection string may all be gone for good.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn find_among(
        options: &ConnectOptions,
        known: &BTreeSet<String>,
    ) -> Result<Self, Error> {
        let mut set = Self { members: Vec::new(), refused: Vec::new() };
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let mut next: Vec<ServerAddress> = options.hosts().to_vec();
        if !options.direct {
            let seeds: BTreeSet<String> = next.iter().map(ToString::to_string).collect();
            let others = known.difference(&seeds);
            next.extend(others.filter_map(|host| ServerAddress::parse(host).ok()));
        }
        while !next.is_empty() {
            asked.extend(next.iter().map(ToString::to_string));
            for answer in join_all(next.iter().map(|host| ask(options, host))).await {
                set.take(answer).await;
            }
            next = set.others(options, &asked);
        }
        if set.members.is_empty() {
            return Err(match set.refused.len() {
                1 => set.refused.remove(0),
                _ => Error::EveryMember { tried: set.refused },
            });
        }
        let preferred = |hello: &Hello| hello.is_primary == (options.prefer == Prefer::Primary);
        set.members.sort_by_key(|(_, hello)| !preferred(hello));
        Ok(set)
    }

    /// One member may be known under two names.
    async fn take(&mut self, answer: Result<(Member, Hello), Error>) {
        match answer {
            Ok((member, hello)) => {
                if self.members.iter().any(|(_, known)| known.me == hello.me) {
                    member.close().await;
                } else {
                    self.members.push((member, hello));
                }
            }
            Err(error) => self.refused.push(error),
        }
    }

    fn others(&self, options: &ConnectOptions, asked: &BTreeSet<String>) -> Vec<ServerAddress> {
        if options.direct {
            return Vec::new();
        }
        let known = |host: &String| {
            asked.contains(host) || self.members.iter().any(|(_, hello)| hello.me == *host)
        };
        let named = self.members.iter().flat_map(|(_, hello)| &hello.hosts);
        let new: BTreeSet<&String> = named.filter(|host| !known(host)).collect();
        new.into_iter().filter_map(|host| ServerAddress::parse(host).ok()).collect()
    }

    /// The hosts that its members name.
    pub fn hosts(&self) -> BTreeSet<String> {
        self.members.iter().flat_map(|(_, hello)| hello.hosts.iter().cloned()).collect()
    }

    /// In the order in which they are to be used.
    pub fn members(&self) -> &[(Member, Hello)] {
        &self.members
    }

    /// What was said by those that cannot be used.
    pub fn refused(&self) -> &[Error] {
        &self.refused
    }

    /// Keeps the member at `index` and closes the others.
    pub async fn keep(mut self, index: usize) -> (Member, Hello) {
        let kept = self.members.swap_remove(index);
        self.close().await;
        kept
    }

    pub async fn close(self) {
        join_all(self.members.into_iter().map(|(member, _)| member.close())).await;
    }
}

async fn ask(options: &ConnectOptions, host: &ServerAddress) -> Result<(Member, Hello), Error> {
    let member = Member::new(options, host)?;
    match member.hello().await.and_then(|hello| check_name(options, &member, hello)) {
        Ok(hello) => Ok((member, hello)),
        Err(error) => {
            member.close().await;
            Err(error)
        }
    }
}

fn check_name(options: &ConnectOptions, member: &Member, hello: Hello) -> Result<Hello, Error> {
    match options.set_name() {
        Some(expected) if expected != hello.set_name => Err(Error::WrongSetName {
            member: member.name().to_owned(),
            expected: expected.to_owned(),
            found: hello.set_name,
        }),
        _ => Ok(hello),
    }
}

impl SetFacts {
    /// Asks one member.
    ///
    /// # Errors
    /// When it refuses: the role `backup` is enough.
    pub async fn of(member: &Member, hello: &Hello) -> Result<Self, Error> {
        let id = identity(member).await?;
        let asked = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
        let answer = member.run("read the feature compatibility version", "admin", asked).await;
        // For the record: where it is needed, the right to read it was asked for.
        let answer = match answer {
            Err(Error::NoRight { .. }) => bson::Document::new(),
            answer => answer?,
        };
        let fcv = answer.get_document("featureCompatibilityVersion").ok();
        let fcv = fcv.and_then(|fcv| fcv.get_str("version").ok()).unwrap_or_default();
        let build = member.run("read the version", "admin", doc! { "buildInfo": 1 }).await?;
        let missing = |field| Error::Answer { member: member.name().to_owned(), field };
        let version = build.get_str("version").map_err(|_| missing("version"))?;
        Ok(Self {
            id,
            name: hello.set_name.clone(),
            version: version.to_owned(),
            fcv: fcv.to_owned(),
        })
    }
}

/// What tells this set from every other one: see [`SetFacts::id`].
///
/// # Errors
/// When the member refuses.
pub async fn identity(member: &Member) -> Result<String, Error> {
    let list = doc! { "listCollections": 1, "filter": { "name": "transactions" } };
    let answer = member.run("list the collections of config", "config", list).await?;
    let first = answer.get_document("cursor").ok();
    let first =
        first.and_then(|cursor| cursor.get_array("firstBatch").ok()?.first()?.as_document());
    let info = first.and_then(|found| found.get_document("info").ok());
    let uuid = match info.and_then(|info| info.get("uuid")) {
        Some(bson::Bson::Binary(uuid)) => <[u8; 16]>::try_from(uuid.bytes.as_slice()).ok(),
        _ => None,
    };
    let uuid = uuid.ok_or_else(|| Error::NoIdentity { member: member.name().to_owned() })?;
    Ok(bson::Uuid::from_bytes(uuid).to_string())
}
