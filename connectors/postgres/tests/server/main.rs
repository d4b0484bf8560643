//! The promises of the connector, on a real server that the tests start and stop by themselves.

mod client;
mod decoders;
mod login;
mod promotion;
mod slots;
mod stack;
mod stream;
mod tls;
mod values;
