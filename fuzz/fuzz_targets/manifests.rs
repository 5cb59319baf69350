//! What an archive and a restore keep as JSON: identity, ledger, complete.json, a plan, a journal.
#![no_main]

use fuzz::{Input, seeds};
use proto::archive::base::Complete;
use proto::archive::identity::Identity;
use proto::archive::ledger::Entry;
use proto::archive::{from_json, to_json};
use proto::store::Key;
use replay::plan::Plan;
use replay::target::postgres::layout::State;
use serde::{Serialize, de::DeserializeOwned};

fn seeds() -> Vec<seeds::Seed> {
    let of = |kind: u8, name: &str| seeds::seed(name, [&[kind][..], &seeds::golden(name)].concat());
    let mut found = vec![of(0, "identity.json"), of(2, "complete.json")];
    found.extend((1..=7).map(|number| of(1, &format!("ledger-{number}.json"))));
    let mongodb = r#"{"format":1,"id":"b","engine":"mongodb","label":"l","kind":"full","started":"2026-11-20T12:00:00Z","finished":"2026-11-20T12:00:09Z","program":"p","raw_bytes":1,"stored_bytes":1,"mongodb":{"version":"6.0.5","feature_version":"6.0","set_name":"rs0","start":{"ts":"1795150757,2","term":3},"stop":"1795150757,2","collections":[{"database":"shop","name":"orders","uuid":"ec3e422a-0102-0304-0506-0708090a0b0c","options":"BQAAAAA=","indexes":["BQAAAAA="],"pieces":[{"at":"1795150757,2","min":"DgAAABBfaWQAAQAAAAA=","objects":[{"object":"00001-1.bson.zst.000001","bytes":10,"raw_bytes":20,"documents":1,"hash":"0707070707070707070707070707070707070707070707070707070707070707"}]}]}]}}"#;
    found.push(seeds::seed("complete-mongodb.json", [&[2][..], mongodb.as_bytes()].concat()));
    let state = r#"{"version":1,"stage":"unpacking","archive":"a","lineage":1,"base":"b","asked":"latest","folders":["f"]}"#;
    found.push(seeds::seed("restore.json", [&[4][..], state.as_bytes()].concat()));
    found
}

fn check<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let key = Key::new("x.json");
    let value: T = from_json(&key, bytes).ok()?;
    let written = to_json(&value);
    let again: T = from_json(&key, &written).expect("our own text");
    assert_eq!(to_json(&again), written, "it reads back as it was written");
    Some(again)
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 5 {
        0 => drop(check::<Identity>(input.0)),
        1 => drop(check::<Entry>(input.0)),
        2 => {
            if let Some(base) = check::<Complete>(input.0).and_then(|complete| complete.mongodb) {
                let _ = (base.raw_bytes(), base.stored_bytes());
            }
        }
        3 => drop(check::<Plan>(input.0)),
        _ => drop(check::<State>(input.0)),
    }
}

fuzz::target!("manifests", most: 8 << 20, seeds: seeds, input: input);
