//! A name for this moment: a note in the oplog, which the archive's index finds.

use bson::{Document, doc};
use proto::mongodb::{OplogTs, restore_point};

use super::{ConnectOptions, Error, ReplicaSet};

/// Has the primary write the note, and returns a moment that holds it.
///
/// # Errors
/// When no primary can be asked, or the user may not (the role `backup` may).
pub async fn create(options: &ConnectOptions, name: &str) -> Result<OplogTs, Error> {
    let set = ReplicaSet::find(options).await?;
    let primary = set.members().iter().find(|(_, hello)| hello.is_primary);
    let Some((member, _)) = primary else {
        let member = "the primary of the set".to_owned();
        return Err(Error::NotReady { member });
    };
    let name_of = member.name().to_owned();
    let malformed = |_| Error::Answer { member: name_of.clone(), field: "a note" };
    let data = Document::try_from(restore_point(name)).map_err(malformed)?;
    let command = doc! {
        "appendOplogNote": 1,
        "data": data,
        "writeConcern": { "w": "majority" },
    };
    let answer = member.run("append a note to the oplog", "admin", command).await;
    set.close().await;
    let ts = answer?.get_timestamp("operationTime").map(OplogTs::from);
    ts.map_err(|_| Error::Answer { member: name_of, field: "operationTime" })
}
