//! What a shared cache is.
//!
//! The rooms, from the outside in:
//!
//! * [`cli`]: one file a command; parses, asks, prints.
//! * [`control`]: how a command talks to a running daemon, and how the daemon answers.
//! * [`cache`]: the engine; what each name stands for, and for whom.
//! * [`metrics`]: numbers for machines.
//! * [`platform`]: what the engine asks of an operating system.
//! * [`prune`]: what of a cache goes together, and what of it goes first.
//! * [`readers`]: who is running, job by job.
//! * [`store`]: the backing directory, which exactly one daemon owns.
//! * [`system`]: what this machine says of mounts, processes and limits.
//! * [`telemetry`]: where log lines go.

pub mod cache;
#[cfg(unix)]
pub mod cli;
#[cfg(unix)]
pub mod control;
#[cfg(unix)]
pub mod metrics;
pub mod platform;
pub mod prune;
pub mod readers;
pub mod store;
#[cfg(unix)]
pub mod system;
#[cfg(unix)]
pub mod telemetry;
