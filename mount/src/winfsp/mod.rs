//! Windows: a volume shown through WinFsp.
//!
//! WinFsp is a driver and a library that calls back, with paths, through a table of functions (`table`,
//! `callbacks`). `tree` finds the nodes that paths mean, and keeps them known to the volume as long as something
//! there is open; `adapter` and `open` say what each request is for a [`Volume`](crate::Volume). The library is
//! loaded when it is needed (`library`): a program that does not mount runs without it.
//!
//! How names and data are cached differs from Linux: WinFsp asks for each name each time somebody opens it, so
//! that each caller gets his own answer, but keeps attributes and data by *path*. A volume that answers callers
//! differently is mounted with no time for which attributes may be believed
//! ([`Options::attributes_valid`](Options)), and then nothing is mixed up but what is mapped into memory.

#![cfg_attr(not(windows), allow(dead_code, reason = "elsewhere, tests only"))]

mod attributes;
mod names;
mod pattern;
mod status;
pub(crate) mod system;
mod times;

#[cfg(windows)]
mod adapter;
#[cfg(windows)]
mod callbacks;
#[cfg(windows)]
mod library;
#[cfg(windows)]
mod listing;
#[cfg(windows)]
mod mounting;
#[cfg(windows)]
mod notify;
#[cfg(windows)]
mod open;
#[cfg(windows)]
mod security;
#[cfg(windows)]
mod spellings;
#[cfg(windows)]
mod table;
#[cfg(all(windows, test))]
mod tests;
#[cfg(windows)]
mod tree;

#[cfg(windows)]
pub use mounting::{Mount, MountError, Options};
