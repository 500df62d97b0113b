//! A directory entry by entry, with offsets to go on from.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

use super::errno::{Errno, Result};
use super::fd::{AsFd, OwnedFd};
use super::flags::{FileType, Mode, OFlags};
use super::opening::openat;
use super::scan::{BATCH, Found, Scan};
use super::stat::id_of;
use crate::platform::entry::Entry;

/// An open directory, and all that was read of it: NT goes on in a directory, but never back. An offset is how many
/// entries come before.
#[derive(Debug)]
pub struct Entries {
    descriptor: OwnedFd,
    scan: Scan,
    buffer: Vec<MaybeUninit<u8>>,
    found: Vec<Found>,
    at: usize,
    is_whole: bool,
}

impl Entries {
    /// Of a directory that was opened for reading.
    pub fn new(descriptor: OwnedFd) -> Entries {
        Entries {
            descriptor,
            scan: Scan::default(),
            buffer: Vec::new(),
            found: Vec::new(),
            at: 0,
            is_whole: false,
        }
    }

    /// The directory.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Goes to `offset`, unless it is there. From the beginning it is read anew.
    pub fn go_to(&mut self, offset: u64) -> Result<()> {
        let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        if offset == 0 && self.at != 0 {
            // Wine goes through what it has read before, on one handle.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            self.descriptor = openat(&self.descriptor, ".", flags, Mode::empty())?;
            (self.scan, self.is_whole) = (Scan::default(), false);
            self.found.clear();
        }
        self.at = offset;
        Ok(())
    }

    /// The next entry; it stays the next until [`Entries::advance`].
    pub fn peek(&mut self) -> Result<Option<Entry<'_>>> {
        while self.at >= self.found.len() && !self.is_whole {
            self.read()?;
        }
        Ok(self.found.get(self.at).map(|found| Entry {
            inode: found.inode,
            next: self.at as u64 + 1,
            kind: found.kind,
            name: &found.name,
            length: 1,
        }))
    }

    /// Goes past an entry, of which it gets the length and the offset after it.
    pub fn advance(&mut self, length: usize, _: u64) {
        self.at += length;
    }

    /// Reads one entry more, or the first two.
    fn read(&mut self) -> Result<()> {
        if self.found.is_empty() {
            let inode = id_of(&self.descriptor)?.1;
            for name in [".", ".."] {
                self.found.push(Found { inode, kind: FileType::Directory, name: name.into() });
            }
            self.buffer.resize(BATCH, MaybeUninit::uninit());
            return Ok(());
        }
        match self.scan.next(self.descriptor.as_fd(), &mut self.buffer) {
            Some(found) => self.found.push(found?),
            None => self.is_whole = true,
        }
        Ok(())
    }
}

/// All that is in a directory, once.
#[derive(Debug)]
pub struct Dir(Entries);

/// Something in a directory.
#[derive(Debug)]
pub struct DirEntry {
    name: CString,
    kind: FileType,
}

impl Dir {
    /// Of a directory that was opened for reading.
    pub fn new(descriptor: OwnedFd) -> Result<Dir> {
        Ok(Dir(Entries::new(descriptor)))
    }

    fn read(&mut self) -> Result<Option<DirEntry>> {
        let Some(entry) = self.0.peek()? else { return Ok(None) };
        let name = CString::new(entry.name.as_encoded_bytes()).map_err(|_| Errno::IO)?;
        let (found, length, next) = (DirEntry { name, kind: entry.kind }, entry.length, entry.next);
        self.0.advance(length, next);
        Ok(Some(found))
    }
}

impl Iterator for Dir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Result<DirEntry>> {
        self.read().transpose()
    }
}

impl DirEntry {
    /// Its name; `.` and `..` among them.
    pub fn file_name(&self) -> &CStr {
        &self.name
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.kind
    }
}
