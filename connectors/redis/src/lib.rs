//! Fenced cache entries in Redis. Promise: a value is never served without a change whose fence was applied, and no loss
//! of Redis's state makes an old value look new.
//!
//! It knows neither who makes the changes nor what the values are: keys, groups and partitions are texts, and time is a
//! [`Stamp`]. The rules live in a Redis function library (`functions.lua`, the same for clients in any language), so that
//! each is atomic:
//!
//! - every key and group has a *fence*, the newest point that touched it, which outlives the value;
//! - every value has a *low* bound (it contains all changes below) and a *high* one (it contains none at or above), and
//!   is served only while no fence stands at or above low;
//! - each partition of the log has its *progress* beside the data: a batch is applied only onto the state that it builds
//!   on, so a Redis that came back with an older state is noticed and read again from there.
//!
//! Map: [`Stamp`] is the clock, [`Options`] and [`Cache::connect`] the way in, [`Cache::apply`] and [`Cache::replay`] the
//! writing side, [`Cache::get`] and [`Cache::fill`] the reading one, [`Error::is_transient`] says what to do about failures.
//!
//! Redis must be of version 7 or newer, must not evict keys without a time to live, and must not be a cluster: the
//! progress of a partition and all that it judges have to be on one node.

mod connect;
mod entries;
mod error;
mod stamp;

pub use connect::{Cache, Options, Secret};
pub use entries::{Applied, Change, Entry, Lookup, Outcome, Progress, Reading};
pub use error::Error;
pub use stamp::{NotAStamp, Stamp};
