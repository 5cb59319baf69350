//! What people and monitoring see of a running sidecar. Nothing here is needed to be correct.

pub mod forecast;
pub mod lag;
pub mod line;
pub mod metrics;
pub mod notify;
pub mod repeat;
pub mod slot;
pub mod state;
pub mod window;
