//! The connector on real servers: every test starts its own, on a socket in its own folder, and ends it.

mod clock;
mod connection;
mod entries;
mod model;
mod promise;
mod server;
