//! WinFsp's library, which is loaded when a volume is to be mounted: a program that does not mount runs without
//! it, and says what to do where it is missing.

use std::ffi::{OsString, c_void};
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, HMODULE};
use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LoadLibraryW};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RRF_SUBKEY_WOW6432KEY, RegGetValueW,
};
use windows_sys::w;
use winfsp_wrs_sys::{
    BOOLEAN, FSP_FILE_SYSTEM, FSP_FILE_SYSTEM_INTERFACE, FSP_FILE_SYSTEM_OPERATION_CONTEXT,
    FSP_FSCTL_DIR_INFO, FSP_FSCTL_NOTIFY_INFO, FSP_FSCTL_VOLUME_PARAMS, NTSTATUS,
    PSECURITY_DESCRIPTOR, PSID, SIZE_T,
};

use super::MountError;

/// A function that made a descriptor, by which WinFsp knows how to free it.
pub(super) type Maker = unsafe extern "C" fn() -> NTSTATUS;

macro_rules! library {
    ($($field:ident = $symbol:literal: fn($($type:ty),* $(,)?) $(-> $answer:ty)?;)+) => {
        /// The functions of it that are used.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($type),*) $(-> $answer)?,)+
        }

        impl Library {
            fn of(module: HMODULE, path: &Path) -> Result<Library, MountError> {
                $(
                    let name = concat!($symbol, "\0");
                    // SAFETY: the module stays loaded, and the name ends with a NUL.
                    let Some($field) = (unsafe { GetProcAddress(module, name.as_ptr()) }) else {
                        let error = io::Error::last_os_error();
                        let path = path.to_owned();
                        return Err(MountError::TooOld { path, missing: $symbol, error });
                    };
                )+
                // SAFETY: the functions have these types in winfsp.h, of which `winfsp_wrs_sys` is made.
                unsafe {
                    Ok(Library { $($field: std::mem::transmute::<
                        unsafe extern "system" fn() -> isize,
                        unsafe extern "C" fn($($type),*) $(-> $answer)?,
                    >($field),)+ })
                }
            }
        }
    };
}
library! {
    create = "FspFileSystemCreate": fn(*mut u16, *const FSP_FSCTL_VOLUME_PARAMS,
        *const FSP_FILE_SYSTEM_INTERFACE, *mut *mut FSP_FILE_SYSTEM) -> NTSTATUS;
    delete = "FspFileSystemDelete": fn(*mut FSP_FILE_SYSTEM);
    set_mount_point = "FspFileSystemSetMountPoint": fn(*mut FSP_FILE_SYSTEM, *mut u16) -> NTSTATUS;
    remove_mount_point = "FspFileSystemRemoveMountPoint": fn(*mut FSP_FILE_SYSTEM);
    start_dispatcher = "FspFileSystemStartDispatcher": fn(*mut FSP_FILE_SYSTEM, u32) -> NTSTATUS;
    stop_dispatcher = "FspFileSystemStopDispatcher": fn(*mut FSP_FILE_SYSTEM);
    operation_process = "FspFileSystemOperationProcessIdF": fn() -> u32;
    operation_context = "FspFileSystemGetOperationContext":
        fn() -> *mut FSP_FILE_SYSTEM_OPERATION_CONTEXT;
    add_dir_info = "FspFileSystemAddDirInfo":
        fn(*mut FSP_FSCTL_DIR_INFO, *mut c_void, u32, *mut u32) -> BOOLEAN;
    notify_begin = "FspFileSystemNotifyBegin": fn(*mut FSP_FILE_SYSTEM, u32) -> NTSTATUS;
    notify = "FspFileSystemNotify":
        fn(*mut FSP_FILE_SYSTEM, *mut FSP_FSCTL_NOTIFY_INFO, SIZE_T) -> NTSTATUS;
    notify_end = "FspFileSystemNotifyEnd": fn(*mut FSP_FILE_SYSTEM) -> NTSTATUS;
    user_of_sid = "FspPosixMapSidToUid": fn(PSID, *mut u32) -> NTSTATUS;
    descriptor_of = "FspPosixMapPermissionsToSecurityDescriptor":
        fn(u32, u32, u32, *mut PSECURITY_DESCRIPTOR) -> NTSTATUS;
    permissions_of = "FspPosixMapSecurityDescriptorToPermissions":
        fn(PSECURITY_DESCRIPTOR, *mut u32, *mut u32, *mut u32) -> NTSTATUS;
    change_descriptor = "FspSetSecurityDescriptor":
        fn(PSECURITY_DESCRIPTOR, u32, PSECURITY_DESCRIPTOR, *mut PSECURITY_DESCRIPTOR) -> NTSTATUS;
    delete_descriptor = "FspDeleteSecurityDescriptor": fn(PSECURITY_DESCRIPTOR, Maker);
}

impl Library {
    /// Loads it from where WinFsp's installer put it.
    pub(super) fn load() -> Result<Library, MountError> {
        let path = installed().ok_or(MountError::NotInstalled)?.join("bin").join(NAME);
        let wide: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
        // SAFETY: the path ends with a NUL. What the library does when it is loaded is WinFsp's.
        let module = unsafe { LoadLibraryW(wide.as_ptr()) };
        if module.is_null() {
            return Err(MountError::NotLoaded { path, error: io::Error::last_os_error() });
        }
        Library::of(module, &path)
    }
}

#[cfg(target_arch = "x86_64")]
const NAME: &str = "winfsp-x64.dll";
#[cfg(target_arch = "aarch64")]
const NAME: &str = "winfsp-a64.dll";

/// Where WinFsp is, as its installer noted.
fn installed() -> Option<PathBuf> {
    let mut path = [0u16; 1024];
    let mut size = size_of_val(&path) as u32;
    // SAFETY: the strings end with a NUL, and `size` is that of `path`, in bytes.
    let answer = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            w!("SOFTWARE\\WinFsp"),
            w!("InstallDir"),
            RRF_RT_REG_SZ | RRF_SUBKEY_WOW6432KEY,
            ptr::null_mut(),
            path.as_mut_ptr().cast(),
            &mut size,
        )
    };
    let end = path.iter().position(|&unit| unit == 0)?;
    (answer == ERROR_SUCCESS).then(|| OsString::from_wide(&path[..end]).into())
}
