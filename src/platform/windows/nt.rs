//! NT's own calls, of which the rest is made.

use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::time::Duration;

use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_OPEN, FILE_OPEN_REPARSE_POINT, FILE_RENAME_INFORMATION, FILE_SYNCHRONOUS_IO_NONALERT,
    NtCreateFile, NtQueryInformationFile, NtSetInformationFile,
};
use windows_sys::Win32::Foundation::{HANDLE, UNICODE_STRING};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    GetFinalPathNameByHandleW, SYNCHRONIZE,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;

use super::errno::{Errno, Result};
use super::fd::{AsFd, BorrowedFd};
use super::names::{absolute, relative};

/// An NTSTATUS (`ntstatus.h`) that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) i32);

macro_rules! statuses {
    ($($name:ident = $number:literal,)+) => {
        impl Status {
            $(pub(super) const $name: Status = Status(($number as u32).cast_signed());)+
        }
    };
}
statuses! {
    NO_MORE_FILES = 0x8000_0006,
    NOT_IMPLEMENTED = 0xc000_0002,
    INVALID_INFO_CLASS = 0xc000_0003,
    INVALID_PARAMETER = 0xc000_000d,
    NO_SUCH_FILE = 0xc000_000f,
    INVALID_DEVICE_REQUEST = 0xc000_0010,
    ACCESS_DENIED = 0xc000_0022,
    OBJECT_NAME_COLLISION = 0xc000_0035,
    SHARING_VIOLATION = 0xc000_0043,
    DELETE_PENDING = 0xc000_0056,
    NOT_SUPPORTED = 0xc000_00bb,
    CANNOT_DELETE = 0xc000_0121,
    USER_MAPPED_FILE = 0xc000_0243,
}

impl Status {
    fn check(status: i32) -> std::result::Result<(), Status> {
        if status < 0 { Err(Status(status)) } else { Ok(()) }
    }

    /// Whether the filesystem, or the system, does not know what it was asked for.
    pub(super) fn is_unknown(self) -> bool {
        matches!(
            self,
            Status::NOT_IMPLEMENTED
                | Status::INVALID_INFO_CLASS
                | Status::INVALID_PARAMETER
                | Status::INVALID_DEVICE_REQUEST
                | Status::NOT_SUPPORTED
        )
    }

    /// Whether somebody has it open without sharing it: it may be one who looks at every file, as scanners for
    /// viruses do, and lets go of it soon.
    pub(super) fn is_in_use(self) -> bool {
        matches!(self, Status::SHARING_VIOLATION | Status::USER_MAPPED_FILE | Status::CANNOT_DELETE)
    }

    /// As [`Status::is_in_use`], of what takes a name away: then it may be called so, too.
    pub(super) fn may_be_in_use(self) -> bool {
        self.is_in_use() || self == Status::ACCESS_DENIED
    }
}

impl From<Status> for Errno {
    fn from(status: Status) -> Errno {
        Errno::from_status(status.0)
    }
}

/// How long who has a file open without sharing it is waited for, in milliseconds: so long each time, 255 in all.
const PAUSES: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Does something again while somebody is in the way who may go soon.
pub(super) fn patiently<T>(
    what: &str,
    in_use: fn(Status) -> bool,
    mut act: impl FnMut() -> std::result::Result<T, Status>,
) -> std::result::Result<T, Status> {
    for (before, pause) in PAUSES.into_iter().enumerate() {
        match act() {
            Err(status) if in_use(status) => {
                tracing::debug!(before, "can't {what} ({status:x?}): somebody has it open alone");
                std::thread::sleep(Duration::from_millis(pause));
            }
            done => {
                if before > 0 {
                    tracing::info!(before, "could {what} once somebody had closed it");
                }
                return done;
            }
        }
    }
    let done = act();
    if let Err(status) = &done
        && in_use(*status)
    {
        tracing::warn!("can't {what} ({status:x?}): somebody does not share what he has open");
    }
    done
}

/// The current directory, for names: paths that are not below a directory that is open.
// SAFETY: null is no handle that could be closed, and is taken for none.
pub const CWD: BorrowedFd<'static> =
    unsafe { BorrowedFd::borrow_raw(std::ptr::null_mut::<std::ffi::c_void>()) };

/// How something is opened.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// Rights besides to wait for it.
    pub(super) access: u32,
    /// `FILE_OPEN`, `FILE_CREATE` or `FILE_OPEN_IF`.
    pub(super) disposition: u32,
    /// Besides those that it always has.
    pub(super) options: u32,
    /// Whether a reparse point is followed.
    pub(super) follow: bool,
    /// What others may do as long as it is open.
    pub(super) share: u32,
}

impl Way {
    /// Opens what there is, and lets others do what they like.
    pub(super) fn existing(access: u32, follow: bool) -> Way {
        Way { access, disposition: FILE_OPEN, options: 0, follow, share: EVERYTHING }
    }
}

/// Others may do what they like with what is open.
pub(super) const EVERYTHING: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// A name in a directory, or a whole path.
pub(super) struct Place<'a> {
    at: BorrowedFd<'a>,
    name: Vec<u16>,
}

impl<'a> Place<'a> {
    /// Below `at`, or anywhere if that is [`CWD`]. `at` itself if the name is empty.
    pub(super) fn new(at: BorrowedFd<'a>, name: &Path) -> Result<Place<'a>> {
        let name = if is_open(at) { relative(name)? } else { absolute(name)? };
        // As a `UNICODE_STRING` counts it.
        match u16::try_from(name.len() * 2) {
            Ok(_) => Ok(Place { at, name }),
            Err(_) => Err(Errno::NAMETOOLONG),
        }
    }

    /// Opens it.
    pub(super) fn open(&self, way: Way) -> std::result::Result<OwnedHandle, Status> {
        if way.disposition != FILE_OPEN && self.is_gone() {
            return Err(Status::DELETE_PENDING);
        }
        let length = (self.name.len() * 2) as u16;
        let buffer = self.name.as_ptr().cast_mut();
        let name = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: buffer };
        let attributes = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
            RootDirectory: self.at.as_raw_handle(),
            ObjectName: &raw const name,
            Attributes: 0,
            SecurityDescriptor: std::ptr::null(),
            SecurityQualityOfService: std::ptr::null(),
        };
        let mut options = way.options | FILE_SYNCHRONOUS_IO_NONALERT;
        if !way.follow {
            options |= FILE_OPEN_REPARSE_POINT;
        }
        let mut block = IO_STATUS_BLOCK::default();
        let mut handle: HANDLE = std::ptr::null_mut();
        // SAFETY: all pointers are to what lives until it returns and the lengths are theirs; the name is only
        // read.
        let status = unsafe {
            NtCreateFile(
                &raw mut handle,
                way.access | SYNCHRONIZE,
                &raw const attributes,
                &raw mut block,
                std::ptr::null(),
                FILE_ATTRIBUTE_NORMAL,
                way.share,
                way.disposition,
                options,
                std::ptr::null(),
                0,
            )
        };
        // SAFETY: it has just been opened, for us.
        Status::check(status).map(|()| unsafe { OwnedHandle::from_raw_handle(handle) })
    }

    /// Has what is open renamed to this, or given this name, too: `class` is one of `FileRenameInformation`,
    /// `FileRenameInformationEx` and `FileLinkInformation`.
    pub(super) fn name(
        &self,
        what: impl AsFd,
        class: i32,
        flags: u32,
    ) -> std::result::Result<(), Status> {
        if self.is_gone() {
            return Err(Status::DELETE_PENDING);
        }
        self.name_here(what, class, flags)
    }

    /// As [`Place::name`], in a directory that was not removed.
    pub(super) fn name_here(
        &self,
        what: impl AsFd,
        class: i32,
        flags: u32,
    ) -> std::result::Result<(), Status> {
        /// Where the name begins in the structures of all three, which are alike.
        const NAME: usize = std::mem::offset_of!(FILE_RENAME_INFORMATION, FileName);
        let length = self.name.len() * 2;
        let size = size_of::<FILE_RENAME_INFORMATION>().max(NAME + length);
        let mut buffer = vec![0u64; size.div_ceil(8)];
        let header: *mut FILE_RENAME_INFORMATION = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer is aligned, and as long as the structure with the name at its end.
        unsafe {
            (*header).Anonymous.Flags = flags;
            (*header).RootDirectory = self.at.as_raw_handle();
            (*header).FileNameLength = length as u32;
            let name = header.cast::<u8>().add(NAME).cast::<u16>();
            name.copy_from_nonoverlapping(self.name.as_ptr(), self.name.len());
            set(what, class, header, size)
        }
    }

    /// Whether the directory was removed.
    fn is_gone(&self) -> bool {
        is_open(self.at) && super::graves::holds(self.at)
    }
}

fn is_open(at: BorrowedFd<'_>) -> bool {
    !at.as_raw_handle().is_null()
}

/// What NT knows of what is open, of the class that has that number.
///
/// # Safety
/// `T` is the structure of that class, and any bytes are one.
pub(super) unsafe fn query<T>(of: impl AsFd, class: i32) -> std::result::Result<T, Status> {
    let mut found = std::mem::MaybeUninit::<T>::zeroed();
    let mut block = IO_STATUS_BLOCK::default();
    let handle = of.as_fd().as_raw_handle();
    let length = size_of::<T>() as u32;
    // SAFETY: it writes at most `length` bytes.
    let status = unsafe {
        NtQueryInformationFile(handle, &raw mut block, found.as_mut_ptr().cast(), length, class)
    };
    // SAFETY: whatever it has not written is zero, and any bytes are a value.
    Status::check(status).map(|()| unsafe { found.assume_init() })
}

/// Changes what is open; `length` bytes of what is at `what` are the structure of that class.
///
/// # Safety
/// There are so many bytes, and they are such a structure.
pub(super) unsafe fn set<T>(
    of: impl AsFd,
    class: i32,
    what: *const T,
    length: usize,
) -> std::result::Result<(), Status> {
    let mut block = IO_STATUS_BLOCK::default();
    let handle = of.as_fd().as_raw_handle();
    // SAFETY: it reads that many bytes.
    let status =
        unsafe { NtSetInformationFile(handle, &raw mut block, what.cast(), length as u32, class) };
    Status::check(status)
}

/// The path that what is open has now.
pub fn self_path(descriptor: impl AsFd) -> PathBuf {
    use std::os::windows::ffi::OsStringExt;
    let handle = descriptor.as_fd().as_raw_handle();
    let mut path = vec![0; 1024];
    loop {
        let space = path.len() as u32;
        // SAFETY: it writes at most so many units.
        let length = unsafe { GetFinalPathNameByHandleW(handle, path.as_mut_ptr(), space, 0) };
        if length < space {
            // None if it has no name any more.
            return std::ffi::OsString::from_wide(&path[..length as usize]).into();
        }
        path.resize(length as usize, 0);
    }
}
