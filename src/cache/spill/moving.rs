//! A file goes on in the spill area: what is in it is copied there, and whoever has it open writes on
//! there, under the number that it had, so that locks stay where they are.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cachefs_mount::{Errno, NodeId, OpenFlags, Result};

use crate::cache::Cache;
use crate::cache::attributes::PERMISSIONS;
use crate::cache::files::store_flags;
use crate::cache::handles::{Handle, Open};
use crate::cache::name_locks::Change;
use crate::cache::quota::Stretch;
use crate::cache::resolve::{errno, key, status};
use crate::cache::tree::{ASIDE, FileKey, Node, Place, known_name, stage_of};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{Mode, OFlags};

/// The name whose lock is held by who has a file moved.
pub(in crate::cache) type Held<'a> = Option<&'a Change<'a>>;

impl Cache {
    /// Opens a known file for writing, in the spill area if it can't be written where it is. `held`: the
    /// caller has locked its name.
    pub(in crate::cache) fn open_to_write(
        &self,
        node: &Arc<Node>,
        flags: OFlags,
        held: Held<'_>,
    ) -> Result<OwnedFd> {
        if self.is_out_of_reach(node) {
            self.move_node(node, Errno::EROFS, held)?;
        }
        if node.of.is_some() {
            // It is not everyone's, and does not go where that goes.
            return self.open_node(node, flags);
        }
        loop {
            match self.open_node(node, flags) {
                Err(errno) if self.takes_over(errno) => self.move_node(node, errno, held)?,
                opened => return opened,
            }
        }
    }

    /// Moves a known file to the spill area because of an error.
    pub(in crate::cache) fn move_node(
        &self,
        node: &Arc<Node>,
        why: Errno,
        held: Held<'_>,
    ) -> Result<()> {
        let file = File::from(self.open_node(node, OFlags::RDONLY)?);
        self.move_file(&file, why, held)
    }

    /// Moves an open file to the spill area because of an error, which is given back if it can't be
    /// moved. All handles of it go on there.
    pub(in crate::cache) fn move_file(
        &self,
        file: &File,
        why: Errno,
        held: Held<'_>,
    ) -> Result<()> {
        let from = key(&status(file, b"")?);
        let node = self.tree.find(from);
        let first = node.as_ref().and_then(|node| node.places().into_iter().find(Place::is_public));
        let change = match (&first, held) {
            (Some(place), None) => {
                let folder = self.tree.versioned(&self.tree.get(place.parent())?);
                Some(self.names.change(folder.id, &place.name))
            }
            _ => None,
        };
        let all = self.spill.settled.write();
        if !self.is_file_of_a_handle(from) && node.as_ref().is_none_or(|node| node.key() != from) {
            // Somebody else has moved it meanwhile.
            return Ok(());
        }
        let lies = node.as_ref().map(|node| node.places()).unwrap_or_default();
        if lies.iter().any(|place| place.parent() == ASIDE) {
            return Err(why);
        }
        let found = status(file, b"")?;
        let mode = Mode::from_raw_mode(u32::from(found.stx_mode & PERMISSIONS));
        let (name, new) = self.spill_file(OFlags::RDWR, mode).map_err(|_| why)?;
        let place = Place::new(ASIDE, known_name(name.as_bytes()));
        let new = File::from(new);
        if let Err(errno) = self.copy_contents(file, &new, found.stx_size) {
            self.remove_spilled(&place);
            // What can't be read is not made up; what can't be written has not been taken.
            return Err(if errno == Errno::EIO { errno } else { why });
        }
        self.copy_looks(&found, node.as_deref(), &new);
        let to = key(&status(&new, b"")?);
        self.spill.moved.fetch_add(1, Ordering::AcqRel);
        if let Some(node) = &node {
            let _moving = self.moves.read();
            self.tree.rebind(node, to, ASIDE, known_name(&place.name));
            self.descriptors.drop(node.id);
        }
        self.switch_handles(from, to, &new)?;
        // As it is now: it may have lost its name while it was copied.
        self.charge_moved(&status(file, b"")?);
        drop(all);
        let Some(node) = node else {
            self.remove_spilled(&place);
            return Ok(());
        };
        self.settle_touched(&node, &new);
        for old in lies {
            if stage_of(old.parent()).is_some() {
                if let Err(errno) = self.remove_own(&old) {
                    tracing::warn!(%errno, "can't remove a draft that was moved; the next mount does");
                }
            } else if old.is_public()
                && let Ok(folder) = self.tree.get(old.parent())
            {
                let folder = self.tree.versioned(&folder);
                self.tree.hold(node.id);
                self.put_aside(&folder, known_name(&old.name), &node);
                self.tell_kernel_later(folder.id, &old.name);
            }
        }
        drop(change);
        Ok(())
    }

    fn remove_spilled(&self, place: &Place) {
        if let Err(errno) = self.remove_own(place) {
            tracing::warn!(%errno, "can't remove a file of the spill area; unmounting does");
        }
    }

    fn is_file_of_a_handle(&self, file: FileKey) -> bool {
        self.handles.all().iter().any(|handle| handle.writes(file))
    }

    /// Has all handles that write a file write another. Nobody writes meanwhile.
    fn switch_handles(&self, from: FileKey, to: FileKey, file: &File) -> Result<()> {
        for handle in self.handles.all() {
            if !handle.writes(from) {
                continue;
            }
            let Open::Writing { flags, target, .. } = &handle.open else { continue };
            let own = open_again(file, store_flags(*flags))?;
            target.write().file = Arc::new(File::from(own));
            // It may have lost its name, or its number.
            if let Ok(node) = self.tree.get(handle.node)
                && node.key() == from
            {
                let descriptor = open_again(file, OFlags::PATH)?;
                self.tree.rebind_orphan(&node, to, descriptor);
                self.descriptors.drop(node.id);
            }
        }
        Ok(())
    }

    /// Gives a copy the owner, the times and the attributes of what it is a copy of.
    pub(in crate::cache) fn copy_looks(
        &self,
        found: &platform::fs::Statx,
        node: Option<&Node>,
        to: &File,
    ) {
        let (uid, gid) = (found.stx_uid, found.stx_gid);
        let (uid, gid) = (platform::fs::Uid::from_raw(uid), platform::fs::Gid::from_raw(gid));
        // As far as the area's filesystem can: nobody is harmed by a copy that belongs to the daemon.
        let _ = platform::fs::fchown(to, Some(uid), Some(gid));
        let time = |stamp: platform::fs::StatxTimestamp| platform::fs::Timespec {
            tv_sec: stamp.tv_sec,
            tv_nsec: i64::from(stamp.tv_nsec),
        };
        let times = platform::fs::Timestamps {
            last_access: time(found.stx_atime),
            last_modification: time(found.stx_mtime),
        };
        let _ = platform::fs::futimens(to, &times);
        if let Some(node) = node {
            self.copy_xattrs(node, to);
        }
    }

    /// A file that has just been opened for `node` may have moved before its handle was known.
    pub(in crate::cache) fn follow_moved(&self, of: NodeId, handle: &Handle) -> Result<()> {
        let Open::Writing { flags, target, .. } = &handle.open else { return Ok(()) };
        if !self.spill.has_moved() {
            return Ok(());
        }
        let node = self.tree.get(of)?;
        let _all = self.spill.settled.read_recursive();
        let mut target = target.write();
        if key(&status(&*target.file, b"")?) != node.key() {
            target.file = Arc::new(File::from(self.open_node(&node, store_flags(*flags))?));
        }
        Ok(())
    }

    /// No file moves until this is dropped.
    pub(in crate::cache) fn nothing_moves(&self) -> parking_lot::RwLockReadGuard<'_, ()> {
        self.spill.settled.read_recursive()
    }

    /// Does something that changes an open file, there or in the spill area: adds to it that stretch at
    /// most. `act` says with the error how far it came, and goes on from there the next time.
    pub(in crate::cache) fn writing<T>(
        &self,
        handle: &Handle,
        stretch: Stretch,
        mut act: impl FnMut(&File) -> Result<T>,
    ) -> Result<T> {
        let Open::Writing { flags, .. } = &handle.open else { return Err(Errno::EBADF) };
        debug_assert!(flags.contains(OpenFlags::WRITE));
        loop {
            let (file, done) = {
                let _all = self.nothing_moves();
                let file = self.file(handle)?;
                let done = match self.exceeds(handle, &file, stretch) {
                    true => None,
                    false => Some(
                        self.refuses_more(&file)
                            .and_then(|()| self.charging(Some(handle.uid), &file, || act(&file))),
                    ),
                };
                (file, done)
            };
            let Some(done) = done else {
                self.move_what_exceeds(&file)?;
                continue;
            };
            match done {
                Err(errno) if self.user_of(handle.node).is_some() => return Err(errno),
                Err(errno) => match self.takes_over_at_last(errno, handle.job.id) {
                    None => {}
                    Some(true) => self.move_file(&file, errno, None)?,
                    Some(false) => return Err(errno),
                },
                done => return done,
            }
        }
    }
}

/// The same file, open in another way; it need not have a name.
fn open_again(file: &File, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    platform::fs::open_again(file, flags).map_err(errno)
}

impl Handle {
    /// Whether it writes that file.
    fn writes(&self, file: FileKey) -> bool {
        let Open::Writing { target, .. } = &self.open else { return false };
        let open = target.read().file.clone();
        status(&*open, b"").is_ok_and(|status| key(&status) == file)
    }
}
