//! The folder of what the store can't take, and making things in it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::sync::Arc;

use cachefs_mount::{Errno, Result};

use super::health;
use crate::cache::Cache;
use crate::cache::resolve::{errno, key, kind, open_at, status};
use crate::cache::retire::{Amount, amount};
use crate::cache::tree::{ASIDE, FileKey, Node, Place};
use crate::platform;
use crate::platform::fd::{AsFd, OwnedFd};
use crate::platform::fs::{AtFlags, Mode, OFlags, SeekFrom};
use cachefs_mount::{Kind, NodeId};

impl Cache {
    /// The folder; `ENOSPC` if nothing more is to be put there.
    pub(super) fn spill_folder(&self) -> Result<Arc<OwnedFd>> {
        let folder = self.spill.folder().ok_or(Errno::EROFS)?;
        if health::is_low(&folder) {
            return Err(Errno::ENOSPC);
        }
        self.spill.note_used();
        Ok(folder)
    }

    /// Makes a file in the area: its name there, and the file.
    pub(in crate::cache) fn spill_file(
        &self,
        flags: OFlags,
        mode: Mode,
    ) -> Result<(String, OwnedFd)> {
        let folder = self.spill_folder()?;
        let name = self.next_number().to_string();
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = platform::fs::openat(&*folder, &*name, flags, mode).map_err(errno)?;
        Ok((name, file))
    }

    /// Copies everything in `from` to `to`, which is empty, up to `length` bytes; whatever is wrong with reading
    /// is an error (SEMANTICS 4.5). Holes stay holes: they may be larger than any disk.
    pub(in crate::cache) fn copy_contents(
        &self,
        from: impl AsFd,
        to: &File,
        length: u64,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let source = File::from(platform::fs::open_again(from, flags).map_err(errno)?);
        let length = length.min(source.metadata()?.len());
        let mut done = 0;
        while let Some(data) = next_data(&source, done, length) {
            (&source).seek(io::SeekFrom::Start(data.start))?;
            (&mut &*to).seek(io::SeekFrom::Start(data.start))?;
            io::copy(&mut (&source).take(data.end - data.start), &mut &*to)?;
            done = data.end;
        }
        to.set_len(length)?;
        Ok(())
    }

    /// Whether a directory lies in the area, below one that was made there.
    pub(in crate::cache) fn lies_in_area(&self, folder: &Arc<Node>) -> bool {
        if !self.spill.is_used() {
            return false;
        }
        let mut at = folder.clone();
        loop {
            let Some(place) = at.place() else { return false };
            if place.parent() == ASIDE {
                return true;
            }
            match self.tree.get(place.parent()) {
                Ok(above) if above.id != NodeId::ROOT => at = above,
                _ => return false,
            }
        }
    }

    /// Whether the store is not to be touched where a node lies in it.
    pub(in crate::cache) fn is_out_of_reach(&self, node: &Arc<Node>) -> bool {
        if !self.spill.read_only {
            return false;
        }
        let mut at = node.clone();
        while at.id != NodeId::ROOT {
            // Without a name, it is reached by nothing but a descriptor of ours.
            let Some(place) = at.place().filter(Place::is_public) else { return false };
            match self.tree.get(place.parent()) {
                Ok(above) => at = above,
                Err(_) => return false,
            }
        }
        true
    }

    /// A file that lies in one of our own folders loses a name there; those who have it open keep it.
    pub(in crate::cache) fn remove_own(&self, place: &Place) -> Result<()> {
        let folder = self.own_folder(place.parent()).ok_or(Errno::ESTALE)?;
        let found = open_at(&*folder, &place.name, OFlags::PATH)?;
        if kind(&status(&found, b"")?) != Kind::Directory {
            return self.unlink_in((place.parent(), &folder), &place.name);
        }
        let _moving = self.moves.read();
        platform::fs::unlinkat(&*folder, &*place.name, AtFlags::REMOVEDIR).map_err(errno)?;
        self.tree.orphan(key(&status(&found, b"")?), found);
        Ok(())
    }

    /// Whether a file lies on the filesystem of the store, and not in the area.
    pub(super) fn is_in_store(&self, file: FileKey) -> bool {
        file.device == self.spill.store_device && self.spill.key.device != file.device
    }

    /// What lies in the area.
    pub fn spilled(&self) -> Amount {
        let mut all = Amount::default();
        let Some(folder) = self.spill.folder() else { return all };
        let Ok(names) = self.names_in(&folder) else { return all };
        for name in names {
            let Ok(found) = status(&*folder, &name) else { continue };
            if kind(&found) != Kind::Directory {
                all.add(amount(&found));
            } else if let Ok(below) = open_at(&*folder, &name, OFlags::RDONLY | OFlags::DIRECTORY)
                && let Ok(inside) = self.amount_in(&below)
            {
                all.add(inside);
            }
        }
        all
    }
}

/// The first stretch of data from `offset` on, up to `length`; none if there is nothing but a hole.
fn next_data(file: &File, offset: u64, length: u64) -> Option<Range<u64>> {
    if offset >= length {
        return None;
    }
    let start = match platform::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(platform::io::Errno::NXIO) => return None,
        // Where the filesystem does not tell, all is data.
        Err(_) => return Some(offset..length),
    };
    let end = platform::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length);
    (start < length).then(|| start..end.min(length))
}

#[cfg(all(test, unix))]
mod tests {
    use crate::platform::fs::FileExt;

    use super::*;

    #[test]
    fn stretches_of_data_are_found_one_after_the_other() {
        let file = tempfile::tempfile().unwrap();
        let hole = 1 << 40;
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b"last", hole).unwrap();
        let length = hole + 4;
        let first = next_data(&file, 0, length).unwrap();
        assert!(first.start == 0 && (5..=1 << 20).contains(&first.end), "{first:?}");
        let last = next_data(&file, first.end, length).unwrap();
        assert!(last.contains(&hole) && last.end == length, "{last:?}");
        assert_eq!(next_data(&file, last.end, length), None);
        assert_eq!(next_data(&file, first.end, hole / 2), None);
    }
}
