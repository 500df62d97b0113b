//! WinFsp's interface table, and how answers are put that its `callbacks` give.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;
use winfsp_wrs_sys::{
    FSP_FILE_SYSTEM, FSP_FILE_SYSTEM_INTERFACE, FSP_FSCTL_DIR_INFO, FSP_FSCTL_FILE_INFO,
    FSP_FSCTL_OPEN_FILE_INFO, NTSTATUS, PSECURITY_DESCRIPTOR, SIZE_T,
};

use super::adapter::Adapter;
use super::attributes::{allocated, bits};
use super::callbacks;
use super::library::Library;
use super::names::split;
use super::open::Open;
use super::security::Security;
use super::status::Status;
use super::times::to_windows;
use crate::{Attributes, Volume};

const SUCCESS: NTSTATUS = 0;

/// How much a name of a listing may take: 255 units.
const LONGEST: usize = 255;

/// What the callbacks need: WinFsp keeps a pointer to it for them.
pub(super) struct Served<V: Volume> {
    pub(super) adapter: Adapter<V>,
    /// What WinFsp was handed and has not closed, by its address. What programs have open when a volume is
    /// unmounted it never closes.
    pub(super) open: Mutex<HashMap<usize, Arc<Open<V>>>>,
    pub(super) library: Library,
    pub(super) security: Security,
    /// The volume's name, of 32 units at most.
    pub(super) label: Vec<u16>,
    /// Called when WinFsp serves the volume no longer, whoever ended that.
    pub(super) stopped: Box<dyn Fn() + Send + Sync>,
}

/// The callbacks for volumes of type `V`. What is missing WinFsp refuses by itself: streams, extended
/// attributes, reparse points, control codes, another label.
pub(super) fn interface<V: Volume>() -> FSP_FILE_SYSTEM_INTERFACE {
    FSP_FILE_SYSTEM_INTERFACE {
        GetVolumeInfo: Some(callbacks::get_volume_info::<V>),
        GetSecurityByName: Some(callbacks::get_security_by_name::<V>),
        Create: Some(callbacks::create::<V>),
        Open: Some(callbacks::open::<V>),
        Overwrite: Some(callbacks::overwrite::<V>),
        Cleanup: Some(callbacks::cleanup::<V>),
        Close: Some(callbacks::close::<V>),
        Read: Some(callbacks::read::<V>),
        Write: Some(callbacks::write::<V>),
        Flush: Some(callbacks::flush::<V>),
        GetFileInfo: Some(callbacks::get_file_info::<V>),
        SetBasicInfo: Some(callbacks::set_basic_info::<V>),
        SetFileSize: Some(callbacks::set_file_size::<V>),
        CanDelete: Some(callbacks::can_delete::<V>),
        Rename: Some(callbacks::rename::<V>),
        GetSecurity: Some(callbacks::get_security::<V>),
        SetSecurity: Some(callbacks::set_security::<V>),
        ReadDirectory: Some(callbacks::read_directory::<V>),
        GetDirInfoByName: Some(callbacks::get_dir_info_by_name::<V>),
        DispatcherStopped: Some(callbacks::dispatcher_stopped::<V>),
        ..Default::default()
    }
}

/// Does what a callback is for; a panic in it is logged, and answered as an error.
///
/// # Safety
///
/// `fs` is a filesystem whose context is a `Served<V>`.
pub(super) unsafe fn answer<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    operation: &'static str,
    call: impl FnOnce(&Served<V>) -> Result<(), Status>,
) -> NTSTATUS {
    // SAFETY: by the caller's word; it lives as long as the filesystem.
    let served = unsafe { &*(*fs).UserContext.cast::<Served<V>>() };
    match catch_unwind(AssertUnwindSafe(|| call(served))) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(Status(status))) => status,
        Err(_) => {
            tracing::error!(operation, "panic while serving a request; answered an error");
            Status::INTERNAL_ERROR.0
        }
    }
}

/// The text up to its NUL.
///
/// # Safety
///
/// `text` is null, or there is a NUL, and it stays as it is for `'a`.
pub(super) unsafe fn text<'a>(text: *const u16) -> Option<&'a [u16]> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the caller's word.
    unsafe {
        let length = (0..).take_while(|&at| *text.add(at) != 0).count();
        Some(std::slice::from_raw_parts(text, length))
    }
}

/// The names in a path.
///
/// # Safety
///
/// As for [`text`].
pub(super) unsafe fn path<'a>(path: *const u16) -> Result<Vec<&'a [u16]>, Status> {
    // SAFETY: by the caller's word.
    split(unsafe { text(path) }.unwrap_or_default())
}

/// What was opened or created.
///
/// # Safety
///
/// `context` was made by [`give`] for a volume of type `V`, and not closed yet.
pub(super) unsafe fn opened<'a, V: Volume>(context: *mut c_void) -> &'a Open<V> {
    // SAFETY: by the caller's word.
    unsafe { &*context.cast::<Open<V>>() }
}

/// Makes last what was written to all that is open, as far as that can be done; the last error.
pub(super) fn flush_all<V: Volume>(served: &Served<V>) -> Result<(), Status> {
    let open: Vec<_> = served.open.lock().values().cloned().collect();
    let failed = open.iter().filter_map(|open| served.adapter.sync(open).err());
    failed.last().map_or(Ok(()), Err)
}

/// Answers with what an open file is like after `call`.
///
/// # Safety
///
/// As for [`answer`] and [`opened`]; `file_info` takes what it is like.
pub(super) unsafe fn tell<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    operation: &'static str,
    context: *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
    call: impl FnOnce(&Adapter<V>, &Open<V>) -> Result<Attributes, Status>,
) -> NTSTATUS {
    // SAFETY: by the caller's word.
    unsafe {
        answer::<V>(fs, operation, |served| {
            file_info.write(info(&call(&served.adapter, opened(context))?));
            Ok(())
        })
    }
}

pub(super) fn info(of: &Attributes) -> FSP_FSCTL_FILE_INFO {
    FSP_FSCTL_FILE_INFO {
        FileAttributes: bits(of),
        AllocationSize: allocated(of.size),
        FileSize: of.size,
        CreationTime: to_windows(of.changed),
        LastAccessTime: to_windows(of.accessed),
        LastWriteTime: to_windows(of.modified),
        ChangeTime: to_windows(of.changed),
        IndexNumber: of.node.0,
        ..Default::default()
    }
}

/// Hands `open` over to WinFsp, with what it is like and how its name is spelled.
///
/// # Safety
///
/// `context` takes a pointer. `file_info` is the first part of a `FSP_FSCTL_OPEN_FILE_INFO`, as it is for
/// opening and creating.
pub(super) unsafe fn give<V: Volume>(
    served: &Served<V>,
    open: Open<V>,
    context: *mut *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> Result<(), Status> {
    let attributes =
        served.adapter.attributes(&open).inspect_err(|_| served.adapter.close(&open))?;
    // SAFETY: by the caller's word.
    unsafe {
        let answer = file_info.cast::<FSP_FSCTL_OPEN_FILE_INFO>();
        (*answer).FileInfo = info(&attributes);
        let walk = open.walk.lock();
        let spelled = walk.spelled();
        let room = usize::from((*answer).NormalizedNameSize) / size_of::<u16>();
        if spelled.len() <= room {
            ptr::copy_nonoverlapping(spelled.as_ptr(), (*answer).NormalizedName, spelled.len());
            (*answer).NormalizedNameSize = size_of_val(spelled) as u16;
        }
        drop(walk);
        let open = Arc::new(open);
        context.write(Arc::as_ptr(&open).cast_mut().cast());
        served.open.lock().insert(Arc::as_ptr(&open).addr(), open);
    }
    Ok(())
}

/// Takes back what was handed over; none if that was done before.
pub(super) fn take_back<V: Volume>(
    served: &Served<V>,
    context: *mut c_void,
) -> Option<Arc<Open<V>>> {
    served.open.lock().remove(&context.addr())
}

/// Puts a descriptor where there is room for it, and says how much it takes.
///
/// # Safety
///
/// `size` is null, or what there is room for at `into`; that is null where nothing is wanted.
pub(super) unsafe fn put(
    descriptor: &[u8],
    into: PSECURITY_DESCRIPTOR,
    size: *mut SIZE_T,
) -> Result<(), Status> {
    if size.is_null() {
        return Ok(());
    }
    // SAFETY: by the caller's word.
    unsafe {
        let room = size.replace(descriptor.len() as SIZE_T);
        if room < descriptor.len() as SIZE_T {
            return Err(Status::BUFFER_OVERFLOW);
        }
        if !into.is_null() {
            ptr::copy_nonoverlapping(descriptor.as_ptr(), into.cast::<u8>(), descriptor.len());
        }
    }
    Ok(())
}

/// An entry of a listing as WinFsp has it, with room for the longest name.
#[repr(C)]
pub(super) union Entry {
    _head: std::mem::ManuallyDrop<FSP_FSCTL_DIR_INFO>,
    pub(super) space:
        [u64; (size_of::<FSP_FSCTL_DIR_INFO>() + LONGEST * size_of::<u16>()).div_ceil(8)],
}

/// Writes an entry of a listing; false if its name is too long to be one.
///
/// # Safety
///
/// At `into` there is room for the longest name behind it.
pub(super) unsafe fn entry(into: *mut FSP_FSCTL_DIR_INFO, name: &[u16], of: &Attributes) -> bool {
    if name.len() > LONGEST {
        return false;
    }
    let begin = offset_of!(FSP_FSCTL_DIR_INFO, FileNameBuf);
    // SAFETY: by the caller's word.
    unsafe {
        (*into).Size = (begin + size_of_val(name)) as u16;
        (*into).FileInfo = info(of);
        let behind = into.cast::<u8>().add(begin).cast::<u16>();
        ptr::copy_nonoverlapping(name.as_ptr(), behind, name.len());
    }
    true
}
