//! What the engine asks of an operating system.
//!
//! [`fs`], [`io`], [`process`] and [`time`] have the names and the meanings of the crate `rustix`, and [`fd`] and
//! [`ffi`] those of the standard library's modules for Unix. There they are just that, with a few functions more.
//! On Windows they are made of what NT has, as far as it has it.

mod entry;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;
