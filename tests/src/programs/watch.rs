//! Waiting for what a running `pitrd` has reached, by its metrics.

use anyhow::{Context, Result};
use proto::postgres::lsn::Lsn;

use super::Pitrd;
use crate::postgres::Cluster;
use crate::wait::Deadline;

impl Pitrd {
    /// The end of what the store holds, as `/metrics` says; `None` before it says anything.
    pub fn durable(&self) -> Option<Lsn> {
        let metrics = self.metrics().ok()?;
        Some(Lsn(metrics.sum("pitr_durable_position")? as u64))
    }

    /// `pitr_rpo_lag_seconds`.
    pub fn lag(&self) -> Result<f64> {
        self.metrics()?.sum("pitr_rpo_lag_seconds").context("no pitr_rpo_lag_seconds")
    }

    /// Waits until the store holds everything up to here.
    pub fn wait_durable(&mut self, lsn: Lsn) -> Result<()> {
        self.wait_durable_within(lsn, &Deadline::seconds(120))
    }

    pub fn wait_durable_within(&mut self, lsn: Lsn, deadline: &Deadline) -> Result<()> {
        self.wait(&format!("{lsn} to be durable"), deadline, |pitrd| {
            Ok(pitrd.durable().is_some_and(|durable| durable >= lsn))
        })
    }

    /// Waits until the store holds everything that the server has flushed by now, and gives that
    /// position.
    pub fn wait_caught_up(&mut self, cluster: &Cluster) -> Result<Lsn> {
        let target = cluster.flush_position()?;
        self.wait_durable(target)?;
        Ok(target)
    }

    /// Waits until it is in this state, as `streaming` or `held`.
    pub fn wait_state(&mut self, state: &str, deadline: &Deadline) -> Result<()> {
        let label = format!("state=\"{state}\"");
        self.wait_for_metrics(&format!("the state {state}"), deadline, |metrics| {
            metrics.labelled("pitr_archiver_state", &label) == Some(1.0)
        })
    }
}
