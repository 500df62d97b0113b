//! What this machine says of mounts, processes and limits.

pub mod busy;
pub mod mounts;
pub mod notify;
pub mod processes;
