//! Noops of the oplog: what a server, an application or we have written into it as a note.

use bson::RawDocumentBuf;
use bson::raw::cstr;

use super::{Entry, Op};

/// What the server itself notes (src/mongo/db/repl, `logOplogEntry…Noop` and the noop writer).
const OF_THE_SERVER: [&str; 2] = ["initiating set", "Reconfig set"];
/// The first entry of each primary.
const NEW_PRIMARY: &str = "new primary";

/// What a noop says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note<'a> {
    /// Proof of life of an idle server.
    Periodic,
    /// Another member has become the primary.
    NewPrimary,
    /// Somebody gave this moment a name: `pitrd point`, or an application with `appendOplogNote`.
    Named(&'a str),
    /// Anything else.
    Other,
}

/// What `pitrd point` gives to `appendOplogNote` as its `data`.
pub fn restore_point(name: &str) -> RawDocumentBuf {
    let mut note = RawDocumentBuf::new();
    note.append(cstr!("msg"), name);
    note.append(cstr!("by"), "pitr");
    note
}

impl<'a> Entry<'a> {
    /// What it notes, if it is a noop.
    pub fn note(&self) -> Option<Note<'a>> {
        if self.op != Op::Noop {
            return None;
        }
        // Notes of commands (a resharding, a tenant's migration) name a namespace.
        let message = if self.ns.is_empty() { self.o.get_str("msg").ok() } else { None };
        Some(match message {
            Some(NEW_PRIMARY) => Note::NewPrimary,
            Some("periodic noop") => Note::Periodic,
            Some(name) if !name.is_empty() && !OF_THE_SERVER.contains(&name) => Note::Named(name),
            _ => Note::Other,
        })
    }
}
