//! Jobs that use a mount beside each other, and what each of them is to see (SEMANTICS 1 to 3).
//!
//! A job is a process with its descendants, from the first of them that opens something on the mount. The
//! test itself must therefore never open anything there: all its processes would become one job. It looks
//! at the store, and has [`Agent`]s act on the mount, each a job of its own.
//!
//! With `CACHEFS_TEST_PLAIN=DIRECTORY` the tests run on plain directories below that one instead of mounts:
//! what they ask of POSIX holds there, and what only a view can give fails.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of what they share")]

mod agent;
mod ground;

pub(crate) use agent::{Agent, all};
pub(crate) use ground::{Ground, View, eventually, everywhere, view_of};

use std::path::{Path, PathBuf};

/// Where the scripts lie that jobs run.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/views")
}

/// Whether there is time for the long form of what is repeated.
pub(crate) fn soak() -> bool {
    std::env::var_os("CACHEFS_SOAK").is_some()
}

/// The system's own Python: it starts faster than what stands in for it on developers' machines, and
/// touches nothing but what the scripts say.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
