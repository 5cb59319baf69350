//! What a server says of itself to anybody (the `hello` command).

use bson::Document;
use proto::mongodb::{OpTime, OplogTs, SourceMode};
use proto::timestamp::Timestamp;

use super::Error;

/// MongoDB 5.0 (src/mongo/db/wire_version.h): reads of a snapshot outside transactions.
const WIRE_VERSION_MIN: i32 = 13;
/// MongoDB 6.0: change streams tell what happens to collections (`showExpandedEvents`).
const WIRE_VERSION_OF_EXPANDED_EVENTS: i32 = 17;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// As its set knows it.
    pub me: String,
    pub set_name: String,
    pub is_primary: bool,
    /// The members that hold data and show themselves.
    pub hosts: Vec<String>,
    /// The newest entry that it has applied.
    pub last_write: OpTime,
    /// The newest entry that it knows a majority of members to have.
    pub majority: OpTime,
    /// Its clock.
    pub local_time: Timestamp,
    pub wire_version: i32,
}

impl Hello {
    /// Reads an answer of a server that was asked under the address `member`.
    ///
    /// # Errors
    /// When it is no server whose oplog can be followed.
    pub fn read(member: &str, answer: &Document) -> Result<Self, Error> {
        let member = member.to_owned();
        if answer.get_str("msg").is_ok_and(|message| message == "isdbgrid") {
            return Err(Error::Mongos { member });
        }
        let truth = |field: &str| answer.get_bool(field).unwrap_or(false);
        let Ok(set_name) = answer.get_str("setName") else {
            return Err(match truth("isreplicaset") {
                true => Error::NotInitiated { member },
                false => Error::Standalone { member },
            });
        };
        if truth("arbiterOnly") {
            return Err(Error::Arbiter { member });
        }
        let found = answer.get_i32("maxWireVersion").unwrap_or_default();
        if found < WIRE_VERSION_MIN {
            return Err(Error::TooOld { member, found });
        }
        let is_primary = truth("isWritablePrimary") || truth("ismaster");
        if !is_primary && !truth("secondary") {
            return Err(Error::NotReady { member: member.clone() });
        }
        let list = |field: &str| {
            let hosts = answer.get_array(field).into_iter().flatten();
            hosts.filter_map(|host| host.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let missing = |field| Error::Answer { member: member.clone(), field };
        let last = answer.get_document("lastWrite").map_err(|_| missing("lastWrite"))?;
        let place = |field| optime(last, field).ok_or_else(|| missing(field));
        // Only once a majority has confirmed something since it started (repl/hello_response.cpp).
        if !last.contains_key("majorityOpTime") {
            return Err(Error::NotReady { member: member.clone() });
        }
        let clock = answer.get_datetime("localTime").map_err(|_| missing("localTime"))?;
        Ok(Self {
            me: answer.get_str("me").unwrap_or(&member).to_owned(),
            set_name: set_name.to_owned(),
            is_primary,
            hosts: [list("hosts"), list("passives")].concat(),
            last_write: place("opTime")?,
            majority: place("majorityOpTime")?,
            local_time: Timestamp(clock.timestamp_millis().saturating_mul(1000)),
            wire_version: found,
        })
    }

    /// # Errors
    /// When its change streams do not tell what happens to collections.
    pub fn check(&self, member: &str, mode: SourceMode) -> Result<(), Error> {
        if mode.is_oplog() || self.wire_version >= WIRE_VERSION_OF_EXPANDED_EVENTS {
            return Ok(());
        }
        Err(Error::NoExpandedEvents { member: member.to_owned(), found: self.wire_version })
    }

    /// Whether no other member could be the primary without this one knowing.
    pub const fn is_alone(&self) -> bool {
        self.is_primary && self.hosts.len() == 1
    }
}

fn optime(document: &Document, field: &str) -> Option<OpTime> {
    let place = document.get_document(field).ok()?;
    Some(OplogTs::from(place.get_timestamp("ts").ok()?).at(place.get_i64("t").ok()?))
}

#[cfg(test)]
mod tests {
    use bson::{DateTime, Timestamp as Ts, doc};

    use super::*;

    fn answer() -> Document {
        let place = |time| doc! { "ts": Ts { time, increment: 1 }, "t": 2_i64 };
        doc! {
            "setName": "rs0", "me": "a:1", "secondary": true, "hosts": ["a:1", "b:1"],
            "passives": ["c:1"], "maxWireVersion": 17, "localTime": DateTime::from_millis(5),
            "lastWrite": { "opTime": place(9), "majorityOpTime": place(8) },
        }
    }

    #[test]
    fn each_kind_of_server_is_told_from_the_others() {
        let hello = Hello::read("x:1", &answer()).expect("a secondary");
        assert_eq!((hello.me.as_str(), hello.is_primary), ("a:1", false));
        assert_eq!(hello.hosts, ["a:1", "b:1", "c:1"]);
        assert_eq!(hello.last_write, OplogTs::new(9, 1).at(2));
        assert_eq!(hello.majority, OplogTs::new(8, 1).at(2));
        assert_eq!(hello.local_time, Timestamp(5000));
        let with = |change: Document| {
            let mut answer = answer();
            answer.extend(change);
            Hello::read("x:1", &answer)
        };
        let mongos = Hello::read("x:1", &doc! { "msg": "isdbgrid", "isWritablePrimary": true });
        assert!(matches!(mongos, Err(Error::Mongos { .. })));
        let alone = Hello::read("x:1", &doc! { "isWritablePrimary": true });
        assert!(matches!(alone, Err(Error::Standalone { .. })));
        let fresh = Hello::read("x:1", &doc! { "isreplicaset": true });
        assert!(matches!(fresh, Err(Error::NotInitiated { .. })));
        assert!(matches!(with(doc! { "arbiterOnly": true }), Err(Error::Arbiter { .. })));
        assert!(matches!(with(doc! { "maxWireVersion": 9 }), Err(Error::TooOld { .. })));
        assert!(matches!(with(doc! { "secondary": false }), Err(Error::NotReady { .. })));
        let started =
            doc! { "lastWrite": { "opTime": { "ts": Ts { time: 9, increment: 1 }, "t": 2_i64 } } };
        assert!(matches!(with(started), Err(Error::NotReady { .. })), "a member that just started");
        let primary = with(doc! { "isWritablePrimary": true, "hosts": ["a:1"] }).expect("primary");
        assert!(primary.is_primary && !primary.is_alone());
        assert!(primary.check("x:1", SourceMode::ChangeStream).is_ok());
        let older = with(doc! { "maxWireVersion": 13 }).expect("5.0");
        assert!(older.check("x:1", SourceMode::Oplog).is_ok());
        let refused = older.check("x:1", SourceMode::ChangeStream);
        assert!(matches!(refused, Err(Error::NoExpandedEvents { found: 13, .. })));
    }
}
