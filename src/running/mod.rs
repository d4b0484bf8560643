//! What every role is given to run: when to stop, where to say how it stands, and how long to try a server that is down;
//! and how its process is watched.

mod listener;
mod patience;
mod readiness;
mod settings;
mod told;

pub use listener::serve;
pub use patience::{Attempts, GaveUp, Patience, Target, reach, reach_blocking};
pub use readiness::{Readiness, Standing};
pub use settings::{LogFormat, Settings};
/// Asks a role to drain. Tasks await `cancelled()`; capture's thread polls `is_cancelled()` between two reads.
pub use tokio_util::sync::CancellationToken as Shutdown;
pub use told::told;
