//! Documents to begin with.

use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc, spec::BinarySubtype};

fn uuid() -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }
}

/// Entries of an oplog, one of each kind.
pub fn entries() -> Vec<RawDocumentBuf> {
    let ts = |increment| Timestamp { time: 1_795_150_757, increment };
    let wall = bson::DateTime::from_millis(1_795_150_757_310);
    let inner =
        rawdoc! { "op": "i", "ns": "shop.orders", "ui": uuid(), "o": { "_id": 1, "x": "a" } };
    vec![
        rawdoc! {
            "op": "i", "ns": "shop.orders", "ui": uuid(), "o": { "_id": 5, "x": [1, "b"] },
            "ts": ts(1), "t": 2_i64, "v": 2_i64, "wall": wall,
        },
        rawdoc! {
            "op": "u", "ns": "shop.orders", "ui": uuid(), "o": { "$v": 2, "diff": { "u": { "x": 1 } } },
            "o2": { "_id": 5 }, "ts": ts(2), "t": 2_i64, "wall": wall,
        },
        rawdoc! {
            "lsid": { "id": uuid() }, "txnNumber": 3_i64, "op": "c", "ns": "admin.$cmd",
            "o": { "applyOps": [inner], "partialTxn": true, "count": 2_i64 },
            "ts": ts(3), "t": 2_i64, "wall": wall, "prevOpTime": { "ts": ts(0), "t": -1_i64 },
        },
        rawdoc! {
            "op": "c", "ns": "admin.$cmd", "o": { "commitTransaction": 1, "commitTimestamp": ts(3) },
            "ts": ts(4), "t": 2_i64, "wall": wall,
        },
        rawdoc! {
            "op": "c", "ns": "shop.$cmd", "ui": uuid(), "o": { "drop": "orders" },
            "ts": ts(5), "t": 2_i64, "wall": wall,
        },
        rawdoc! { "op": "n", "ns": "", "o": { "msg": "before the drop" }, "ts": ts(6), "t": 2_i64 },
    ]
}

/// Events of a change stream.
pub fn events() -> Vec<RawDocumentBuf> {
    let token = |behind: &str| format!("826B00491300000006{behind}");
    let time = Timestamp { time: 0x6B00_4913, increment: 6 };
    vec![
        rawdoc! {
            "_id": { "_data": token("2B01") }, "operationType": "update", "clusterTime": time,
            "ns": { "db": "shop", "coll": "orders" }, "documentKey": { "_id": 1 },
            "collectionUUID": uuid(), "fullDocument": null,
            "updateDescription": {
                "updatedFields": { "a.b": 1 }, "removedFields": ["c.d"],
                "truncatedArrays": [{ "field": "e", "newSize": 2 }],
            },
        },
        rawdoc! {
            "_id": { "_data": token("2B02"), "_typeBits": 1 }, "operationType": "rename",
            "clusterTime": time, "ns": { "db": "shop", "coll": "tmpGYtV3.convertToCapped.cc" },
            "operationDescription": { "to": { "db": "shop", "coll": "cc" } },
            "splitEvent": { "fragment": 1, "of": 2 },
        },
        proto::mongodb::event::begin(time.into()),
    ]
}
