//! Topics into Redis: written and invalidated entries, fences, and the progress beside them.
//!
//! Promise: an entry is never served without a change that was applied, and never to a token that it does not meet;
//! whatever Redis loses costs misses. The rules of serving are the connector's ([`highwater_redis`]); this module decides
//! which entries and groups an event touches, and keeps the partitions' progress honest.

mod batch;
mod plan;
mod settings;
mod template;
mod worker;

pub use batch::{Changes, Incoming, Poison, changes_of};
pub use plan::{Fed, Plan, Rule, Unplannable, scope};
pub use settings::Settings;
pub use template::{BadTemplate, Template};
pub use worker::CacheWorker;
