//! Who may do what: descriptors, owners and modes.

use windows_sys::Win32::Foundation::CloseHandle;
use windows_sys::Win32::Security::TOKEN_QUERY;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::library::{TOKEN, USER, descriptor};
use super::volume::NOBODY;
use super::*;
use crate::NodeId;
use crate::Volume;

impl File<'_> {
    /// `GetSecurityInfo`: with too little room first.
    pub(super) fn security(&self) -> Result<Vec<u8>, Status> {
        let (mut into, mut size) = (vec![0u8; 4], 4);
        let ask = self.table().GetSecurity.unwrap();
        let mut ask = |into: &mut Vec<u8>| {
            // SAFETY: the context is the adapter's, and `size` is the room there is.
            unsafe { ask(self.fs(), self.context.get(), into.as_mut_ptr().cast(), &mut size) }
        };
        assert_eq!(done(ask(&mut into)), Err(Status::BUFFER_OVERFLOW));
        into.resize(4096, 0);
        done(ask(&mut into))?;
        into.truncate(size as usize);
        Ok(into)
    }

    /// `SetSecurityInfo`, all parts.
    pub(super) fn set_security(&self, descriptor: &[u8]) -> Result<(), Status> {
        let set = self.table().SetSecurity.unwrap();
        let by = descriptor.as_ptr().cast_mut().cast();
        // SAFETY: as above.
        done(unsafe { set(self.fs(), self.context.get(), 0x7, by) })
    }
}

#[test]
fn where_all_is_shared_everyone_may_do_everything() {
    let machine = Machine::new();
    machine.write_file("\\a", "x");
    let (_, before) = machine.look("\\a").unwrap();
    // Everyone is S-1-1-0, as bytes.
    let everyone = [1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    assert!(before.windows(everyone.len()).any(|part| part == everyone));
    let file = machine.create_file("\\a", READ, OPEN_EXISTING, 0).unwrap();
    file.set_security(&descriptor(1, 2, 0o600)).unwrap();
    assert_eq!(file.security().unwrap(), before);
    file.end();
    machine.end();
}

#[test]
fn where_owners_count_descriptors_are_owners_and_modes() {
    let machine = Machine::with(true);
    let root = machine.look("\\").unwrap().1;
    assert_eq!(root, descriptor(0, 0, 0o040_777));

    let mut token = ptr::null_mut();
    // SAFETY: this process's own token, which is closed below.
    assert_ne!(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) }, 0);
    TOKEN.set(token as u64);
    // What is new gets what the driver has worked out from the directory's descriptor: here the same.
    machine.write_file("\\a", "x");
    machine.write_file("\\b", "y");
    machine.move_file("\\b", "\\a", true).unwrap();
    assert_eq!(machine.volume.askers(), [(PROCESS, USER)]);
    TOKEN.set(0);
    // SAFETY: opened above.
    unsafe { CloseHandle(token) };
    assert_eq!(machine.look("\\a").unwrap().1, descriptor(USER, USER, 0o777));

    let file = machine.create_file("\\a", READ, OPEN_EXISTING, 0).unwrap();
    assert_eq!(file.security().unwrap(), descriptor(USER, USER, 0o777));
    file.set_security(&descriptor(USER, 7, 0o640)).unwrap();
    let node = NodeId(file.info().unwrap().IndexNumber);
    file.end();
    let (now, _) = machine.volume.attributes(&NOBODY, node, None).unwrap();
    assert_eq!((now.uid, now.gid, now.permissions), (USER, 7, 0o640));
    assert_eq!(machine.look("\\a").unwrap().1, descriptor(USER, 7, 0o640));
    machine.end();
}

#[test]
fn who_can_not_be_told_is_nobody() {
    let machine = Machine::with(true);
    machine.create_directory("\\d").unwrap();
    assert_eq!(machine.look("\\d").unwrap().1, descriptor(65534, 65534, 0o040_777));
    machine.end();
}
