//! Removal by an administrator: one change of view, however much is removed.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Name, NodeId, Result};
use parking_lot::MutexGuard;

use super::Cache;
use super::lookup::NOBODY;
use super::retire::{ADMINISTRATOR, CleanError, Cleaned};
use super::spill::aside;
use super::tree::{Node, known_name};
use super::view::Moment;
use crate::platform::ffi::OsStrExt;
use crate::readers::Job;

/// A name that is to be removed, and the directory that it is in, which has one more reference. No descriptor
/// is kept: there may be more of them than files may be open.
pub(super) struct Target {
    path: PathBuf,
    folder: Arc<Node>,
    name: Box<[u8]>,
}

/// What was done with targets.
pub(super) struct Removed {
    /// How many there were.
    pub(super) names: u64,
    /// Why some are still there.
    pub(super) errors: Vec<CleanError>,
    /// Who goes on seeing them.
    pub(super) seen_by: Vec<Arc<Job>>,
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
        let by = self.job_of(by).unwrap_or(ADMINISTRATOR);
        let tell = |folder, name: &[u8]| self.tell_kernel(folder, name);
        let removed = found.map(|()| {
            let one = self.cleaning.lock();
            self.retire_targets(&one, &targets, by, &|| {}, &tell)
        });
        for target in &targets {
            self.give_back_target(target);
        }
        let Removed { names, errors, seen_by } = removed?;
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(Cleaned { names, seen_by: seen_by.len() }),
        }
    }

    /// The number of the job that a process belongs to, if it uses the mount; 0: nobody's.
    pub(super) fn job_of(&self, process: u32) -> Option<u64> {
        let caller = Caller { uid: 0, gid: 0, thread: process };
        (process != 0).then(|| self.readers.known(&caller)).flatten().map(|job| job.id)
    }

    /// To be called for each target that was found.
    pub(super) fn give_back_target(&self, target: &Target) {
        self.give_back(target.folder.id, 1);
    }

    fn everything(&self, targets: &mut Vec<Target>) -> std::result::Result<(), CleanError> {
        let failed = |errno: Errno| CleanError::Store { path: "/".into(), error: io(errno) };
        let root = self.tree.get(NodeId::ROOT).map_err(failed)?;
        let mut names = self.names_in(&self.root).map_err(failed)?;
        let aside =
            root.all_versions_for(None).into_iter().filter(|(_, kept)| aside(kept).is_some());
        names.extend(aside.map(|(name, _)| name));
        names.sort_unstable();
        names.dedup();
        for name in names {
            if !self.is_private(NodeId::ROOT, known_name(&name)) {
                let path = PathBuf::from(OsStr::from_bytes(&name));
                self.tree.hold(NodeId::ROOT);
                let folder = self.tree.get(NodeId::ROOT).map_err(failed)?;
                targets.push(Target { path, folder, name });
            }
        }
        Ok(())
    }

    /// The name at the end of a path.
    pub(super) fn find(
        &self,
        path: &Path,
        targets: &mut Vec<Target>,
    ) -> std::result::Result<(), CleanError> {
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
            Ok(())
        });
        match found {
            Ok(()) => {
                let (path, name) = (path.to_owned(), last.as_bytes().into());
                targets.push(Target { path, folder, name });
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

    /// Takes all targets out of the live view, one after the other, for the job `by`. A job that begins
    /// meanwhile still sees all of them; one that begins later sees none.
    ///
    /// `each` is called after each, and `tell` is to tell the kernel.
    pub(super) fn retire_targets(
        &self,
        _one: &MutexGuard<'_, ()>,
        targets: &[Target],
        by: u64,
        each: &dyn Fn(),
        tell: &dyn Fn(NodeId, &[u8]),
    ) -> Removed {
        // One moment for all.
        let at = self.readers.tick_of_cleaning();
        let (mut names, mut errors) = (0, Vec::new());
        for target in targets {
            // Said again and again, or nobody would believe that it still goes on.
            self.readers.tick_of_cleaning();
            match self.retire_target(target, (at, by)) {
                Ok(()) => names += 1,
                // Somebody else was faster.
                Err(Errno::ENOENT | Errno::ESTALE) => {}
                Err(errno) => {
                    let path = target.path.clone();
                    errors.push(CleanError::Store { path, error: io(errno) });
                }
            }
            each();
        }
        for target in targets {
            self.readers.tick_of_cleaning();
            tell(target.folder.id, &target.name);
        }
        self.readers.cleaning_ended();
        self.retired.wake();
        let before = |job: &Arc<Job>| job.began < at && job.id != by;
        let seen_by = self.readers.all().into_iter().filter(before).collect();
        Removed { names, errors, seen_by }
    }

    fn retire_target(&self, target: &Target, (at, by): (Moment, u64)) -> Result<()> {
        let name = known_name(&target.name);
        let directory = self.directory(target.folder.id)?;
        let change = self.names.change(target.folder.id, &target.name);
        // Whether anybody runs who began before is no matter: one who begins before the last of them has
        // gone still sees all.
        let seen = !self.is_lock(&target.folder, name);
        self.retire_wherever(&change, (&target.folder, &directory, name), (at, by), seen)
    }

    /// As [`Cache::tell_kernel`], for one who answers the kernel and must not wait for it meanwhile.
    pub(super) fn tell_kernel_later(&self, folder: NodeId, name: &[u8]) {
        self.retired.tell_later(folder, name);
    }

    /// Has the kernel ask for a name again, which it could not know has changed.
    pub(super) fn tell_kernel(&self, folder: NodeId, name: &[u8]) {
        let Some(kernel) = self.kernel.get() else { return };
        for folder in self.numbers_of(folder) {
            let told = kernel
                .expire(folder, OsStr::from_bytes(name))
                .and_then(|()| kernel.changed(folder));
            if let Err(error) = told {
                tracing::warn!(%error, "can't tell the kernel of a name that was removed");
            }
        }
    }
}

fn io(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.raw())
}
