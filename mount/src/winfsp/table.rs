//! WinFsp's interface table: its callbacks as calls of the [`Adapter`], and answers as it wants them. Nothing is
//! decided here but how an answer is put.

use std::ffi::c_void;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use winfsp_wrs_sys::{
    BOOLEAN, FSP_FILE_SYSTEM, FSP_FILE_SYSTEM_INTERFACE, FSP_FSCTL_DIR_INFO, FSP_FSCTL_FILE_INFO,
    FSP_FSCTL_OPEN_FILE_INFO, FSP_FSCTL_VOLUME_INFO, NTSTATUS, PSECURITY_DESCRIPTOR, SIZE_T,
};

use super::adapter::{Adapter, Wish};
use super::attributes::{allocated, bits};
use super::library::Library;
use super::listing::Item;
use super::names::split;
use super::open::Open;
use super::security::Security;
use super::status::Status;
use super::times::to_windows;
use crate::{Attributes, SetAttributes, Volume};

const SUCCESS: NTSTATUS = 0;

/// `FspCleanupDelete`: the name is to be removed.
const DELETE: u32 = 1;

/// How much a name of a listing may take: 255 units.
const LONGEST: usize = 255;

/// What the callbacks need: WinFsp keeps a pointer to it for them.
pub(super) struct Served<V> {
    pub(super) adapter: Adapter<V>,
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
        GetVolumeInfo: Some(get_volume_info::<V>),
        GetSecurityByName: Some(get_security_by_name::<V>),
        Create: Some(create::<V>),
        Open: Some(open::<V>),
        Overwrite: Some(overwrite::<V>),
        Cleanup: Some(cleanup::<V>),
        Close: Some(close::<V>),
        Read: Some(read::<V>),
        Write: Some(write::<V>),
        Flush: Some(flush::<V>),
        GetFileInfo: Some(get_file_info::<V>),
        SetBasicInfo: Some(set_basic_info::<V>),
        SetFileSize: Some(set_file_size::<V>),
        CanDelete: Some(can_delete::<V>),
        Rename: Some(rename::<V>),
        GetSecurity: Some(get_security::<V>),
        SetSecurity: Some(set_security::<V>),
        ReadDirectory: Some(read_directory::<V>),
        GetDirInfoByName: Some(get_dir_info_by_name::<V>),
        DispatcherStopped: Some(dispatcher_stopped::<V>),
        ..Default::default()
    }
}

/// Does what a callback is for; a panic in it is logged, and answered as an error.
///
/// # Safety
///
/// `fs` is a filesystem whose context is a `Served<V>`.
unsafe fn answer<V: Volume>(
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
unsafe fn text<'a>(text: *const u16) -> Option<&'a [u16]> {
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
unsafe fn path<'a>(path: *const u16) -> Result<Vec<&'a [u16]>, Status> {
    // SAFETY: by the caller's word.
    split(unsafe { text(path) }.unwrap_or_default())
}

/// What was opened or created.
///
/// # Safety
///
/// `context` was made by [`give`] for a volume of type `V`, and not closed yet.
unsafe fn opened<'a, V: Volume>(context: *mut c_void) -> &'a Open<V> {
    // SAFETY: by the caller's word.
    unsafe { &*context.cast::<Open<V>>() }
}

fn info(of: &Attributes) -> FSP_FSCTL_FILE_INFO {
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
unsafe fn give<V: Volume>(
    served: &Served<V>,
    open: Open<V>,
    context: *mut *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> Result<(), Status> {
    let (attributes, node) = match served.adapter.attributes(&open) {
        Ok(attributes) => (attributes, attributes.node),
        Err(status) => {
            served.adapter.close(&open);
            return Err(status);
        }
    };
    // SAFETY: by the caller's word.
    unsafe {
        let answer = file_info.cast::<FSP_FSCTL_OPEN_FILE_INFO>();
        (*answer).FileInfo = info(&attributes);
        let spelled = served.adapter.tree.path(node).unwrap_or_default();
        let room = usize::from((*answer).NormalizedNameSize) / size_of::<u16>();
        if !spelled.is_empty() && spelled.len() <= room {
            ptr::copy_nonoverlapping(spelled.as_ptr(), (*answer).NormalizedName, spelled.len());
            (*answer).NormalizedNameSize = size_of_val(&spelled[..]) as u16;
        }
        context.write(Box::into_raw(Box::new(open)).cast());
    }
    Ok(())
}

/// Puts a descriptor where there is room for it, and says how much it takes.
///
/// # Safety
///
/// `size` is null, or what there is room for at `into`; that is null where nothing is wanted.
unsafe fn put(
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

unsafe extern "C" fn get_volume_info<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    into: *mut FSP_FSCTL_VOLUME_INFO,
) -> NTSTATUS {
    // SAFETY: WinFsp's word, here and below: pointers are those of its documentation.
    unsafe {
        answer::<V>(fs, "GetVolumeInfo", |served| {
            let space = served.adapter.tree.volume.space()?;
            let unit = u64::from(space.fragment_size);
            (*into).TotalSize = space.blocks.saturating_mul(unit);
            (*into).FreeSize = space.blocks_available.saturating_mul(unit);
            (*into).VolumeLabelLength = size_of_val(&served.label[..]) as u16;
            (&mut (*into).VolumeLabel)[..served.label.len()].copy_from_slice(&served.label);
            Ok(())
        })
    }
}

unsafe extern "C" fn get_security_by_name<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    name: *mut u16,
    attributes: *mut u32,
    descriptor: PSECURITY_DESCRIPTOR,
    size: *mut SIZE_T,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "GetSecurityByName", |served| {
            let caller = served.security.caller(&served.library);
            let found = served.adapter.look(&caller, &path(name)?)?;
            if !attributes.is_null() {
                attributes.write(bits(&found));
            }
            if size.is_null() {
                return Ok(());
            }
            put(&served.security.descriptor(&served.library, &found)?, descriptor, size)
        })
    }
}

unsafe extern "C" fn create<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    name: *mut u16,
    options: u32,
    access: u32,
    bits: u32,
    descriptor: PSECURITY_DESCRIPTOR,
    _reserve: u64,
    context: *mut *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Create", |served| {
            let caller = served.security.caller(&served.library);
            let wish = Wish { caller, options, access };
            let permissions = served.security.new_permissions(&served.library, descriptor)?;
            let open = served.adapter.create(&wish, &path(name)?, bits, permissions)?;
            give(served, open, context, file_info)
        })
    }
}

unsafe extern "C" fn open<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    name: *mut u16,
    options: u32,
    access: u32,
    context: *mut *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Open", |served| {
            let caller = served.security.caller(&served.library);
            let open = served.adapter.open(&Wish { caller, options, access }, &path(name)?)?;
            give(served, open, context, file_info)
        })
    }
}

unsafe extern "C" fn overwrite<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    bits: u32,
    _replace_bits: BOOLEAN,
    _reserve: u64,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Overwrite", |served| {
            file_info.write(info(&served.adapter.overwrite(opened::<V>(context), bits)?));
            Ok(())
        })
    }
}

unsafe extern "C" fn cleanup<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    name: *mut u16,
    flags: u32,
) {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Cleanup", |served| {
            let open = opened::<V>(context);
            if flags & DELETE != 0
                && let Err(status) =
                    path(name).and_then(|names| served.adapter.remove(open, &names))
            {
                // Nobody can be told: Windows takes it for done.
                let name = String::from_utf16_lossy(text(name).unwrap_or_default());
                tracing::warn!(name, ?status, "could not delete what was closed");
            }
            served.adapter.cleanup(open);
            Ok(())
        });
    }
}

unsafe extern "C" fn close<V: Volume>(fs: *mut FSP_FILE_SYSTEM, context: *mut c_void) {
    // SAFETY: as above; this is the last that is asked of it.
    unsafe {
        answer::<V>(fs, "Close", |served| {
            let open = Box::from_raw(context.cast::<Open<V>>());
            served.adapter.close(&open);
            Ok(())
        });
    }
}

unsafe extern "C" fn read<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    buffer: *mut c_void,
    offset: u64,
    length: u32,
    transferred: *mut u32,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Read", |served| {
            let into = match length {
                0 => &mut [],
                _ => std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length as usize),
            };
            let read = served.adapter.read(opened::<V>(context), offset, into)?;
            transferred.write(read as u32);
            Ok(())
        })
    }
}

unsafe extern "C" fn write<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    buffer: *mut c_void,
    offset: u64,
    length: u32,
    at_end: BOOLEAN,
    constrained: BOOLEAN,
    transferred: *mut u32,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Write", |served| {
            let data = match length {
                0 => &[],
                _ => std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize),
            };
            let offset = (at_end == 0).then_some(offset);
            let open = opened::<V>(context);
            let (written, now) = served.adapter.write(open, offset, data, constrained != 0)?;
            transferred.write(written as u32);
            file_info.write(info(&now));
            Ok(())
        })
    }
}

unsafe extern "C" fn flush<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Flush", |served| {
            // Without a context it is the whole volume, of whose open files WinFsp has asked one by one before.
            if !context.is_null() {
                file_info.write(info(&served.adapter.flush(opened::<V>(context))?));
            }
            Ok(())
        })
    }
}

unsafe extern "C" fn get_file_info<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "GetFileInfo", |served| {
            file_info.write(info(&served.adapter.attributes(opened::<V>(context))?));
            Ok(())
        })
    }
}

unsafe extern "C" fn set_basic_info<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    bits: u32,
    _created: u64,
    accessed: u64,
    modified: u64,
    _changed: u64,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "SetBasicInfo", |served| {
            let open = opened::<V>(context);
            file_info.write(info(&served.adapter.set_basic(open, bits, accessed, modified)?));
            Ok(())
        })
    }
}

unsafe extern "C" fn set_file_size<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    size: u64,
    reserved: BOOLEAN,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "SetFileSize", |served| {
            let open = opened::<V>(context);
            file_info.write(info(&served.adapter.set_size(open, size, reserved != 0)?));
            Ok(())
        })
    }
}

unsafe extern "C" fn can_delete<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    _name: *mut u16,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "CanDelete", |served| served.adapter.can_remove(opened::<V>(context)))
    }
}

unsafe extern "C" fn rename<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    name: *mut u16,
    new_name: *mut u16,
    replace: BOOLEAN,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Rename", |served| {
            let open = opened::<V>(context);
            let (from, to) = (path(name)?, path(new_name)?);
            served.adapter.rename(open, &open.caller, &from, &to, replace != 0)
        })
    }
}

unsafe extern "C" fn get_security<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    descriptor: PSECURITY_DESCRIPTOR,
    size: *mut SIZE_T,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "GetSecurity", |served| {
            let now = served.adapter.attributes(opened::<V>(context))?;
            put(&served.security.descriptor(&served.library, &now)?, descriptor, size)
        })
    }
}

unsafe extern "C" fn set_security<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    which: u32,
    by: PSECURITY_DESCRIPTOR,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "SetSecurity", |served| {
            let open = opened::<V>(context);
            let now = served.adapter.attributes(open)?;
            let changes = served.security.changes(&served.library, &now, which, by)?;
            if changes == SetAttributes::default() {
                return Ok(());
            }
            served.adapter.set_owners(open, &changes)
        })
    }
}

/// An entry of a listing as WinFsp has it, with room for the longest name.
#[repr(C)]
union Entry {
    head: std::mem::ManuallyDrop<FSP_FSCTL_DIR_INFO>,
    space: [u64; (size_of::<FSP_FSCTL_DIR_INFO>() + LONGEST * size_of::<u16>()).div_ceil(8)],
}

/// Writes an entry of a listing; false if its name is too long to be one.
///
/// # Safety
///
/// At `into` there is room for the longest name behind it.
unsafe fn entry(into: *mut FSP_FSCTL_DIR_INFO, name: &[u16], of: &Attributes) -> bool {
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

unsafe extern "C" fn read_directory<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    pattern: *mut u16,
    marker: *mut u16,
    buffer: *mut c_void,
    length: u32,
    transferred: *mut u32,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "ReadDirectory", |served| {
            let open = opened::<V>(context);
            let marker = text(marker);
            let going_on = open.listing.lock().clone().filter(|_| marker.is_some());
            let listing = match going_on {
                Some(listing) => listing,
                None => served.adapter.list(open)?,
            };
            for Item { name, attributes, .. } in listing.after(marker, text(pattern)) {
                let mut space = Entry { space: [0; _] };
                let head = (&raw mut space).cast::<FSP_FSCTL_DIR_INFO>();
                if entry(head, name, attributes)
                    && (served.library.add_dir_info)(head, buffer, length, transferred) == 0
                {
                    return Ok(());
                }
            }
            // That there is no more takes room, too: if there is none, it is said next time.
            (served.library.add_dir_info)(ptr::null_mut(), buffer, length, transferred);
            Ok(())
        })
    }
}

unsafe extern "C" fn get_dir_info_by_name<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    name: *mut u16,
    into: *mut FSP_FSCTL_DIR_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "GetDirInfoByName", |served| {
            let name = text(name).unwrap_or_default();
            let (attributes, spelled) = served.adapter.look_in(opened::<V>(context), name)?;
            let spelled: Vec<u16> =
                std::os::windows::ffi::OsStrExt::encode_wide(&*spelled).collect();
            let fits = entry(into, &spelled, &attributes);
            if fits { Ok(()) } else { Err(Status::OBJECT_NAME_INVALID) }
        })
    }
}

unsafe extern "C" fn dispatcher_stopped<V: Volume>(fs: *mut FSP_FILE_SYSTEM, _normally: BOOLEAN) {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "DispatcherStopped", |served| {
            (served.stopped)();
            Ok(())
        });
    }
}
