//! Names that the store can't take: versions aside, and what is gone.

use std::ffi::OsStr;
use std::sync::Arc;

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, Result};

use crate::cache::Cache;
use crate::cache::additions::How;
use crate::cache::lookup::Seen;
use crate::cache::namespace::mode;
use crate::cache::resolve::{errno, key, kind, status};
use crate::cache::tree::{ASIDE, KeptList, Node, known_name};
use crate::cache::view::{Reader, Stage};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::{AtFlags, FileType, OFlags};
use crate::readers::Job;

/// The version that hides the live one from everyone.
pub(in crate::cache) fn aside(kept: &KeptList) -> Option<NodeId> {
    aside_of(kept, None)
}

/// As [`aside`], from that user alone if there is one.
pub(in crate::cache) fn aside_of(kept: &KeptList, user: Option<u32>) -> Option<NodeId> {
    let found = kept.iter().find(|kept| kept.version.is(&Stage::Aside, user));
    found.map(|kept| kept.version.what)
}

/// Whether the live version was removed, which the store could not take.
pub(in crate::cache) fn is_gone(kept: &KeptList) -> bool {
    kept.iter().any(|kept| kept.version.is(&Stage::Gone, None))
}

/// Whether the live version is not what a name stands for.
pub(in crate::cache) fn is_hidden(kept: &KeptList) -> bool {
    aside(kept).is_some() || is_gone(kept)
}

/// What a name stands for, for somebody who is not writing it; with one reference to its node.
#[derive(Debug)]
pub(in crate::cache) struct Here {
    pub(in crate::cache) node: Arc<Node>,
    pub(in crate::cache) how: Lies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Lies {
    /// The store does not have it under that name.
    Aside,
    /// It is live.
    Live,
    /// It was removed, and is kept for the one who asks.
    Kept,
}

impl Cache {
    /// Whether a name of a directory is not changed in the store.
    pub(in crate::cache) fn goes_aside(&self, parent: NodeId, name: Name<'_>) -> bool {
        let out_of_reach = || {
            let folder = self.tree.get(parent).map(|folder| self.tree.versioned(&folder));
            folder.is_ok_and(|folder| self.is_out_of_reach(&folder))
        };
        self.is_hidden(parent, name) || self.spill.read_only && out_of_reach()
    }

    /// Whether a name of a directory stands for something else than what is live.
    pub(in crate::cache) fn is_hidden(&self, parent: NodeId, name: Name<'_>) -> bool {
        self.spill.is_used()
            && self.tree.get(parent).is_ok_and(|folder| {
                let folder = self.tree.versioned(&folder);
                is_hidden(&folder.versions(name))
            })
    }

    /// Whether a directory that a job has made lacks something in the store: it is not to be given its
    /// name there, under which others would take it for whole once what was spilled has gone.
    pub(in crate::cache) fn is_incomplete(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
    ) -> bool {
        if !self.spill.is_used() {
            return false;
        }
        let Ok(folder) = self.tree.get(parent).map(|folder| self.tree.versioned(&folder)) else {
            return false;
        };
        let there = self.directory(parent).and_then(|at| status(&*at, name.as_bytes()));
        let node = there.ok().and_then(|there| self.tree.find(key(&there)));
        node.is_some_and(|node| {
            let job = self.readers.job(caller);
            node.kind == Kind::Directory
                && node.holds_aside()
                // What lies in the area goes with it as a whole.
                && !self.lies_in_area(&folder)
                && self.is_own(job.id, (&folder, name), node.id, |_| true)
        })
    }

    /// What a name stands for.
    pub(in crate::cache) fn here(
        &self,
        folder: &Arc<Node>,
        directory: &OwnedFd,
        name: Name<'_>,
        reader: Reader,
    ) -> Result<Option<Here>> {
        let kept = folder.versions(name);
        if let Some(id) = aside(&kept) {
            self.tree.hold(id);
            return Ok(Some(Here { node: self.tree.get(id)?, how: Lies::Aside }));
        }
        if !is_gone(&kept) {
            match status(directory, name.as_bytes()) {
                Ok(status) => {
                    let node = self.tree.know(key(&status), kind(&status), folder.id, name);
                    return Ok(Some(Here { node, how: Lies::Live }));
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        match self.choose(&kept, None, reader) {
            Seen::Kept(id) if self.tree.hold(id) => {
                Ok(Some(Here { node: self.tree.get(id)?, how: Lies::Kept }))
            }
            _ => Ok(None),
        }
    }

    /// A name stands for a node, whatever the store has; takes over a reference to it.
    pub(in crate::cache) fn put_aside(&self, folder: &Arc<Node>, name: Name<'_>, node: &Node) {
        self.spill.note_used();
        self.numbers.spilled();
        node.note_aside(folder.id, name);
        self.note_held_aside(folder);
        if let Some(old) = self.take_aside(folder, name) {
            self.discard(&old);
        }
        self.add_version(folder, name, node.id, Stage::Aside);
    }

    /// Everything above a version aside lacks something in the store.
    fn note_held_aside(&self, folder: &Arc<Node>) {
        let mut at = folder.clone();
        loop {
            at.note_holds_aside();
            match at.place().map(|place| self.tree.get(place.parent())) {
                Some(Ok(above)) => at = above,
                _ => return,
            }
        }
    }

    /// Takes the version aside away from a name: its node, with the reference that it had.
    pub(super) fn take_aside(&self, folder: &Arc<Node>, name: Name<'_>) -> Option<Arc<Node>> {
        let mut found = None;
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            let at = list.iter().position(|kept| kept.version.is(&Stage::Aside, None));
            found = at.map(|at| list.remove(at).version.what);
        });
        self.tree.get(found?).ok()
    }

    /// A node that was aside under a name which it has lost; gives back the reference.
    pub(in crate::cache) fn discard(&self, node: &Arc<Node>) {
        if let Some(place) = node.places().into_iter().find(|place| !place.is_public())
            && let Err(errno) = self.remove_own(&place)
        {
            tracing::warn!(%errno, "can't remove what was spilled; unmounting does");
        }
        self.give_back(node.id, 1);
    }

    /// The live version of a name is gone, although the store still has it.
    pub(super) fn note_gone(&self, folder: &Arc<Node>, name: Name<'_>) {
        self.spill.note_used();
        if !is_gone(&folder.versions(name)) {
            // Of nothing, there is nothing to hold on to.
            self.add_version(folder, name, NodeId(0), Stage::Gone);
        }
    }

    /// The store has taken something under that name after all: nothing hides it any more.
    pub(in crate::cache) fn unhide(&self, folder: &Arc<Node>, name: Name<'_>) {
        if !self.spill.is_used() {
            return;
        }
        if let Some(old) = self.take_aside(folder, name) {
            self.discard(&old);
        }
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            list.retain(|kept| !kept.version.is(&Stage::Gone, None));
        });
    }

    /// Makes something under a name in the spill area: `make` makes it there, under the name that it gets.
    fn make_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        make: impl FnOnce(&OwnedFd, &str) -> Result<()>,
    ) -> Result<Entry> {
        let directory = self.directory(parent)?;
        let (job, folder, _change) = self.making(caller, parent, name)?;
        if let Some(here) = self.here(&folder, &directory, name, job.reader())? {
            self.give_back(here.node.id, 1);
            if here.how != Lies::Kept {
                return Err(Errno::EEXIST);
            }
        }
        let area = self.spill_folder()?;
        let number = self.next_number().to_string();
        make(&area, &number)?;
        if let Some((uid, gid)) = self.owner_of_new(caller) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            platform::fs::chownat(&*area, &*number, Some(uid), Some(gid), flags).map_err(errno)?;
        }
        let found = status(&*area, number.as_bytes())?;
        let node = self.tree.know(key(&found), kind(&found), ASIDE, known_name(number.as_bytes()));
        self.put_aside(&folder, name, &node);
        self.note_made(&job, node.id, &folder, name);
        self.kept_entry(node.id)
    }

    fn note_made(&self, job: &Job, node: NodeId, folder: &Node, name: Name<'_>) {
        self.note_added(node, job, (folder.id, name), How::Exclusively);
    }

    pub(in crate::cache) fn make_directory_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
    ) -> Result<Entry> {
        self.make_aside(caller, parent, name, |area, number| {
            platform::fs::mkdirat(area, number, mode(permissions)).map_err(errno)
        })
    }

    pub(in crate::cache) fn make_symlink_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &OsStr,
    ) -> Result<Entry> {
        self.make_aside(caller, parent, name, |area, number| {
            platform::fs::symlinkat(target.as_bytes(), area, number).map_err(errno)
        })
    }

    pub(in crate::cache) fn make_node_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        kind: Kind,
        permissions: u16,
    ) -> Result<Entry> {
        self.make_aside(caller, parent, name, |area, number| {
            let mode = mode(permissions);
            match kind {
                Kind::File => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    platform::fs::openat(area, number, flags, mode).map(drop).map_err(errno)
                }
                Kind::Fifo => {
                    platform::fs::mknodat(area, number, FileType::Fifo, mode, 0).map_err(errno)
                }
                Kind::Socket => {
                    platform::fs::mknodat(area, number, FileType::Socket, mode, 0).map_err(errno)
                }
                Kind::CharDevice | Kind::BlockDevice => Err(Errno::EPERM),
                Kind::Directory | Kind::Symlink => Err(Errno::EINVAL),
            }
        })
    }

    /// One more name of a file. Where the filesystem can't have it, it is the same file all the same.
    pub(in crate::cache) fn make_link_aside(
        &self,
        caller: &Caller,
        id: NodeId,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<Entry> {
        self.publish_node(id, self.readers.job(caller).id)?;
        let directory = self.directory(parent)?;
        let (job, folder, _change) = self.making(caller, parent, name)?;
        if let Some(here) = self.here(&folder, &directory, name, job.reader())? {
            self.give_back(here.node.id, 1);
            if here.how != Lies::Kept {
                return Err(Errno::EEXIST);
            }
        }
        let node = self.tree.get(id)?;
        let area = self.spill_folder()?;
        let number = self.next_number().to_string();
        let source = self.descriptor(&node)?;
        if platform::fs::link_open(&*source, &*area, number.as_bytes()).is_ok() {
            self.tree.add_place(&node, ASIDE, known_name(number.as_bytes()));
        }
        self.tree.hold(id);
        self.put_aside(&folder, name, &node);
        self.note_made(&job, id, &folder, name);
        self.kept_entry(id)
    }
}
