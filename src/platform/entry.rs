//! What directories are made of.

use std::ffi::OsStr;

use super::fs::FileType;

/// An entry as the filesystem lists it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The number of its inode, or file.
    pub inode: u64,
    /// The offset after it.
    pub next: u64,
    /// What it is; unknown where the filesystem does not say.
    pub kind: FileType,
    /// Its name; `.` and `..` among them.
    pub name: &'a OsStr,
    /// For [`super::fs::Entries::advance`].
    pub length: usize,
}
