//! What is in files, and the room there is for more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::windows::fs::FileExt as _;
use std::os::windows::io::{AsRawHandle, FromRawHandle};

use windows_sys::Wdk::Storage::FileSystem::{
    FileFsFullSizeInformation, NtQueryVolumeInformationFile,
};
use windows_sys::Wdk::System::SystemServices::FILE_FS_FULL_SIZE_INFORMATION;
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;

use super::errno::{Errno, Result};
use super::fd::AsFd;
use super::flags::{FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use super::names::Arg;
use super::nt::{Status, patiently};
use super::opening::open;
use super::stat::kind_of;

/// Reading and writing at an offset.
pub trait FileExt {
    /// `pread(2)`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// `pwrite(2)`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;

    /// Reads as much as there is room for.
    fn read_exact_at(&self, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !into.is_empty() {
            match self.read_at(into, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => {
                    into = &mut into[length..];
                    offset += length as u64;
                }
            }
        }
        Ok(())
    }

    /// Writes all.
    fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match self.write_at(data, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                length => {
                    data = &data[length..];
                    offset += length as u64;
                }
            }
        }
        Ok(())
    }
}

impl FileExt for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.seek_read(into, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.seek_write(data, offset)
    }
}

/// What is open, as a file of the standard library, which does not close it.
fn as_file(of: &impl AsFd) -> ManuallyDrop<File> {
    // SAFETY: it is open as long as `of` is borrowed, and is not closed here.
    ManuallyDrop::new(unsafe { File::from_raw_handle(of.as_fd().as_raw_handle()) })
}

/// `read(2)`.
pub fn read(from: impl AsFd, into: &mut [u8]) -> Result<usize> {
    (&*as_file(&from)).read(into).map_err(Errno::of)
}

/// `write(2)`.
pub fn write(to: impl AsFd, data: &[u8]) -> Result<usize> {
    (&*as_file(&to)).write(data).map_err(Errno::of)
}

/// `ftruncate(2)`.
pub fn ftruncate(file: impl AsFd, size: u64) -> Result<()> {
    let file = as_file(&file);
    let in_use = |status| status == Status::USER_MAPPED_FILE;
    let mut failed = Errno::IO;
    let done = patiently("change the size of a file", in_use, || {
        file.set_len(size).map_err(|error| {
            // ERROR_USER_MAPPED_FILE
            let is_mapped = error.raw_os_error() == Some(1224);
            failed = Errno::of(error);
            if is_mapped { Status::USER_MAPPED_FILE } else { Status::INVALID_PARAMETER }
        })
    });
    done.map_err(|_| failed)
}

/// `fsync(2)`. What names are in a directory is in the filesystem's journal.
pub fn fsync(of: impl AsFd) -> Result<()> {
    match as_file(&of).sync_all().map_err(Errno::of) {
        Err(Errno::ACCESS | Errno::BADF | Errno::INVAL)
            if kind_of(of.as_fd())? == FileType::Directory =>
        {
            Ok(())
        }
        done => done,
    }
}

/// `fdatasync(2)`.
pub fn fdatasync(of: impl AsFd) -> Result<()> {
    as_file(&of).sync_data().map_err(Errno::of)
}

/// `lseek(2)`: `INVAL` for what looks for holes, of which is not told.
pub fn seek(file: impl AsFd, to: SeekFrom) -> Result<u64> {
    match to {
        SeekFrom::Start(offset) => {
            io::Seek::seek(&mut &*as_file(&file), io::SeekFrom::Start(offset)).map_err(Errno::of)
        }
        SeekFrom::Data(_) | SeekFrom::Hole(_) => Err(Errno::INVAL),
    }
}

/// `fallocate(2)` without flags, which makes a file at least that long; `OPNOTSUPP` with any.
pub fn fallocate(file: impl AsFd, flags: FallocateFlags, offset: u64, length: u64) -> Result<()> {
    if !flags.is_empty() {
        return Err(Errno::OPNOTSUPP);
    }
    let end = offset.checked_add(length).ok_or(Errno::INVAL)?;
    let now = as_file(&file).metadata().map_err(Errno::of)?.len();
    if now < end { ftruncate(file, end) } else { Ok(()) }
}

/// `copy_file_range(2)` with both offsets given; at most a mebibyte at a time.
pub fn copy_file_range(
    from: impl AsFd,
    from_offset: Option<&mut u64>,
    to: impl AsFd,
    to_offset: Option<&mut u64>,
    length: usize,
) -> Result<usize> {
    const MOST: usize = 1 << 20;
    let (Some(from_offset), Some(to_offset)) = (from_offset, to_offset) else {
        return Err(Errno::INVAL);
    };
    let mut buffer = vec![0; length.min(MOST)];
    let found = as_file(&from).read_at(&mut buffer, *from_offset).map_err(Errno::of)?;
    as_file(&to).write_all_at(&buffer[..found], *to_offset).map_err(Errno::of)?;
    *from_offset += found as u64;
    *to_offset += found as u64;
    Ok(found)
}

/// `struct statvfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statvfs(3)")]
pub struct StatVfs {
    pub f_bsize: u64,
    pub f_frsize: u64,
    pub f_blocks: u64,
    pub f_bfree: u64,
    pub f_bavail: u64,
    pub f_files: u64,
    pub f_ffree: u64,
    pub f_namemax: u64,
}

/// `fstatvfs(3)`. NTFS has no number of files that it could hold.
pub fn fstatvfs(of: impl AsFd) -> Result<StatVfs> {
    let mut block = IO_STATUS_BLOCK::default();
    let mut found = FILE_FS_FULL_SIZE_INFORMATION::default();
    let length = size_of_val(&found) as u32;
    // SAFETY: that is the structure of that class, and that long.
    let status = unsafe {
        NtQueryVolumeInformationFile(
            of.as_fd().as_raw_handle(),
            &raw mut block,
            (&raw mut found).cast(),
            length,
            FileFsFullSizeInformation,
        )
    };
    if status < 0 {
        return Err(Errno::from_status(status));
    }
    let unit = u64::from(found.SectorsPerAllocationUnit) * u64::from(found.BytesPerSector);
    Ok(StatVfs {
        f_bsize: unit,
        f_frsize: unit,
        f_blocks: found.TotalAllocationUnits.cast_unsigned(),
        f_bfree: found.ActualAvailableAllocationUnits.cast_unsigned(),
        f_bavail: found.CallerAvailableAllocationUnits.cast_unsigned(),
        f_files: 0,
        f_ffree: 0,
        f_namemax: cachefs_mount::Name::MAX as u64,
    })
}

/// `statvfs(3)`.
pub fn statvfs(path: impl Arg) -> Result<StatVfs> {
    fstatvfs(open(path, OFlags::RDONLY, Mode::empty())?)
}
