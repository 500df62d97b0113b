//! How a volume is shown to an operating system.
//!
//! A [`Volume`] is a tree of files with numbered nodes. This crate knows nothing of caches: it
//! takes a volume and a mountpoint and does what the operating system needs to see the one at the
//! other. On Linux that is FUSE (`fuse`), on Windows WinFsp (`winfsp`).

// For the example's volume, which is a part of tests, too.
#[cfg(all(windows, test))]
extern crate self as cachefs_mount;

#[cfg(target_os = "linux")]
pub mod fuse;
#[cfg(not(windows))]
mod unix;
mod volume;
// What does not need Windows is tested everywhere.
#[cfg(any(windows, test))]
pub mod winfsp;

#[cfg(not(windows))]
use unix as system;
pub use volume::*;
#[cfg(windows)]
use winfsp::system;
