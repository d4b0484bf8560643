//! The map of the house: how one commit in PostgreSQL reaches every copy of it.

pub mod capture;
pub mod config;
pub mod deliver;
pub mod events;
pub mod operate;
pub mod position;
pub mod roles;
pub mod running;
pub mod topics;
pub mod workers;
