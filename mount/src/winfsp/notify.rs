//! What the daemon tells Windows without being asked. WinFsp wants names for that, which the nodes have that
//! somebody has open; of others Windows keeps nothing.

use std::ffi::OsStr;
use std::io;
use std::mem::offset_of;
use std::os::windows::ffi::OsStrExt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use winfsp_wrs_sys::{FSP_FILE_SYSTEM, FSP_FSCTL_NOTIFY_INFO};

use super::names::SEPARATOR;
use super::status::Status;
use super::table::Served;
use crate::{NodeId, Notify, Volume};

/// Somebody who watches the directory hears of names, attributes, sizes and times.
const FILTER: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10;

/// `FILE_ACTION_MODIFIED`: what it was, the watcher has to find out.
const MODIFIED: u32 = 3;

/// For how long renames that go on may delay it, in milliseconds.
const PATIENCE: u32 = 10_000;

/// WinFsp's filesystem, while there is one.
#[derive(Default)]
pub(super) struct Attached(pub(super) RwLock<Option<Pointer>>);

/// To what WinFsp's functions take from any thread.
#[derive(Clone, Copy)]
pub(super) struct Pointer(pub(super) *mut FSP_FILE_SYSTEM);

// SAFETY: WinFsp's functions lock what they change.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

/// Tells the system of one mount.
pub(super) struct Notifier<V: Volume> {
    pub(super) attached: Arc<Attached>,
    pub(super) served: Weak<Served<V>>,
    pub(super) serial: u32,
}

impl<V: Volume> Notifier<V> {
    fn tell(&self, served: &Served<V>, path: &[u16]) -> io::Result<()> {
        let attached = self.attached.0.read();
        let Some(Pointer(fs)) = *attached else { return Ok(()) };
        let mut message = message(path);
        // SAFETY: it is not deleted while `attached` is locked. The message is as long as it says.
        let status = unsafe {
            let begun = (served.library.notify_begin)(fs, PATIENCE);
            if begun < 0 {
                begun
            } else {
                let size = message.as_ptr().cast::<u16>().read();
                let told = (served.library.notify)(fs, message.as_mut_ptr().cast(), size.into());
                (served.library.notify_end)(fs);
                told
            }
        };
        if status < 0 {
            return Err(io::Error::other(format!(
                "WinFsp refused a notification: {:?}",
                Status(status)
            )));
        }
        Ok(())
    }
}

impl<V: Volume> Notify for Notifier<V> {
    fn expire(&self, parent: NodeId, name: &OsStr) -> io::Result<()> {
        let Some(served) = self.served.upgrade() else { return Ok(()) };
        let tree = &served.adapter.tree;
        tree.spellings.changed(parent);
        let Some(mut path) = tree.path(parent) else { return Ok(()) };
        if path.last() != Some(&SEPARATOR) {
            path.push(SEPARATOR);
        }
        path.extend(name.encode_wide());
        self.tell(&served, &path)
    }

    fn device(&self) -> (u32, u32) {
        (0, self.serial)
    }

    fn changed(&self, node: NodeId) -> io::Result<()> {
        let Some(served) = self.served.upgrade() else { return Ok(()) };
        let tree = &served.adapter.tree;
        tree.spellings.changed(node);
        match tree.path(node) {
            Some(path) => self.tell(&served, &path),
            None => Ok(()),
        }
    }
}

/// A `FSP_FSCTL_NOTIFY_INFO` with its name, aligned. A path that is too long to be said names nothing.
fn message(path: &[u16]) -> Vec<u64> {
    const BEGIN: usize = offset_of!(FSP_FSCTL_NOTIFY_INFO, FileNameBuf);
    const LONGEST: usize = (u16::MAX as usize - BEGIN) / size_of::<u16>();
    let path = &path[..path.len().min(LONGEST)];
    let size = BEGIN + size_of_val(path);
    let mut message = vec![0u64; size.div_ceil(8)];
    let head = message.as_mut_ptr().cast::<FSP_FSCTL_NOTIFY_INFO>();
    // SAFETY: there is room for the head and for the name behind it, which is aligned for it.
    unsafe {
        (*head).Size = size as u16;
        (*head).Filter = FILTER;
        (*head).Action = MODIFIED;
        let behind = head.cast::<u8>().add(BEGIN).cast::<u16>();
        std::ptr::copy_nonoverlapping(path.as_ptr(), behind, path.len());
    }
    message
}
