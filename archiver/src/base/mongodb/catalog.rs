//! The catalog of a replica set: databases, collections with their options, and indexes.
//!
//! Enters: a server. Leaves: every collection that a base holds. It is read once, behind the base's
//! start: what was changed since stands in the oplog, and the replay, which goes by UUIDs, does
//! the same again or finds it done (replay/src/target/mongodb/names.rs).

use bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};

use proto::mongodb::SourceMode;
use proto::mongodb::base::{Bson, Collection, Uuid};
use proto::mongodb::scope::is_restored;

use super::error::{ReadError, code};
use super::server::Server;

#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) collections: Vec<Found>,
    /// Collections that the log does not carry.
    pub(super) left_out: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Without pieces yet.
    pub(super) collection: Collection,
    pub(super) capped: bool,
    /// A collation changes the order of `_id`, and a clustered collection has no index on it.
    pub(super) ordered_by_id: bool,
    /// Of `system.views` alone: its documents as `listCollections` tells them, for whoever may not
    /// read them (the role `backup` may not).
    pub(super) told: Vec<RawDocumentBuf>,
    /// It is kept as it was told: what a change stream does not follow is not among that.
    pub(super) as_told: bool,
}

pub(super) async fn read(server: &Server, mode: SourceMode) -> Result<Catalog, ReadError> {
    // Without the last word a server lists what the user may see, and says nothing of the rest.
    let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false };
    let listed = server.run("admin", "listDatabases", command).await?;
    let missing = ReadError::Answer { what: "listDatabases", field: "databases" };
    let listed = listed.get_array("databases").map_err(|_| missing)?;
    let mut catalog = Catalog::default();
    for database in listed {
        let name = database.as_document().and_then(|database| database.get_str("name").ok());
        let Some(name) = name.filter(|name| is_restored(name, "")) else { continue };
        collections(server, mode, name, &mut catalog).await?;
    }
    Ok(catalog)
}

async fn collections(
    server: &Server,
    mode: SourceMode,
    database: &str,
    catalog: &mut Catalog,
) -> Result<(), ReadError> {
    let Catalog { collections: found, left_out } = catalog;
    let command = doc! { "listCollections": 1, "cursor": {} };
    let listed = server.documents(database, "listCollections", command).await?;
    let missing = |field| ReadError::Answer { what: "listCollections", field };
    let mut views = Vec::new();
    let first = found.len();
    for entry in &listed {
        let name = entry.get_str("name").map_err(|_| missing("name"))?;
        let kind = entry.get_str("type").ok();
        let series = kind == Some("timeseries") && !mode.is_oplog();
        if series || (is_restored(database, name) && !mode.carries(database, name)) {
            // A time series is named once, and not its buckets too; users are said to be left out.
            if !name.starts_with("system.buckets.") && database != "admin" {
                left_out.push(format!("{database}.{name}"));
            }
            continue;
        }
        if kind != Some("collection") {
            views.extend(as_view(database, name, entry)?);
            continue;
        }
        if !mode.carries(database, name) {
            continue;
        }
        let info = entry.get_document("info").map_err(|_| missing("info"))?;
        let uuid = info.get("uuid")?.and_then(uuid_of).ok_or_else(|| missing("info.uuid"))?;
        let options = entry.get_document("options").map_err(|_| missing("options"))?;
        let Some(indexes) = indexes(server, database, name, uuid).await? else { continue };
        let id_index = entry.get_document("idIndex").ok().map(ToOwned::to_owned);
        found.push(Found {
            capped: options.get_bool("capped").unwrap_or(false),
            ordered_by_id: id_index.is_some() && options.get("collation")?.is_none(),
            told: Vec::new(),
            as_told: name == "system.views" && !mode.is_oplog(),
            collection: Collection {
                database: database.to_owned(),
                name: name.to_owned(),
                uuid,
                options: Bson(options.to_owned()),
                id_index: id_index.map(Bson),
                indexes,
                pieces: Vec::new(),
            },
        });
    }
    if let Some(of_views) = found[first..].iter_mut().find(|f| f.collection.name == "system.views")
    {
        of_views.told = views;
    }
    Ok(())
}

pub(super) fn uuid_of(value: RawBsonRef<'_>) -> Option<Uuid> {
    match value {
        RawBsonRef::Binary(binary) => binary.bytes.try_into().ok().map(Uuid),
        _ => None,
    }
}

/// The document of `system.views` behind an entry of `listCollections`; a time series is a view of
/// its buckets there (src/mongo/db/timeseries/timeseries_options.cpp), which this does not rebuild.
fn as_view(
    database: &str,
    name: &str,
    entry: &RawDocument,
) -> Result<Option<RawDocumentBuf>, ReadError> {
    let Ok(options) = entry.get_document("options") else { return Ok(None) };
    let mut view = rawdoc! { "_id": format!("{database}.{name}") };
    if entry.get_str("type").ok() == Some("timeseries") {
        let Ok(series) = options.get_document("timeseries") else { return Ok(None) };
        let mut unpack = rawdoc! {};
        for field in ["timeField", "metaField", "bucketMaxSpanSeconds"] {
            if let Some(value) = series.get(field)? {
                unpack.append(bson::raw::CString::try_from(field)?, value);
            }
        }
        view.append(bson::raw::cstr!("viewOn"), format!("system.buckets.{name}"));
        let mut pipeline = bson::RawArrayBuf::new();
        pipeline.push(rawdoc! { "$_internalUnpackBucket": unpack });
        view.append(bson::raw::cstr!("pipeline"), pipeline);
    }
    for element in options.iter() {
        let (key, value) = element?;
        if key.as_str() != "timeseries" {
            view.append(key, value);
        }
    }
    Ok(Some(view))
}

/// The indexes that are ready, but the one on `_id`; `None` when the collection is gone.
async fn indexes(
    server: &Server,
    database: &str,
    name: &str,
    uuid: Uuid,
) -> Result<Option<Vec<Bson>>, ReadError> {
    let command: Document = doc! { "listIndexes": name, "includeBuildUUIDs": true, "cursor": {} };
    let listed = match server.documents(database, "listIndexes", command).await {
        Ok(listed) => listed,
        Err(error) if error.code() == Some(code::NAMESPACE_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    tracing::debug!(database, name, %uuid, indexes = listed.len(), "a collection is in the base");
    let mut ready = Vec::new();
    for index in listed {
        // One that is being built: its commit stands in the oplog, or it comes to nothing.
        let building = index.get("buildUUID")?.is_some();
        let of_id = index.get_str("name").ok() == Some("_id_");
        let clustered = index.get("clustered")?.is_some();
        if !building && !of_id && !clustered {
            ready.push(Bson(index));
        }
    }
    Ok(Some(ready))
}
