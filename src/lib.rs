//! What a shared cache is.

pub mod cache;
pub mod cli;
pub mod control;
pub mod store;
