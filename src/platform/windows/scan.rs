//! Reading what is in a directory.

use std::ffi::{CStr, CString, OsString};
use std::mem::MaybeUninit;
use std::os::windows::ffi::OsStringExt as _;
use std::os::windows::io::AsRawHandle;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_ID_FULL_DIR_INFORMATION, FileIdFullDirectoryInformation, NtQueryDirectoryFile,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;

use super::errno::{Errno, Result};
use super::fd::{AsFd, BorrowedFd};
use super::flags::FileType;
use super::nt::Status;
use super::stat::listed_kind;

/// Something in a directory.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) inode: u64,
    pub(super) kind: FileType,
    pub(super) name: OsString,
}

/// Goes through a directory from its beginning, by a buffer that it is given each time.
#[derive(Debug, Default)]
pub(super) struct Scan {
    begun: bool,
    /// How much of the buffer is filled, and where the next entry is.
    filled: usize,
    at: usize,
}

/// Bytes of a buffer: an entry with the longest name takes some 600.
pub(super) const BATCH: usize = 32 * 1024;

/// Of the fields of an entry, where they are.
mod field {
    use super::FILE_ID_FULL_DIR_INFORMATION as Entry;

    pub(super) const NEXT: usize = std::mem::offset_of!(Entry, NextEntryOffset);
    pub(super) const ATTRIBUTES: usize = std::mem::offset_of!(Entry, FileAttributes);
    pub(super) const LENGTH: usize = std::mem::offset_of!(Entry, FileNameLength);
    pub(super) const ID: usize = std::mem::offset_of!(Entry, FileId);
    pub(super) const NAME: usize = std::mem::offset_of!(Entry, FileName);
}

impl Scan {
    /// The next entry; neither `.` nor `..`.
    pub(super) fn next(
        &mut self,
        directory: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Option<Result<Found>> {
        // As its structures are to lie.
        let skipped = buffer.as_ptr().align_offset(8);
        let buffer = buffer.get_mut(skipped..)?;
        loop {
            if self.at >= self.filled {
                match self.fill(directory, buffer) {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(errno) => return Some(Err(errno)),
                }
            }
            // SAFETY: so many were filled, and nobody has written to them since.
            let filled: &[u8] =
                unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), self.filled) };
            let Some((found, next)) = parse(&filled[self.at..]) else {
                return Some(Err(Errno::IO));
            };
            self.at = if next == 0 { self.filled } else { self.at + next };
            if found.name != "." && found.name != ".." {
                return Some(Ok(found));
            }
        }
    }

    /// False at the end.
    fn fill(&mut self, directory: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> Result<bool> {
        let mut block = IO_STATUS_BLOCK::default();
        // SAFETY: it writes at most as many bytes as there are, and no other pointer is given to it.
        let status = unsafe {
            NtQueryDirectoryFile(
                directory.as_raw_handle(),
                std::ptr::null_mut(),
                None,
                std::ptr::null(),
                &raw mut block,
                buffer.as_mut_ptr().cast(),
                buffer.len() as u32,
                FileIdFullDirectoryInformation,
                false,
                std::ptr::null(),
                !self.begun,
            )
        };
        self.begun = true;
        match Status(status) {
            Status::NO_MORE_FILES | Status::NO_SUCH_FILE => Ok(false),
            status if status.0 < 0 => Err(status.into()),
            _ => {
                (self.filled, self.at) = (block.Information.min(buffer.len()), 0);
                Ok(self.filled > 0)
            }
        }
    }
}

/// An entry, and how far after it the next one is.
fn parse(batch: &[u8]) -> Option<(Found, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(batch.get(at..at + 4)?.try_into().ok()?));
    let id = u64::from_le_bytes(batch.get(field::ID..field::ID + 8)?.try_into().ok()?);
    let name = batch.get(field::NAME..field::NAME + number(field::LENGTH)? as usize)?;
    let (units, _) = name.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let kind = listed_kind(number(field::ATTRIBUTES)?);
    let found = Found { inode: id, kind, name: OsString::from_wide(&units) };
    Some((found, number(field::NEXT)? as usize))
}

/// All names in a directory.
pub(super) fn names_in(directory: impl AsFd) -> Result<Vec<OsString>> {
    let (mut scan, mut buffer, mut names) =
        (Scan::default(), vec![MaybeUninit::uninit(); BATCH], Vec::new());
    while let Some(found) = scan.next(directory.as_fd(), &mut buffer) {
        names.push(found?.name);
    }
    Ok(names)
}

/// Goes through a directory from its beginning.
#[derive(Debug)]
pub struct RawDir<'buffer, Fd: AsFd> {
    directory: Fd,
    buffer: &'buffer mut [MaybeUninit<u8>],
    scan: Scan,
    name: CString,
}

/// Something in a directory.
#[derive(Debug)]
pub struct RawDirEntry<'dir> {
    name: &'dir CStr,
    kind: FileType,
}

impl<'buffer, Fd: AsFd> RawDir<'buffer, Fd> {
    /// By that buffer.
    pub fn new(directory: Fd, buffer: &'buffer mut [MaybeUninit<u8>]) -> RawDir<'buffer, Fd> {
        RawDir { directory, buffer, scan: Scan::default(), name: CString::default() }
    }

    /// The next entry.
    #[allow(clippy::should_implement_trait, reason = "it lends what the iterator has")]
    pub fn next(&mut self) -> Option<Result<RawDirEntry<'_>>> {
        let found = match self.scan.next(self.directory.as_fd(), self.buffer)? {
            Ok(found) => found,
            Err(errno) => return Some(Err(errno)),
        };
        let Ok(name) = CString::new(found.name.into_encoded_bytes()) else {
            return Some(Err(Errno::IO));
        };
        self.name = name;
        Some(Ok(RawDirEntry { name: &self.name, kind: found.kind }))
    }
}

impl RawDirEntry<'_> {
    /// Its name.
    pub fn file_name(&self) -> &CStr {
        self.name
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.kind
    }
}
