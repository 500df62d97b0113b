//! Containers that share a cache.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of what they share")]

mod engine;
mod job;

pub(crate) use engine::{Container, Engine, Started};
pub(crate) use job::{Done, Party, STEPS, work_together};

use std::time::Duration;

use crate::common::Mount;

/// A mount in the engine's shared directory, so that the engine sees it come and go.
#[track_caller]
pub(crate) fn mount_for(engine: &Engine, options: &[&str]) -> Mount {
    let builder = Mount::builder().mountpoint(engine.shared("cache")).options(options.to_vec());
    builder.watchdog(Duration::from_secs(3600)).mount()
}
