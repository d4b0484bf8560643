//! The pipeline on real servers. One binary, one module for each part.

mod audit;
mod delivery;
mod stack;
