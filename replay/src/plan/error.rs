//! Why there is no plan.

use proto::postgres::lsn::{Lsn, Timeline};

use crate::catalog::CatalogError;
use crate::find::{FindError, Moment, Refusal};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The moment, whatever the base.
    #[error(transparent)]
    Refused(Box<Refusal>),
    #[error("the log could not be searched")]
    Search(#[source] CatalogError),
    #[error("there is no base {id} (there are {})", list(.known))]
    NoSuchBase { id: String, known: Vec<String> },
    #[error(
        "base {id} stands on timeline {timeline} at {stop}, which is not on the way to timeline {wanted}"
    )]
    BaseElsewhere { id: String, timeline: Timeline, stop: Lsn, wanted: Timeline },
    #[error("base {id} cannot be replayed to that moment")]
    BaseRefused {
        id: String,
        #[source]
        reason: Box<Refusal>,
    },
    /// The only bases that could be used have pages with wrong checksums.
    #[error("only damaged bases can be replayed to that moment: {}", list(.ids))]
    OnlyDamaged { ids: Vec<String> },
    /// The moment lies in a damaged segment, or behind it.
    #[error("{segment} is damaged, and the wanted moment lies in it or behind it{}", newest(*.before))]
    Damaged { segment: String, detail: String, before: Option<Moment> },
    #[error("the log from {from} to {to} is not whole: nothing holds {missing}")]
    Hole { from: Lsn, to: Lsn, missing: String },
}

fn list(ids: &[String]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

fn newest(before: Option<Moment>) -> String {
    before.map_or_else(String::new, |moment| format!("; the newest moment before it is {moment}"))
}

impl From<FindError> for PlanError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Refused(refusal) => Self::Refused(Box::new(refusal)),
            FindError::Log(error) => Self::Search(error),
        }
    }
}
