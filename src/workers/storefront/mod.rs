//! Topics to browsers: `/v1/ws` and `/v1/events` send what Kafka holds, byte for byte, to whoever follows it.
//!
//! Promise: a client has every event from its welcome's `position` on, or is told to `resync`; never a silent gap, and
//! never an older event behind a newer one of the same entity.
//!
//! - One reader (`worker`) feeds one `hub`, which keeps recent events (`ring`) and knows how far each partition is
//!   (`progress`).
//! - Each client has an `outbox`: bounded in bytes, it keeps the newest event of each entity (`conflate`), so that a slow
//!   client is kept and only skips what is out of date.
//! - A client's resume token is the last mark it got: the least bound over all partitions of what it follows. A `follower`
//!   sends one only when everything before it was sent.
//! - `server` admits (`admission`), `socket` and `sse` speak to one client each (`message`).

mod admission;
mod conflate;
mod event;
mod follower;
mod hub;
mod message;
mod outbox;
mod progress;
mod ring;
mod server;
mod settings;
mod socket;
mod sse;
mod worker;

pub use server::{Error, run};
pub use settings::Settings;
