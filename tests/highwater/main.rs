//! The pipeline on real servers. One binary, one module for each part.

mod delivery;
mod stack;
