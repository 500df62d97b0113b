//! Windows: what paths, times, attributes and errors are there, and what they are for a volume.

#![allow(dead_code, reason = "tests only, so far")]

mod attributes;
mod names;
mod pattern;
mod status;
pub(crate) mod system;
mod times;
