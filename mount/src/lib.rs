//! How a volume is shown to an operating system.
//!
//! A [`Volume`] is a tree of files with numbered nodes. This crate knows nothing of caches: it
//! takes a volume and a mountpoint and does what the operating system needs to see the one at the
//! other. On Linux that is FUSE ([`fuse`]).

#[cfg(target_os = "linux")]
pub mod fuse;
mod volume;

pub use volume::*;
