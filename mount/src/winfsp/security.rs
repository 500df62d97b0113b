//! Who may do what: security descriptors.

use std::io;
use std::ptr;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    GetSecurityDescriptorLength, GetTokenInformation, TOKEN_USER, TokenUser,
};
use windows_sys::w;
use winfsp_wrs_sys::PSECURITY_DESCRIPTOR;

use super::library::{Library, Maker};
use super::status::Status;
use crate::{Attributes, Caller, Kind, SetAttributes};

/// Directories among the bits of a mode: what is in them may be deleted by who may write them.
const MODE_DIRECTORY: u32 = 0o40000;

/// How much of an account is asked for: more than any takes.
const ACCOUNT: usize = 256;

pub(super) struct Security {
    /// What everything has where everyone may do everything; none where owners and permissions count.
    everyone: Option<Vec<u8>>,
}

impl Security {
    pub(super) fn new(check_permissions: bool) -> io::Result<Security> {
        // Owned by administrators; the system, they and everyone have full access, which files and
        // directories in it inherit.
        let sddl = w!("O:BAG:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;WD)");
        let everyone = if check_permissions { None } else { Some(from_text(sddl)?) };
        Ok(Security { everyone })
    }

    /// The descriptor of what has those attributes, in one piece.
    pub(super) fn descriptor(&self, library: &Library, of: &Attributes) -> Result<Vec<u8>, Status> {
        if let Some(everyone) = &self.everyone {
            return Ok(everyone.clone());
        }
        let mut descriptor = ptr::null_mut();
        // SAFETY: `descriptor` takes a pointer, which is given back below.
        let status = unsafe { (library.descriptor_of)(of.uid, of.gid, mode(of), &mut descriptor) };
        succeeded(status)?;
        // SAFETY: a function of another type is only compared by WinFsp, never called.
        let maker = unsafe { std::mem::transmute::<*const (), Maker>(library.descriptor_of as _) };
        Ok(take(library, descriptor, maker))
    }

    /// What is to be changed when somebody sets a descriptor's parts `which` to those of `by`; nothing where
    /// everyone may do everything, which stays so.
    ///
    /// # Safety
    ///
    /// `by` is a descriptor.
    pub(super) unsafe fn changes(
        &self,
        library: &Library,
        now: &Attributes,
        which: u32,
        by: PSECURITY_DESCRIPTOR,
    ) -> Result<SetAttributes, Status> {
        if self.everyone.is_some() {
            return Ok(SetAttributes::default());
        }
        let mut old = self.descriptor(library, now)?;
        let mut new = ptr::null_mut();
        // SAFETY: both are descriptors; `new` takes a pointer, which is given back below.
        succeeded(unsafe {
            (library.change_descriptor)(old.as_mut_ptr().cast(), which, by, &mut new)
        })?;
        // SAFETY: as above.
        let maker =
            unsafe { std::mem::transmute::<*const (), Maker>(library.change_descriptor as _) };
        let mut new = take(library, new, maker);
        // SAFETY: `new` is a descriptor.
        let (uid, gid, mode) = unsafe { permissions(library, new.as_mut_ptr().cast()) }?;
        let changed = |new: u32, old: u32| (new != old).then_some(new);
        Ok(SetAttributes {
            permissions: changed(mode & 0o777, u32::from(now.permissions) & 0o777)
                .map(|mode| mode as u16),
            uid: changed(uid, now.uid),
            gid: changed(gid, now.gid),
            ..Default::default()
        })
    }

    /// The permissions of something new that gets that descriptor.
    ///
    /// # Safety
    ///
    /// `descriptor` is null or a descriptor.
    pub(super) unsafe fn new_permissions(
        &self,
        library: &Library,
        descriptor: PSECURITY_DESCRIPTOR,
    ) -> Result<u16, Status> {
        if self.everyone.is_some() || descriptor.is_null() {
            return Ok(0o777);
        }
        // SAFETY: by the caller's word.
        let (_, _, mode) = unsafe { permissions(library, descriptor) }?;
        Ok((mode & 0o777) as u16)
    }

    /// Who asks what is being answered: opening, creating and renaming say so.
    pub(super) fn caller(&self, library: &Library) -> Caller {
        // SAFETY: it may be asked while an operation is answered.
        let thread = unsafe { (library.operation_process)() };
        let uid = if self.everyone.is_some() { 0 } else { user(library).unwrap_or(NOBODY) };
        Caller { uid, gid: uid, thread }
    }
}

/// Who can't be told from others: as Linux has it.
const NOBODY: u32 = 65534;

/// The user on whose behalf something is opened, created or renamed, as WinFsp numbers accounts.
fn user(library: &Library) -> Option<u32> {
    // SAFETY: while an operation is answered, there is a context with its request.
    let request = unsafe { &*(*(library.operation_context)()).Request };
    // SAFETY: of each kind, the request is that part of the union. What is asked while something is renamed is
    // asked for its new name.
    let token = unsafe {
        match request.Kind {
            CREATE => request.Req.Create.AccessToken,
            SET_INFORMATION => request.Req.SetInformation.Info.Rename.AccessToken,
            _ => return None,
        }
    };
    // The upper half is the process.
    let token = token & u64::from(u32::MAX);
    let mut account = [0u64; ACCOUNT / 8];
    let (mut length, mut uid) = (0, 0);
    // SAFETY: `account` is aligned and as large as said; WinFsp keeps the handle open meanwhile.
    let told = unsafe {
        GetTokenInformation(
            token as *mut _,
            TokenUser,
            account.as_mut_ptr().cast(),
            ACCOUNT as u32,
            &mut length,
        )
    };
    if told == 0 {
        return None;
    }
    // SAFETY: that is what was asked for; it points to the account further on.
    let sid = unsafe { (*account.as_ptr().cast::<TOKEN_USER>()).User.Sid };
    // SAFETY: an account's identifier.
    (unsafe { (library.user_of_sid)(sid.cast(), &mut uid) } >= 0).then_some(uid)
}

/// Kinds of requests: `FspFsctlTransactCreateKind`, `FspFsctlTransactSetInformationKind`.
pub(super) const CREATE: u32 = 1;
pub(super) const SET_INFORMATION: u32 = 8;

fn mode(of: &Attributes) -> u32 {
    let kind = if of.kind == Kind::Directory { MODE_DIRECTORY } else { 0 };
    kind | u32::from(of.permissions)
}

fn succeeded(status: i32) -> Result<(), Status> {
    if status >= 0 { Ok(()) } else { Err(Status(status)) }
}

/// Owner, group and mode.
///
/// # Safety
///
/// `descriptor` is a descriptor.
unsafe fn permissions(
    library: &Library,
    descriptor: PSECURITY_DESCRIPTOR,
) -> Result<(u32, u32, u32), Status> {
    let (mut uid, mut gid, mut mode) = (0, 0, 0);
    // SAFETY: by the caller's word; the others take a number each.
    succeeded(unsafe { (library.permissions_of)(descriptor, &mut uid, &mut gid, &mut mode) })?;
    Ok((uid, gid, mode))
}

/// Copies a descriptor that WinFsp made, and gives it back.
fn take(library: &Library, descriptor: PSECURITY_DESCRIPTOR, maker: Maker) -> Vec<u8> {
    // SAFETY: a descriptor in one piece, which is as long as it says.
    let copy = unsafe {
        let length = GetSecurityDescriptorLength(descriptor) as usize;
        std::slice::from_raw_parts(descriptor.cast::<u8>(), length).to_vec()
    };
    // SAFETY: it is not used any more.
    unsafe { (library.delete_descriptor)(descriptor, maker) };
    copy
}

/// The descriptor that `sddl`, which ends with a NUL, describes.
pub(super) fn from_text(sddl: *const u16) -> io::Result<Vec<u8>> {
    let (mut descriptor, mut length) = (ptr::null_mut(), 0);
    // SAFETY: a text that ends with a NUL; `descriptor` takes a pointer, which is freed below.
    let done = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            sddl,
            SDDL_REVISION_1,
            &mut descriptor,
            &mut length,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is that long, and was allocated so.
    unsafe {
        let copy = std::slice::from_raw_parts(descriptor.cast::<u8>(), length as usize).to_vec();
        LocalFree(descriptor);
        Ok(copy)
    }
}
