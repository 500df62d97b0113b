//! A directory entry by entry, with offsets to go on from.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use crate::platform::entry::Entry;

/// Bytes asked for in one `getdents64(2)`.
const BATCH: usize = 32 * 1024;

/// Offsets of the fields of `struct linux_dirent64` (`getdents(2)`).
mod field {
    pub(super) const INODE: usize = 0;
    pub(super) const NEXT: usize = 8;
    pub(super) const LENGTH: usize = 16;
    pub(super) const TYPE: usize = 18;
    pub(super) const NAME: usize = 19;
}

/// An open directory, and what was read of it but not yet taken. Offsets are the filesystem's own,
/// which stay true while the directory changes (`telldir(3)`).
#[derive(Debug)]
pub struct Entries {
    descriptor: OwnedFd,
    batch: Vec<u8>,
    at: usize,
    /// The offset of the entry at `at`.
    offset: u64,
}

impl Entries {
    /// Of a directory that was opened for reading.
    pub fn new(descriptor: OwnedFd) -> Entries {
        Entries { descriptor, batch: Vec::new(), at: 0, offset: 0 }
    }

    /// The directory.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Goes to `offset`, unless it is there.
    pub fn go_to(&mut self, offset: u64) -> Result<()> {
        if offset != self.offset {
            rustix::fs::seek(&self.descriptor, rustix::fs::SeekFrom::Start(offset))?;
            self.batch.clear();
            self.at = 0;
            self.offset = offset;
        }
        Ok(())
    }

    /// The next entry; it stays the next until [`Entries::advance`].
    pub fn peek(&mut self) -> Result<Option<Entry<'_>>> {
        if self.at >= self.batch.len() {
            self.fill()?;
        }
        Ok(parse(&self.batch[self.at..]))
    }

    /// Goes past an entry, of which it gets the length and the offset after it.
    pub fn advance(&mut self, length: usize, next: u64) {
        self.at += length;
        self.offset = next;
    }

    fn fill(&mut self) -> Result<()> {
        self.batch.clear();
        self.batch.reserve(BATCH);
        self.at = 0;
        let space: &mut [MaybeUninit<u8>] = self.batch.spare_capacity_mut();
        // SAFETY: the kernel writes at most `space.len()` bytes into memory that is ours, and says
        // how many it wrote.
        let length = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.descriptor.as_raw_fd(),
                space.as_mut_ptr(),
                space.len(),
            )
        };
        let failed =
            |_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        let length = usize::try_from(length).map_err(failed)?;
        // SAFETY: the kernel has just initialised that many bytes.
        unsafe { self.batch.set_len(length) };
        Ok(())
    }
}

fn parse(batch: &[u8]) -> Option<Entry<'_>> {
    let number = |at: usize| Some(u64::from_ne_bytes(batch.get(at..at + 8)?.try_into().ok()?));
    let length = batch.get(field::LENGTH..field::LENGTH + 2)?.try_into().ok()?;
    let length = usize::from(u16::from_ne_bytes(length));
    let name = batch.get(field::NAME..length)?;
    let end = name.iter().position(|&byte| byte == 0)?;
    Some(Entry {
        inode: number(field::INODE)?,
        next: number(field::NEXT)?,
        kind: kind_of(*batch.get(field::TYPE)?),
        name: OsStr::from_bytes(&name[..end]),
        length,
    })
}

fn kind_of(d_type: u8) -> FileType {
    match d_type {
        libc::DT_REG => FileType::RegularFile,
        libc::DT_DIR => FileType::Directory,
        libc::DT_LNK => FileType::Symlink,
        libc::DT_FIFO => FileType::Fifo,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharacterDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::Unknown,
    }
}
