//! WinFsp's callbacks as calls of the [`Adapter`](super::adapter::Adapter). Nothing is decided here but how an
//! answer is put.
//!
//! What they are given is as `winfsp.h` documents it: pointers to what is there, texts that end with a NUL, room
//! for as much as is said, and of contexts those that were handed over.

use std::ffi::c_void;
use std::os::windows::ffi::OsStrExt;
use std::ptr;

use winfsp_wrs_sys::{
    BOOLEAN, FSP_FILE_SYSTEM, FSP_FSCTL_DIR_INFO, FSP_FSCTL_FILE_INFO, FSP_FSCTL_VOLUME_INFO,
    NTSTATUS, PSECURITY_DESCRIPTOR, SIZE_T,
};

use super::adapter::{Adapter, Wish};
use super::attributes::bits;
use super::listing::Item;
use super::status::Status;
use super::table::{
    Entry, answer, entry, flush_all, give, info, opened, path, put, take_back, tell, text,
};
use crate::{SetAttributes, Volume};

/// `FspCleanupDelete`: the name is to be removed.
const DELETE: u32 = 1;

pub(super) unsafe extern "C" fn get_volume_info<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    into: *mut FSP_FSCTL_VOLUME_INFO,
) -> NTSTATUS {
    // SAFETY: pointers and contexts are what the head of this file says, here and below.
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

pub(super) unsafe extern "C" fn get_security_by_name<V: Volume>(
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

pub(super) unsafe extern "C" fn create<V: Volume>(
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

pub(super) unsafe extern "C" fn open<V: Volume>(
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

pub(super) unsafe extern "C" fn overwrite<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    bits: u32,
    _replace_bits: BOOLEAN,
    _reserve: u64,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        tell::<V>(fs, "Overwrite", context, file_info, |adapter, open| {
            adapter.overwrite(open, bits)
        })
    }
}

pub(super) unsafe extern "C" fn cleanup<V: Volume>(
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

pub(super) unsafe extern "C" fn close<V: Volume>(fs: *mut FSP_FILE_SYSTEM, context: *mut c_void) {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "Close", |served| {
            if let Some(open) = take_back(served, context) {
                served.adapter.close(&open);
            }
            Ok(())
        });
    }
}

pub(super) unsafe extern "C" fn read<V: Volume>(
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

pub(super) unsafe extern "C" fn write<V: Volume>(
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

pub(super) unsafe extern "C" fn flush<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        if context.is_null() {
            // The whole volume: the driver has written what it kept of open files, and asks for no more.
            return answer::<V>(fs, "Flush", flush_all);
        }
        tell::<V>(fs, "Flush", context, file_info, Adapter::flush)
    }
}

pub(super) unsafe extern "C" fn get_file_info<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe { tell::<V>(fs, "GetFileInfo", context, file_info, Adapter::attributes) }
}

pub(super) unsafe extern "C" fn set_basic_info<V: Volume>(
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
        tell::<V>(fs, "SetBasicInfo", context, file_info, |adapter, open| {
            adapter.set_basic(open, bits, accessed, modified)
        })
    }
}

pub(super) unsafe extern "C" fn set_file_size<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    size: u64,
    reserved: BOOLEAN,
    file_info: *mut FSP_FSCTL_FILE_INFO,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        tell::<V>(fs, "SetFileSize", context, file_info, |adapter, open| {
            adapter.set_size(open, size, reserved != 0)
        })
    }
}

pub(super) unsafe extern "C" fn can_delete<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    context: *mut c_void,
    _name: *mut u16,
) -> NTSTATUS {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "CanDelete", |served| served.adapter.can_remove(opened::<V>(context)))
    }
}

pub(super) unsafe extern "C" fn rename<V: Volume>(
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

pub(super) unsafe extern "C" fn get_security<V: Volume>(
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

pub(super) unsafe extern "C" fn set_security<V: Volume>(
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

pub(super) unsafe extern "C" fn read_directory<V: Volume>(
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

pub(super) unsafe extern "C" fn get_dir_info_by_name<V: Volume>(
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
            let spelled: Vec<u16> = spelled.encode_wide().collect();
            let fits = entry(into, &spelled, &attributes);
            if fits { Ok(()) } else { Err(Status::OBJECT_NAME_INVALID) }
        })
    }
}

pub(super) unsafe extern "C" fn dispatcher_stopped<V: Volume>(
    fs: *mut FSP_FILE_SYSTEM,
    _normally: BOOLEAN,
) {
    // SAFETY: as above.
    unsafe {
        answer::<V>(fs, "DispatcherStopped", |served| {
            (served.stopped)();
            Ok(())
        });
    }
}
