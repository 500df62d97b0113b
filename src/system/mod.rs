//! What this machine says of mounts, processes and limits.

pub mod busy;
pub mod containment;
pub mod mounts;
pub mod notify;
pub mod outside;
pub mod processes;
pub mod users;
