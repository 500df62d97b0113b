//! What is said of errors and names where `errno(3)` is the system's own.

use std::ffi::OsStr;
use std::io;

pub(crate) use libc as errno;

/// The number of `error`, if it has one.
pub(crate) fn number(error: &io::Error) -> Option<i32> {
    error.raw_os_error()
}

/// What the number means.
pub(crate) fn meaning(number: i32) -> impl std::fmt::Display {
    io::Error::from_raw_os_error(number)
}

/// How long a name is for the system: in bytes.
pub(crate) fn length(name: &OsStr) -> usize {
    name.len()
}
