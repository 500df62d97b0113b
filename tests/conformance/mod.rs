//! What the conformance tests share: a place to test, which is a mount or, to show that a test is right, a
//! plain directory; processes that do as they are told; and numbers that come out the same each time.
//!
//! With `CACHEFS_TEST_PLAIN=DIRECTORY` the tests run on plain directories below that one instead of mounts.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of what they share")]

mod agent;
mod image;
mod place;
mod random;

pub(crate) use agent::{Agent, Answer, serve};
pub(crate) use image::{Filesystem, Image, LOWERED};
pub(crate) use place::{Place, drop_caches, everywhere, on_one};
pub(crate) use random::Random;
