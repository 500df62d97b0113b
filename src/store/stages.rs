//! The folders in which files are written that have no name yet.
//!
//! They are several because of ext4. It puts the inode of a new file near that of its directory, and tries all
//! inodes there that were freed in the last minute before it takes another one (`recently_deleted` in
//! fs/ext4/ialloc.c). In a single folder, all files of a store would be neighbours, and whoever writes some
//! thousands after some thousands were removed would wait for that each time.

use std::io;

use super::{DIRECTORY, system};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{Mode, OFlags};
use crate::platform::io::Errno;

/// Opens as many of them as there are to be, in `staged`; fewer, but at least one, if there is no room.
pub(super) fn open(staged: OwnedFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    system::spread(&staged);
    let mut stages = Vec::with_capacity(count);
    for number in 0..count {
        let name = format!("stage{number}");
        match platform::fs::mkdirat(&staged, &*name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A store that is full is served, too.
            Err(_) => break,
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        stages.push(platform::fs::openat(&staged, &*name, flags, Mode::empty())?);
    }
    if stages.is_empty() {
        stages.push(staged);
    }
    Ok(stages)
}
