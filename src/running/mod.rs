//! What every role is given to run: when to stop, where to say how it stands, and how long to try a server that is down.

mod patience;
mod readiness;

pub use patience::{Attempts, GaveUp, Patience, Target, reach, reach_blocking};
pub use readiness::{Readiness, Standing};
/// Asks a role to drain. Tasks await `cancelled()`; capture's thread polls `is_cancelled()` between two reads.
pub use tokio_util::sync::CancellationToken as Shutdown;
