//! Removal by an administrator: one change of view, however much is removed.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Name, NodeId, Result};

use super::Cache;
use super::lookup::NOBODY;
use super::retire::{ADMINISTRATOR, CleanError, Cleaned};
use super::spill::aside;
use super::tree::{Node, known_name};
use super::view::{Moment, is_lock_name};

/// A name that is to be removed, and the directory that it is in.
struct Target {
    path: PathBuf,
    folder: Arc<Node>,
    directory: Arc<OwnedFd>,
    name: Box<[u8]>,
}

impl Cache {
    /// Takes `paths` (relative to the mount; all of it if there are none) out of the live view in one
    /// step, for the process `by` (0: nobody's). Nobody else who runs is disturbed.
    pub fn clean(&self, paths: &[PathBuf], by: u32) -> std::result::Result<Cleaned, CleanError> {
        let mut targets = Vec::new();
        let found = if paths.is_empty() {
            self.everything(&mut targets)
        } else {
            paths.iter().try_for_each(|path| self.find(path, &mut targets))
        };
        let cleaned = found.and_then(|()| self.remove_targets(&targets, by));
        for target in &targets {
            self.give_back(target.folder.id, 1);
        }
        cleaned
    }

    fn everything(&self, targets: &mut Vec<Target>) -> std::result::Result<(), CleanError> {
        let failed = |errno: Errno| CleanError::Store { path: "/".into(), error: io(errno) };
        let root = self.tree.get(NodeId::ROOT).map_err(failed)?;
        let mut names = self.names_in(&self.root).map_err(failed)?;
        let aside = root.all_versions().into_iter().filter(|(_, kept)| aside(kept).is_some());
        names.extend(aside.map(|(name, _)| name));
        names.sort_unstable();
        names.dedup();
        for name in names {
            if !self.is_private(NodeId::ROOT, known_name(&name)) {
                let path = PathBuf::from(OsStr::from_bytes(&name));
                self.tree.hold(NodeId::ROOT);
                let folder = self.tree.get(NodeId::ROOT).map_err(failed)?;
                targets.push(Target { path, folder, directory: self.root.clone(), name });
            }
        }
        Ok(())
    }

    /// Removes what a job that needs the room does not go on using, and waits for nobody meanwhile.
    pub(super) fn clean_for(
        &self,
        paths: &[PathBuf],
        job: u64,
    ) -> std::result::Result<(), CleanError> {
        let mut targets = Vec::new();
        let found = paths.iter().try_for_each(|path| self.find(path, &mut targets));
        let removed = found.and_then(|()| self.retire_targets(&targets, job));
        for target in &targets {
            self.tell_kernel_later(target.folder.id, &target.name);
            self.give_back(target.folder.id, 1);
        }
        removed.map(drop)
    }

    /// The name at the end of a path.
    fn find(&self, path: &Path, targets: &mut Vec<Target>) -> std::result::Result<(), CleanError> {
        let outside = || CleanError::NotInside(path.to_owned());
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(Name::new(name).map_err(|_| outside())?),
                Component::CurDir => {}
                _ => return Err(outside()),
            }
        }
        let last = names.pop().ok_or_else(outside)?;
        let first = names.first().copied().unwrap_or(last);
        if self.is_private(NodeId::ROOT, first) {
            return Err(CleanError::Absent(path.to_owned()));
        }
        let failed = |errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => CleanError::Absent(path.to_owned()),
            errno => CleanError::Store { path: path.to_owned(), error: io(errno) },
        };
        self.tree.hold(NodeId::ROOT);
        let mut folder = self.tree.get(NodeId::ROOT).map_err(failed)?;
        for name in names {
            let below = self.below(&folder, name);
            // It holds on to those above it.
            self.give_back(folder.id, 1);
            folder = below.map_err(failed)?;
        }
        let directory = self.directory(folder.id).map_err(failed);
        let found = directory.and_then(|directory| {
            let here = self.here(&folder, &directory, last, NOBODY).map_err(failed)?;
            let here = here.ok_or(Errno::ENOENT).map_err(failed)?;
            self.give_back(here.node.id, 1);
            Ok(directory)
        });
        match found {
            Ok(directory) => {
                let (path, name) = (path.to_owned(), last.as_bytes().into());
                targets.push(Target { path, folder, directory, name });
                Ok(())
            }
            Err(error) => {
                self.give_back(folder.id, 1);
                Err(error)
            }
        }
    }

    /// A directory in a directory, with one more reference.
    fn below(&self, folder: &Arc<Node>, name: Name<'_>) -> Result<Arc<Node>> {
        let directory = self.directory(folder.id)?;
        self.here(folder, &directory, name, NOBODY)?.map(|here| here.node).ok_or(Errno::ENOENT)
    }

    fn remove_targets(
        &self,
        targets: &[Target],
        by: u32,
    ) -> std::result::Result<Cleaned, CleanError> {
        let job = match by {
            0 => None,
            process => self.readers.known(&Caller { uid: 0, gid: 0, thread: process }),
        };
        let by = job.map_or(ADMINISTRATOR, |job| job.id);
        let (names, at) = self.retire_targets(targets, by)?;
        for target in targets {
            self.tell_kernel(target.folder.id, &target.name);
        }
        let before = |job: &Arc<crate::readers::Job>| job.began < at && job.id != by;
        let seen_by = self.readers.all().iter().filter(|job| before(job)).count();
        Ok(Cleaned { names, seen_by })
    }

    /// Takes all targets out of the live view: how many there were, and when that was.
    fn retire_targets(
        &self,
        targets: &[Target],
        by: u64,
    ) -> std::result::Result<(u64, Moment), CleanError> {
        // One moment for all: a job either sees all of it, or none.
        let at = self.readers.tick();
        let mut names = 0;
        for target in targets {
            let name = known_name(&target.name);
            let change = self.names.change(target.folder.id, &target.name);
            let seen = self.readers.oldest_besides(by).is_some_and(|began| began < at)
                && !is_lock_name(&target.name);
            let (folder, directory) = (&target.folder, &target.directory);
            match self.retire_wherever(&change, (folder, directory, name), (at, by), seen) {
                Ok(()) => names += 1,
                // Somebody else was faster.
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    let path = target.path.clone();
                    return Err(CleanError::Store { path, error: io(errno) });
                }
            }
        }
        Ok((names, at))
    }

    /// As [`Cache::tell_kernel`], for one who answers the kernel and must not wait for it meanwhile.
    pub(super) fn tell_kernel_later(&self, folder: NodeId, name: &[u8]) {
        self.retired.tell_later(folder, name);
    }

    /// Has the kernel ask for a name again, which it could not know has changed.
    pub(super) fn tell_kernel(&self, folder: NodeId, name: &[u8]) {
        let Some(kernel) = self.kernel.get() else { return };
        let told =
            kernel.expire(folder, OsStr::from_bytes(name)).and_then(|()| kernel.changed(folder));
        if let Err(error) = told {
            tracing::warn!(%error, "can't tell the kernel of a name that was removed");
        }
    }
}

fn io(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.raw())
}
