//! The gate of MongoDB: every collection, as of a timestamp.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Source;
use crate::fetch;
use crate::hashes::differences;
use crate::mongod::{Moment, Node, ReplicaSet};

impl Source for ReplicaSet {
    type Moment = Moment;

    fn record(&self) -> Result<Moment> {
        Self::record(self)
    }

    fn target(moment: &Moment) -> Vec<String> {
        vec!["--at".to_owned(), moment.at.to_string()]
    }

    fn restore_arguments(&self) -> Result<Vec<String>> {
        Ok(vec!["--mongod".to_owned(), fetch::mongod::usual()?.display().to_string()])
    }

    fn assert_restored(&self, data: &Path, moment: &Moment) -> Result<()> {
        let copy = Node::open(data)?;
        copy.start()?;
        let differs = differences(&moment.hashes, &copy.collection_hashes()?);
        ensure!(differs.is_empty(), "{}: {}", moment.at, differs.join(", "));
        Ok(())
    }
}
