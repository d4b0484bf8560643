//! Topics into Redis, and what becomes of the cache when Redis loses something.

mod log;
#[path = "../../../connectors/redis/tests/redis/server.rs"]
mod server;
mod worker;
