//! Stands in for WinFsp's library: what the adapter calls, as its documentation has it. What it would ask the
//! driver is noted, for the thread of the test.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use windows_sys::Win32::Security::GetSecurityDescriptorLength;
use winfsp_wrs_sys::{
    BOOLEAN, FSP_FILE_SYSTEM, FSP_FILE_SYSTEM_INTERFACE, FSP_FILE_SYSTEM_OPERATION_CONTEXT,
    FSP_FSCTL_DIR_INFO, FSP_FSCTL_NOTIFY_INFO, FSP_FSCTL_TRANSACT_REQ, FSP_FSCTL_VOLUME_PARAMS,
    NTSTATUS, PSECURITY_DESCRIPTOR, PSID, SIZE_T,
};

use crate::winfsp::library::{Library, Maker};
use crate::winfsp::security::{SET_INFORMATION, from_text};
use crate::winfsp::status::Status;

/// The user whom every account is.
pub(super) const USER: u32 = 4242;

thread_local! {
    /// The last filesystem that was created, and is not deleted.
    pub(super) static CREATED: Cell<*mut FSP_FILE_SYSTEM> = const { Cell::new(ptr::null_mut()) };
    /// What kind of request is being answered, and which process asks, while something is opened, created or
    /// renamed.
    pub(super) static REQUEST: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    /// The token of who opens or creates something.
    pub(super) static TOKEN: Cell<u64> = const { Cell::new(0) };
    /// What was said to the driver, in words.
    pub(super) static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// What the descriptors say that were made of permissions.
    static PERMISSIONS: RefCell<HashMap<Vec<u8>, [u32; 3]>> = RefCell::default();
}

fn tell(what: impl Into<String>) {
    TOLD.with_borrow_mut(|told| told.push(what.into()));
}

/// What was told since it was asked last.
pub(super) fn told() -> Vec<String> {
    TOLD.take()
}

pub(super) fn library() -> Library {
    Library {
        create,
        delete,
        set_mount_point,
        remove_mount_point,
        start_dispatcher,
        stop_dispatcher,
        operation_process,
        operation_context,
        add_dir_info,
        notify_begin,
        notify,
        notify_end,
        user_of_sid,
        descriptor_of,
        permissions_of,
        change_descriptor,
        delete_descriptor,
    }
}

unsafe extern "C" fn create(
    _device: *mut u16,
    parameters: *const FSP_FSCTL_VOLUME_PARAMS,
    interface: *const FSP_FILE_SYSTEM_INTERFACE,
    created: *mut *mut FSP_FILE_SYSTEM,
) -> NTSTATUS {
    // SAFETY: zeros are what the real one begins with; pointers are those of the adapter.
    unsafe {
        assert_eq!(usize::from((*parameters).Version), size_of::<FSP_FSCTL_VOLUME_PARAMS>());
        let mut fs: Box<FSP_FILE_SYSTEM> = Box::new(std::mem::zeroed());
        fs.Interface = interface;
        *created = Box::into_raw(fs);
        CREATED.set(*created);
    }
    tell("create");
    0
}

unsafe extern "C" fn delete(fs: *mut FSP_FILE_SYSTEM) {
    CREATED.set(ptr::null_mut());
    tell("delete");
    // SAFETY: made by `create`.
    drop(unsafe { Box::from_raw(fs) });
}

/// Only `X:` can be mounted on.
unsafe extern "C" fn set_mount_point(_: *mut FSP_FILE_SYSTEM, place: *mut u16) -> NTSTATUS {
    // SAFETY: a text that ends with a NUL.
    let place = unsafe { (0..).map(|at| *place.add(at)).take_while(|&unit| unit != 0) };
    let place = String::from_utf16_lossy(&place.collect::<Vec<_>>());
    tell(format!("mount on {place}"));
    if place == "X:" { 0 } else { Status::OBJECT_NAME_COLLISION.0 }
}

unsafe extern "C" fn remove_mount_point(_: *mut FSP_FILE_SYSTEM) {
    tell("unmount");
}

unsafe extern "C" fn start_dispatcher(_: *mut FSP_FILE_SYSTEM, _threads: u32) -> NTSTATUS {
    tell("start");
    0
}

unsafe extern "C" fn stop_dispatcher(fs: *mut FSP_FILE_SYSTEM) {
    tell("stop");
    // SAFETY: the table is there, and has this callback.
    unsafe { ((*(*fs).Interface).DispatcherStopped.unwrap())(fs, 1) };
}

unsafe extern "C" fn operation_process() -> u32 {
    REQUEST.get().1
}

unsafe extern "C" fn operation_context() -> *mut FSP_FILE_SYSTEM_OPERATION_CONTEXT {
    thread_local! {
        static CONTEXT: Cell<*mut FSP_FILE_SYSTEM_OPERATION_CONTEXT> =
            const { Cell::new(ptr::null_mut()) };
    }
    if CONTEXT.get().is_null() {
        // SAFETY: numbers and pointers may be zero.
        let request: FSP_FSCTL_TRANSACT_REQ = unsafe { std::mem::zeroed() };
        let request = Box::into_raw(Box::new(request));
        let context =
            FSP_FILE_SYSTEM_OPERATION_CONTEXT { Request: request, Response: ptr::null_mut() };
        CONTEXT.set(Box::into_raw(Box::new(context)));
    }
    // SAFETY: made above, and never freed.
    unsafe {
        let request = (*CONTEXT.get()).Request;
        let (kind, process) = REQUEST.get();
        let token = TOKEN.get() | u64::from(process) << 32;
        (*request).Kind = kind;
        match kind {
            SET_INFORMATION => (*request).Req.SetInformation.Info.Rename.AccessToken = token,
            _ => (*request).Req.Create.AccessToken = token,
        }
    }
    CONTEXT.get()
}

/// Adds an entry, or (without one) says that there are no more: false if there is no room.
unsafe extern "C" fn add_dir_info(
    entry: *mut FSP_FSCTL_DIR_INFO,
    buffer: *mut c_void,
    length: u32,
    used: *mut u32,
) -> BOOLEAN {
    // SAFETY: pointers are those of the adapter, and the entry is as long as it says.
    unsafe {
        let size = if entry.is_null() { 2 } else { u32::from((*entry).Size) };
        let takes = if entry.is_null() { 2 } else { size.next_multiple_of(8) };
        if *used + takes > length {
            return 0;
        }
        let to = buffer.cast::<u8>().add(*used as usize);
        match entry.is_null() {
            true => to.cast::<u16>().write_unaligned(0),
            false => ptr::copy_nonoverlapping(entry.cast::<u8>(), to, size as usize),
        }
        *used += takes;
    }
    1
}

unsafe extern "C" fn notify_begin(_: *mut FSP_FILE_SYSTEM, _patience: u32) -> NTSTATUS {
    tell("begin");
    0
}

unsafe extern "C" fn notify(
    _: *mut FSP_FILE_SYSTEM,
    message: *mut FSP_FSCTL_NOTIFY_INFO,
    size: SIZE_T,
) -> NTSTATUS {
    let begin = std::mem::offset_of!(FSP_FSCTL_NOTIFY_INFO, FileNameBuf);
    // SAFETY: the message is as long as it says.
    let (named, length) = unsafe { ((*message).Size, (usize::from((*message).Size) - begin) / 2) };
    assert_eq!(SIZE_T::from(named), size);
    // SAFETY: as above; names are aligned.
    let name = unsafe {
        std::slice::from_raw_parts(message.cast::<u8>().add(begin).cast::<u16>(), length)
    };
    tell(String::from_utf16_lossy(name));
    0
}

unsafe extern "C" fn notify_end(_: *mut FSP_FILE_SYSTEM) -> NTSTATUS {
    tell("end");
    0
}

unsafe extern "C" fn user_of_sid(sid: PSID, user: *mut u32) -> NTSTATUS {
    // SAFETY: pointers are those of the adapter. An identifier begins with its revision.
    unsafe {
        assert_eq!(sid.cast::<u8>().read(), 1);
        user.write(USER);
    }
    0
}

unsafe extern "C" fn descriptor_of(
    uid: u32,
    gid: u32,
    mode: u32,
    into: *mut PSECURITY_DESCRIPTOR,
) -> NTSTATUS {
    let text = format!("O:S-1-22-1-{uid}G:S-1-22-2-{gid}D:(A;;{mode:#x};;;WD)\0");
    let descriptor = from_text(text.encode_utf16().collect::<Vec<_>>().as_ptr()).unwrap();
    PERMISSIONS.with_borrow_mut(|known| known.insert(descriptor.clone(), [uid, gid, mode & 0o777]));
    // SAFETY: takes a pointer.
    unsafe { into.write(Box::into_raw(descriptor.into_boxed_slice()).cast()) };
    0
}

/// The descriptor that was made of those permissions.
pub(super) fn descriptor(uid: u32, gid: u32, mode: u32) -> Vec<u8> {
    let mut descriptor = ptr::null_mut();
    // SAFETY: it is copied, and freed.
    unsafe {
        descriptor_of(uid, gid, mode, &mut descriptor);
        let copy = bytes(descriptor).to_vec();
        free(descriptor);
        copy
    }
}

/// # Safety
///
/// `descriptor` is a descriptor in one piece.
unsafe fn bytes<'a>(descriptor: PSECURITY_DESCRIPTOR) -> &'a [u8] {
    // SAFETY: by the caller's word.
    unsafe {
        let length = GetSecurityDescriptorLength(descriptor) as usize;
        std::slice::from_raw_parts(descriptor.cast::<u8>(), length)
    }
}

/// # Safety
///
/// `descriptor` was made here, and is used no more.
unsafe fn free(descriptor: PSECURITY_DESCRIPTOR) {
    // SAFETY: by the caller's word.
    unsafe { drop(Box::from_raw(ptr::from_ref(bytes(descriptor)).cast_mut())) };
}

unsafe extern "C" fn permissions_of(
    descriptor: PSECURITY_DESCRIPTOR,
    uid: *mut u32,
    gid: *mut u32,
    mode: *mut u32,
) -> NTSTATUS {
    // SAFETY: pointers are those of the adapter.
    unsafe {
        let known = PERMISSIONS.with_borrow(|known| known[bytes(descriptor)]);
        [uid, gid, mode].into_iter().zip(known).for_each(|(to, from)| to.write(from));
    }
    0
}

/// Changes all parts.
unsafe extern "C" fn change_descriptor(
    _old: PSECURITY_DESCRIPTOR,
    _which: u32,
    by: PSECURITY_DESCRIPTOR,
    new: *mut PSECURITY_DESCRIPTOR,
) -> NTSTATUS {
    // SAFETY: pointers are those of the adapter.
    unsafe { new.write(Box::into_raw(bytes(by).to_vec().into_boxed_slice()).cast()) };
    0
}

unsafe extern "C" fn delete_descriptor(descriptor: PSECURITY_DESCRIPTOR, _: Maker) {
    // SAFETY: made by one of the two above.
    unsafe { free(descriptor) };
}
