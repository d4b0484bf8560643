//! The promises of the whole system, on real PostgreSQL, Kafka and Redis, with the real binary. What the tests know of
//! the copies they read for themselves; nothing here looks through Highwater's own eyes.

mod ahead;
mod audit;
mod cache;
mod check;
mod check_held;
mod check_topics;
mod compaction;
mod dead_letters;
mod delivery;
mod endurance;
mod faults;
mod kills;
mod letters_of_capture;
mod metrics;
mod new_slot;
mod pipeline;
mod process;
mod promotion;
mod publication;
mod shop;
mod snapshot;
mod stack;
mod standby;
mod start;
mod storefront;
mod streaming;
mod through;
