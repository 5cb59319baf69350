//! What a restore must give back: every kind of change that a replica set's users make.

use std::time::Duration;

use ::mongodb::{Client, ClientSession};
use anyhow::{Context, Result};
use bson::{Binary, Document, Timestamp, doc, spec::BinarySubtype};
use tests::mongod::ReplicaSet;

/// Servers that take all of it, and show their collections as of each moment of the last hour.
pub(crate) fn source(members: usize) -> Result<ReplicaSet> {
    ReplicaSet::builder(members)
        .test_commands()
        .oplog_mb(990)
        .parameter("minSnapshotHistoryWindowInSeconds", "3600")
        .parameter("ttlMonitorEnabled", "false")
        .start()
}

pub(crate) struct Workload {
    pub(crate) client: Client,
}

impl Workload {
    async fn run(&self, db: &str, command: Document) -> Result<Document> {
        let shown = command.to_string();
        let answer = self.client.database(db).run_command(command).await;
        answer.with_context(|| shown.chars().take(200).collect::<String>())
    }

    async fn insert(&self, db: &str, collection: &str, documents: Vec<Document>) -> Result<()> {
        let into = self.client.database(db).collection::<Document>(collection);
        into.insert_many(documents).await?;
        Ok(())
    }

    async fn update(&self, collection: &str, id: i32, update: Vec<Document>) -> Result<()> {
        let update = doc! { "update": collection, "updates": update.into_iter().map(|u| {
            doc! { "q": { "_id": id }, "u": u }
        }).collect::<Vec<_>>() };
        self.run("shop", update).await.map(drop)
    }

    /// Collections of all kinds, with something in each.
    pub(crate) async fn begin(&self) -> Result<()> {
        let create = [
            doc! { "create": "orders", "validator": { "n": { "$gte": 0 } }, "validationAction": "warn" },
            doc! { "create": "names", "collation": { "locale": "en", "strength": 2 } },
            doc! { "create": "ring", "capped": true, "size": 8192, "max": 7 },
            doc! { "create": "big" },
            doc! { "create": "by_key", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
            doc! { "create": "readings", "timeseries": { "timeField": "t", "metaField": "m" } },
            doc! { "create": "cheap", "viewOn": "orders", "pipeline": [{ "$match": { "n": { "$lt": 5 } } }] },
        ];
        for command in create {
            self.run("shop", command).await?;
        }
        let orders = (0..300).map(
            |n| doc! { "_id": n, "n": n, "a": [1, 2, 3, 4], "s": "x", "o": { "p": 1, "q": 2 } },
        );
        self.insert("shop", "orders", orders.collect()).await?;
        let names = ["Ann", "bob", "Cid"].map(|name| doc! { "_id": name, "hits": 0 });
        self.insert("shop", "names", names.to_vec()).await?;
        self.insert("shop", "ring", (0..10).map(|n| doc! { "_id": n }).collect()).await?;
        self.insert("shop", "big", (0..50).map(|n| doc! { "_id": n, "k": n % 7 }).collect())
            .await?;
        self.insert("shop", "by_key", (0..5).map(|n| doc! { "_id": format!("k{n}") }).collect())
            .await?;
        self.readings(0).await?;
        self.index("orders", doc! { "key": { "n": -1, "s": 1 }, "name": "n_s" }).await?;
        self.index("names", doc! { "key": { "hits": 1 }, "name": "sparse", "sparse": true })
            .await?;
        let user = doc! { "createUser": "ann", "pwd": "a-secret", "roles": [{ "role": "read", "db": "shop" }],
        "mechanisms": ["SCRAM-SHA-256"] };
        self.run("shop", user).await?;
        self.file("first", 3).await
    }

    async fn index(&self, collection: &str, index: Document) -> Result<()> {
        self.run("shop", doc! { "createIndexes": collection, "indexes": [index] }).await.map(drop)
    }

    /// Time-series buckets: made, and added to.
    async fn readings(&self, from: i64) -> Result<()> {
        let at = |n: i64| bson::DateTime::from_millis(1_795_000_000_000 + n * 1000);
        for n in from..from + 12 {
            self.insert("shop", "readings", vec![doc! { "t": at(n), "m": (n % 2) as i32, "x": n }])
                .await?;
        }
        Ok(())
    }

    /// As GridFS keeps files.
    async fn file(&self, name: &str, chunks: i32) -> Result<()> {
        let id = format!("file-{name}");
        let chunk = |n: i32| {
            let bytes = vec![n as u8; 200_000];
            let data = Binary { subtype: BinarySubtype::Generic, bytes };
            doc! { "_id": format!("{name}-{n}"), "files_id": &id, "n": n, "data": data }
        };
        self.insert("shop", "fs.chunks", (0..chunks).map(chunk).collect()).await?;
        let file = doc! { "_id": &id, "length": i64::from(chunks) * 200_000, "filename": name };
        self.insert("shop", "fs.files", vec![file]).await?;
        let unique =
            doc! { "key": { "files_id": 1, "n": 1 }, "name": "files_id_1_n_1", "unique": true };
        self.index("fs.chunks", unique).await
    }

    /// Updates of every kind of difference, replacements, deletes.
    pub(crate) async fn documents(&self) -> Result<()> {
        self.update(
            "orders",
            1,
            vec![doc! { "$set": { "a.1": 22 }, "$push": { "a": { "$each": [9, 8] } } }],
        )
        .await?;
        self.update("orders", 2, vec![doc! { "$push": { "a": { "$each": [], "$slice": 2 } } }])
            .await?;
        self.update("orders", 3, vec![doc! { "$pull": { "a": 3 } }, doc! { "$inc": { "n": 5 } }])
            .await?;
        let rename = doc! { "$unset": { "s": "" }, "$rename": { "o.q": "o.z" } };
        self.update("orders", 4, vec![rename]).await?;
        self.update(
            "orders",
            5,
            vec![doc! { "$set": { "o.0": "zero", "o.r.s.t": [1, { "u": 2 }] } }],
        )
        .await?;
        self.update("orders", 6, vec![doc! { "_id": 6, "s": "replaced", "n": 1 }]).await?;
        self.update(
            "orders",
            6,
            vec![doc! { "$set": { "s": "x" } }, doc! { "n": 2, "s": "swapped" }],
        )
        .await?;
        // The field moves to the end, and one with a dot in its name is made.
        let moved = vec![
            doc! { "$replaceWith": { "$mergeObjects": [{ "$unsetField": { "field": "n", "input": "$$ROOT" } }, { "n": 1 }] } },
            doc! { "$replaceWith": { "$setField": { "field": { "$literal": "p.q" }, "input": "$$ROOT", "value": 7 } } },
        ];
        let update = doc! { "update": "orders", "updates": [{ "q": { "_id": 7 }, "u": moved }] };
        self.run("shop", update).await?;
        self.update("orders", 7, vec![doc! { "$set": { "a.2": 5 } }]).await?;
        let many = doc! { "q": { "_id": { "$gte": 100, "$lt": 150 } }, "u": { "$inc": { "n": 1 } }, "multi": true };
        self.run("shop", doc! { "update": "orders", "updates": [many] }).await?;
        let delete = doc! { "q": { "_id": { "$gte": 150, "$lt": 180 } }, "limit": 0 };
        self.run("shop", doc! { "delete": "orders", "deletes": [delete] }).await?;
        let upsert = doc! { "q": { "_id": "up" }, "u": { "$set": { "n": 3 } }, "upsert": true };
        self.run("shop", doc! { "update": "orders", "updates": [upsert] }).await?;
        let modify = doc! { "findAndModify": "orders", "query": { "_id": 8 }, "update": { "$inc": { "n": 1 } } };
        self.run("shop", modify).await?;
        self.update("names", 0, vec![]).await.ok();
        let hit = doc! { "q": { "_id": "ANN" }, "u": { "$inc": { "hits": 1 } } };
        self.run("shop", doc! { "update": "names", "updates": [hit] }).await?;
        self.insert("shop", "orders", vec![doc! { "_id": { "b": 1, "a": 2 }, "": 1, "$x": 2, "n": bson::Timestamp { time: 5, increment: 5 } }]).await?;
        self.readings(12).await?;
        self.file("second", 2).await
    }

    /// Commands that change collections, indexes and views.
    pub(crate) async fn catalog(&self) -> Result<()> {
        // On one with documents, and on an empty one; hidden, unique, partial, text and TTL.
        self.index("big", doc! { "key": { "k": 1 }, "name": "k" }).await?;
        self.index(
            "orders",
            doc! { "key": { "s": "text" }, "name": "words", "weights": { "s": 3 } },
        )
        .await?;
        self.run("shop", doc! { "create": "sessions" }).await?;
        self.index(
            "sessions",
            doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 3600 },
        )
        .await?;
        let partial = doc! { "key": { "u": 1 }, "name": "u", "unique": true, "partialFilterExpression": { "u": { "$gt": 0 } } };
        self.index("sessions", partial).await?;
        let old = bson::DateTime::from_millis(1_600_000_000_000);
        self.insert(
            "shop",
            "sessions",
            (1..20).map(|n| doc! { "_id": n, "t": old, "u": n }).collect(),
        )
        .await?;
        // A unique value moves from one document to another.
        self.run(
            "shop",
            doc! { "delete": "sessions", "deletes": [{ "q": { "_id": 3 }, "limit": 1 }] },
        )
        .await?;
        self.insert("shop", "sessions", vec![doc! { "_id": 103, "t": old, "u": 3 }]).await?;
        let longer = doc! { "name": "ttl", "expireAfterSeconds": 99 };
        self.run("shop", doc! { "collMod": "sessions", "index": longer }).await?;
        self.run("shop", doc! { "collMod": "orders", "index": { "name": "n_s", "hidden": true } })
            .await?;
        let stricter = doc! { "collMod": "orders", "validator": { "n": { "$gte": -5 } }, "validationLevel": "moderate" };
        self.run("shop", stricter).await?;
        let other =
            doc! { "collMod": "cheap", "viewOn": "orders", "pipeline": [{ "$match": { "n": 1 } }] };
        self.run("shop", other).await?;
        self.run("shop", doc! { "dropIndexes": "orders", "index": "words" }).await?;
        Ok(())
    }

    /// Renames, drops, and collections that come back under the same name.
    pub(crate) async fn names(&self) -> Result<()> {
        self.run("admin", doc! { "renameCollection": "shop.big", "to": "shop.bigger" }).await?;
        self.insert("shop", "bigger", vec![doc! { "_id": 1000 }]).await?;
        self.insert("shop", "big", vec![doc! { "_id": "another big" }]).await?;
        // Over one that is there, and into another database.
        self.insert("shop", "in_the_way", vec![doc! { "_id": 1 }]).await?;
        let over =
            doc! { "renameCollection": "shop.big", "to": "shop.in_the_way", "dropTarget": true };
        self.run("admin", over).await?;
        self.run("admin", doc! { "renameCollection": "shop.in_the_way", "to": "attic.kept" })
            .await?;
        self.run("shop", doc! { "drop": "by_key" }).await?;
        self.insert("gone", "a", vec![doc! { "_id": 1 }]).await?;
        self.insert("gone", "b", vec![doc! { "_id": 1 }]).await?;
        self.run("gone", doc! { "dropDatabase": 1 }).await?;
        self.insert("gone", "b", vec![doc! { "_id": 2 }]).await?;
        self.run("shop", doc! { "convertToCapped": "bigger", "size": 100_000 }).await?;
        self.insert("shop", "bigger", vec![doc! { "_id": 1001, "late": true }]).await?;
        self.insert("shop", "ring", (10..25).map(|n| doc! { "_id": n }).collect()).await?;
        self.run("shop", doc! { "drop": "cheap" }).await?;
        let view = doc! { "create": "kept_view", "viewOn": "bigger", "pipeline": [] };
        self.run("shop", view).await?;
        Ok(())
    }

    /// Users and roles.
    pub(crate) async fn users(&self) -> Result<()> {
        let privilege =
            doc! { "resource": { "db": "shop", "collection": "" }, "actions": ["find"] };
        self.run("shop", doc! { "createRole": "looker", "privileges": [privilege], "roles": [] })
            .await?;
        self.run("shop", doc! { "grantRolesToUser": "ann", "roles": ["looker"] }).await?;
        let bob = doc! { "createUser": "bob", "pwd": "b-secret", "roles": ["looker"] };
        self.run("shop", bob).await?;
        self.run("shop", doc! { "dropUser": "ann" }).await?;
        Ok(())
    }

    async fn session(&self) -> Result<ClientSession> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        Ok(session)
    }

    /// Small ones, one that is aborted, one of more than 16 MB, one that makes its collection.
    pub(crate) async fn transactions(&self) -> Result<()> {
        let shop = self.client.database("shop");
        let orders = shop.collection::<Document>("orders");
        let mut session = self.session().await?;
        orders.insert_one(doc! { "_id": "t1", "n": 1 }).session(&mut session).await?;
        orders
            .update_one(doc! { "_id": 9 }, doc! { "$set": { "s": "t1" } })
            .session(&mut session)
            .await?;
        let made = shop.collection::<Document>("made_within");
        made.insert_one(doc! { "_id": 1 }).session(&mut session).await?;
        orders.delete_one(doc! { "_id": 10 }).session(&mut session).await?;
        session.commit_transaction().await?;

        let mut session = self.session().await?;
        orders.insert_one(doc! { "_id": "never" }).session(&mut session).await?;
        session.abort_transaction().await?;

        let mut session = self.session().await?;
        let large = shop.collection::<Document>("large");
        let text = "y".repeat(3_000_000);
        self.run("shop", doc! { "create": "large" }).await?;
        for n in 0..8 {
            large.insert_one(doc! { "_id": n, "text": &text }).session(&mut session).await?;
        }
        large
            .update_one(doc! { "_id": 3 }, doc! { "$set": { "seen": true } })
            .session(&mut session)
            .await?;
        large.delete_one(doc! { "_id": 5 }).session(&mut session).await?;
        session.commit_transaction().await?;
        Ok(())
    }

    /// A transaction that is prepared, and takes effect as of a moment before its end in the log.
    /// The moments before it took effect, and between its effect and its end.
    pub(crate) async fn prepared(&self) -> Result<(Timestamp, Timestamp)> {
        let orders = self.client.database("shop").collection::<Document>("orders");
        let mut session = self.session().await?;
        orders.insert_one(doc! { "_id": "prepared", "n": 1 }).session(&mut session).await?;
        orders
            .update_one(doc! { "_id": 11 }, doc! { "$inc": { "n": 1 } })
            .session(&mut session)
            .await?;
        let admin = self.client.database("admin");
        let prepare = doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } };
        let answer = admin.run_command(prepare).session(&mut session).await?;
        let prepared = answer.get_timestamp("prepareTimestamp")?;
        let other = |n: i32| {
            let insert =
                doc! { "insert": "orders", "documents": [{ "_id": format!("meanwhile {n}") }] };
            self.run("shop", insert)
        };
        let before = other(1).await?.get_timestamp("operationTime")?;
        let effect = other(2).await?.get_timestamp("operationTime")?;
        let between = other(3).await?.get_timestamp("operationTime")?;
        assert!(prepared < before && before < effect && effect < between);
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": effect };
        admin.run_command(commit).session(&mut session).await?;

        let mut session = self.session().await?;
        orders.insert_one(doc! { "_id": "taken back" }).session(&mut session).await?;
        let prepare = doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } };
        admin.run_command(prepare).session(&mut session).await?;
        admin.run_command(doc! { "abortTransaction": 1 }).session(&mut session).await?;
        Ok((before, between))
    }

    /// A capped collection that overflows while a base is taken.
    pub(crate) async fn run_ring(&self) -> Result<()> {
        let ring = doc! { "create": "ring", "capped": true, "size": 100_000, "max": 13 };
        self.run("churn", ring).await.map(drop)
    }

    /// Collections come, are renamed and go while a base is taken.
    pub(crate) async fn churn(&self, rounds: i32) -> Result<()> {
        for n in 0..rounds {
            let name = format!("c{}", n % 3);
            self.insert("churn", &name, (0..20).map(|i| doc! { "_id": i, "n": n }).collect())
                .await?;
            let index = doc! { "key": { "n": 1 }, "name": format!("n{}", n % 2) };
            self.run("churn", doc! { "createIndexes": &name, "indexes": [index] }).await?;
            let to = format!("churn.d{}", n % 2);
            let rename =
                doc! { "renameCollection": format!("churn.{name}"), "to": to, "dropTarget": true };
            self.run("admin", rename).await?;
            self.insert("churn", "ring", vec![doc! { "n": n }]).await?;
            if n % 4 == 3 {
                self.run("churn", doc! { "drop": "d1" }).await?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
