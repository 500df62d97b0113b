//! Names that were taken away from what is open, where the filesystem can't do that (before Windows 10 1709, on FAT,
//! under Wine): it gets another name, in a folder of the store's own, until nobody has it open any more.

use std::collections::HashMap;
use std::io;
use std::os::windows::io::AsHandle;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_DISPOSITION_INFORMATION, FileDispositionInformation, FileRenameInformation,
};
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_READ_ATTRIBUTES};

use super::errno::Errno;
use super::fd::{AsFd, BorrowedFd, OwnedFd};
use super::flags::{Mode, OFlags};
use super::names::Arg;
use super::nt::{Place, Status, Way, self_path, set};
use super::opening::{mkdirat, openat};
use super::scan::names_in;
use super::stat::{Dev, id_of};

/// What it is called in the store's own folder.
const FOLDER: &str = "gone";

/// So many old graves are looked at when one is dug.
const LOOKS: usize = 4;

/// The folder for such names, as long as this lives.
#[derive(Debug)]
pub struct Graves(Arc<Yard>);

#[derive(Debug)]
struct Yard {
    folder: OwnedFd,
    /// It is for what lies below.
    below: PathBuf,
}

/// A volume and the number of a file in it.
type Id = (Dev, u64);

/// The name of what was buried, in its yard.
#[derive(Debug)]
struct Grave {
    yard: Arc<Yard>,
    name: String,
}

static YARDS: Mutex<Vec<Weak<Yard>>> = Mutex::new(Vec::new());
static BURIED: Mutex<Option<HashMap<Id, Vec<Grave>>>> = Mutex::new(None);
/// How many there are in `BURIED`.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Graves {
    /// In that folder, for what lies beside it, or in it. What a crash has left is removed.
    pub fn open(private: impl AsFd) -> io::Result<Graves> {
        match mkdirat(private.as_fd(), FOLDER, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = openat(private.as_fd(), FOLDER, flags, Mode::empty())?;
        for name in names_in(&folder)? {
            if let Err(status) = fill_in(&folder, &name) {
                tracing::debug!(
                    "can't remove what a crash left ({status:x?}); the next mount tries"
                );
            }
        }
        let mut below = self_path(&private);
        below.pop();
        let yard = Arc::new(Yard { folder, below });
        let mut yards = YARDS.lock();
        yards.retain(|yard| yard.strong_count() > 0);
        yards.push(Arc::downgrade(&yard));
        Ok(Graves(yard))
    }
}

impl Drop for Graves {
    fn drop(&mut self) {
        let mut buried = BURIED.lock();
        let Some(all) = &mut *buried else { return };
        all.retain(|_, graves| {
            let (ours, others) =
                graves.drain(..).partition::<Vec<_>, _>(|grave| Arc::ptr_eq(&grave.yard, &self.0));
            // What is open still is removed by the next mount.
            for grave in ours {
                grave.is_filled_in();
            }
            *graves = others;
            !graves.is_empty()
        });
        count(all);
    }
}

impl Grave {
    /// Removes it, if nobody has it open any more.
    fn is_filled_in(&self) -> bool {
        fill_in(&self.yard.folder, &self.name).is_ok()
    }
}

/// Removes a name in a yard, if nobody has it open.
fn fill_in(folder: &OwnedFd, name: impl Arg) -> Result<(), Status> {
    let place =
        Place::new(folder.as_fd(), name.as_path()).map_err(|_| Status::INVALID_PARAMETER)?;
    let opened = place.open(Way { share: 0, ..Way::existing(DELETE, false) })?;
    let what = FILE_DISPOSITION_INFORMATION { DeleteFile: true };
    let length = size_of_val(&what);
    // SAFETY: that is the structure of that class, and that long.
    unsafe { set(opened.as_handle(), FileDispositionInformation, &raw const what, length) }
}

fn count(all: &HashMap<Id, Vec<Grave>>) {
    COUNT.store(all.values().map(Vec::len).sum(), Ordering::Release);
}

/// How many of the names that the filesystem counts were taken away.
pub(super) fn names_of(id: Id) -> u32 {
    if COUNT.load(Ordering::Acquire) == 0 {
        return 0;
    }
    let buried = BURIED.lock();
    buried.as_ref().and_then(|all| all.get(&id)).map_or(0, |graves| graves.len() as u32)
}

/// Whether that was removed.
pub(super) fn holds(directory: BorrowedFd<'_>) -> bool {
    COUNT.load(Ordering::Acquire) != 0 && id_of(directory).is_ok_and(|id| names_of(id) > 0)
}

/// What was moved here, so that it can be moved back.
#[derive(Debug)]
pub(super) struct Buried {
    id: Id,
    name: String,
}

/// Takes the name away by which `what` was opened, with the right to do that; gives it back if there is nowhere to put
/// it.
pub(super) fn bury(what: OwnedFd) -> Result<Result<Buried, OwnedFd>, Status> {
    let Ok(id) = id_of(&what) else { return Ok(Err(what)) };
    let yards: Vec<_> = YARDS.lock().iter().filter_map(Weak::upgrade).collect();
    let path = self_path(&what);
    let near = yards.into_iter().filter(|yard| path.starts_with(&yard.below));
    let Some(yard) = near.max_by_key(|yard| yard.below.as_os_str().len()) else {
        return Ok(Err(what));
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = number.to_string();
    let mut buried = BURIED.lock();
    let all = buried.get_or_insert_default();
    {
        let place = Place::new(yard.folder.as_fd(), name.as_path());
        place.map_err(|_| Status::INVALID_PARAMETER)?.name_here(&what, FileRenameInformation, 0)?;
    }
    all.entry(id).or_default().push(Grave { yard, name: name.clone() });
    drop(what);
    // Others each time: some may be open for long.
    let (before, looks) = (number as usize % all.len(), LOOKS.min(all.len()));
    let old: Vec<Id> = all.keys().copied().cycle().skip(before).take(looks).collect();
    for id in old.into_iter().chain([id]) {
        if let Some(graves) = all.get_mut(&id) {
            graves.retain(|grave| !grave.is_filled_in());
            if graves.is_empty() {
                all.remove(&id);
            }
        }
    }
    count(all);
    Ok(Ok(Buried { id, name }))
}

impl Buried {
    /// Gives it its name again, as far as it is there still.
    pub(super) fn unbury(self, to: &Place<'_>) -> Result<(), Status> {
        let mut buried = BURIED.lock();
        let Some(all) = &mut *buried else { return Err(Status::NO_SUCH_FILE) };
        let Some(graves) = all.get_mut(&self.id) else { return Err(Status::NO_SUCH_FILE) };
        let at = graves.iter().position(|grave| grave.name == self.name);
        let grave = graves.remove(at.ok_or(Status::NO_SUCH_FILE)?);
        if graves.is_empty() {
            all.remove(&self.id);
        }
        count(all);
        let place = Place::new(grave.yard.folder.as_fd(), grave.name.as_path());
        let place = place.map_err(|_| Status::INVALID_PARAMETER)?;
        let what = place.open(Way::existing(DELETE | FILE_READ_ATTRIBUTES, false))?;
        to.name_here(what, FileRenameInformation, 0)
    }
}
