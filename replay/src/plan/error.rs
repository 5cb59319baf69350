//! Why there is no plan.

use proto::postgres::lsn::{Lsn, Timeline};

use crate::catalog::CatalogError;
use crate::find::{FindError, Refusal};

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
    #[error("the log from {from} to {to} is not whole: nothing holds {missing}")]
    Hole { from: Lsn, to: Lsn, missing: String },
}

fn list(ids: &[String]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

impl From<FindError> for PlanError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Refused(refusal) => Self::Refused(Box::new(refusal)),
            FindError::Log(error) => Self::Search(error),
        }
    }
}
