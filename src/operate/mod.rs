//! What an operator asks of a pipeline from outside: would it start, and how does it stand.

pub mod replay;
