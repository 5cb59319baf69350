//! The gate of PostgreSQL: every table of the database `postgres`, at a position.

use std::path::Path;

use anyhow::Result;

use super::Source;
use crate::postgres::{Cluster, Moment};
use crate::user;

impl Source for Cluster {
    type Moment = Moment;

    fn record(&self) -> Result<Moment> {
        Self::record(self, "postgres")
    }

    fn target(moment: &Moment) -> Vec<String> {
        vec!["--at-lsn".to_owned(), moment.lsn.to_string()]
    }

    fn restore_arguments(&self) -> Result<Vec<String>> {
        let mut arguments = vec!["--pg-bin".to_owned(), self.bin_dir().display().to_string()];
        arguments.extend(user::run_as().map(|user| format!("--run-as={user}")));
        Ok(arguments)
    }

    fn assert_restored(&self, data: &Path, moment: &Moment) -> Result<()> {
        let copy = Self::open(self.major(), data)?;
        copy.start()?;
        copy.assert_holds(moment)
    }
}
