//! Finding a known node in the store again.
//!
//! Every step is one component below a directory descriptor, and never follows a symbolic link
//! (`O_NOFOLLOW`), so that no name leads out of the store. Nothing is locked meanwhile: what is
//! found is compared with what was looked for, and if a rename came in between, it is tried again
//! while renames wait.

use std::sync::Arc;

use cachefs_mount::{Errno, Kind, Name, NodeId, Result};

use super::Cache;
use super::tree::{ASIDE, FileKey, Node, Place, RETIRED, USERS, stage_of};
use crate::platform;
use crate::platform::fd::{AsFd, BorrowedFd, OwnedFd};
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use crate::platform::io::Errno as Os;

/// What is asked of the store about a file.
pub(super) const WANTED: StatxFlags = StatxFlags::BASIC_STATS;

pub(super) fn errno(errno: Os) -> Errno {
    Errno::new(errno.raw_os_error())
}

pub(super) fn key(status: &Statx) -> FileKey {
    let device = platform::fs::makedev(status.stx_dev_major, status.stx_dev_minor);
    FileKey { device, inode: status.stx_ino }
}

pub(super) fn kind(status: &Statx) -> Kind {
    known_kind(FileType::from_raw_mode(u32::from(status.stx_mode))).unwrap_or(Kind::File)
}

/// None where the filesystem does not say.
pub(super) fn known_kind(found: FileType) -> Option<Kind> {
    Some(match found {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// `statx(2)` of a name in a directory, or of the descriptor itself when `name` is empty.
pub(super) fn status(directory: impl AsFd, name: &[u8]) -> Result<Statx> {
    let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    flags.set(AtFlags::EMPTY_PATH, name.is_empty());
    platform::fs::statx(directory, name, flags, WANTED).map_err(errno)
}

/// Opens one name in a directory; it is not followed if it is a symbolic link, and not waited for
/// if it is a fifo.
pub(super) fn open_at(directory: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let always = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    platform::fs::openat(directory, name, flags | always, Mode::empty()).map_err(errno)
}

impl Cache {
    /// A descriptor (`O_PATH`) of a known directory.
    pub(super) fn directory(&self, id: NodeId) -> Result<Arc<OwnedFd>> {
        if let Some(kept) = self.descriptors.directory(id) {
            return Ok(kept);
        }
        let node = self.tree.get(id)?;
        if let Some(first) = self.first_of(&node) {
            return self.directory(first.id);
        }
        // Up to the nearest directory that is still open, and down again; not by recursion, as
        // trees may be deeper than a stack.
        let mut missing = vec![node];
        let mut found = loop {
            let node = &missing[missing.len() - 1];
            if node.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            if let Some(orphan) = node.orphan() {
                missing.pop();
                break orphan;
            }
            if let Some(own) = self.own_folder(node.id) {
                missing.pop();
                break own;
            }
            let parent = node.place().ok_or(Errno::ESTALE)?.parent();
            if let Some(kept) = self.descriptors.directory(parent) {
                break kept;
            }
            missing.push(self.tree.get(parent)?);
        };
        while let Some(node) = missing.pop() {
            found = Arc::new(self.open_directory_below(&node, &found)?);
            self.descriptors.keep_directory(node.id, found.clone());
            // Forgotten meanwhile, it would be kept for nobody.
            if self.tree.get(node.id).is_err() {
                self.descriptors.drop(node.id);
            }
        }
        Ok(found)
    }

    /// The first node of a directory, which is where that is; none for what has a way of its own.
    fn first_of(&self, node: &Node) -> Option<Arc<Node>> {
        if node.face == 0 || node.is_orphan() {
            return None;
        }
        self.tree.get(node.first()?).ok()
    }

    /// The folders that are always open.
    pub(super) fn own_folder(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        match id {
            NodeId::ROOT => Some(self.root.clone()),
            RETIRED => Some(self.retired_folder.clone()),
            ASIDE => self.spill.folder(),
            USERS => self.own.folder(),
            _ => stage_of(id).and_then(|number| self.stages.get(number).cloned()),
        }
    }

    fn open_directory_below(&self, node: &Node, parent: &OwnedFd) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if let Some(place) = node.place()
            && let Ok(descriptor) = open_at(parent, &place.name, flags)
            && key(&status(&descriptor, b"")?) == node.key()
        {
            return Ok(descriptor);
        }
        // It was moved or removed just now.
        self.at_place(node, |directory, name| {
            let descriptor = open_at(directory, name, flags)?;
            let key = key(&status(&descriptor, b"")?);
            Ok((descriptor, key))
        })
    }

    /// Does `act` at a name of `node`: it gets the directory and the name, and says which file it
    /// met there, so that the answer counts only if that was the right one.
    pub(super) fn at_place<T>(
        &self,
        node: &Node,
        act: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<(T, FileKey)>,
    ) -> Result<T> {
        let try_at = |place: &Place| match self
            .directory(place.parent())
            .and_then(|directory| act(directory.as_fd(), &place.name))
        {
            Ok((found, met)) if met == node.key() => Some(Ok(found)),
            Ok(_) => None,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ESTALE) => None,
            Err(errno) => Some(Err(errno)),
        };
        if let Some(result) = node.place().as_ref().and_then(try_at) {
            return result;
        }
        // Renames hold this shared from their system call until the tree tells of it.
        let _no_renames = self.moves.write();
        // `directory` never comes here with a move under way, and so never waits for this lock
        // twice: below it, every name is where the tree says.
        let mut places = node.places();
        for place in places.drain(..) {
            if let Some(result) = self.at_settled_place(&place, node, &act) {
                return result;
            }
        }
        Err(Errno::ESTALE)
    }

    /// As in [`Cache::at_place`], with all ancestors opened plainly from the root.
    fn at_settled_place<T>(
        &self,
        place: &Place,
        node: &Node,
        act: &impl Fn(BorrowedFd<'_>, &[u8]) -> Result<(T, FileKey)>,
    ) -> Option<Result<T>> {
        let directory = self.settled_directory(place.parent()).ok()?;
        match act(directory.as_fd(), &place.name) {
            Ok((found, met)) if met == node.key() => Some(Ok(found)),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => None,
            Err(errno) => Some(Err(errno)),
        }
    }

    fn settled_directory(&self, id: NodeId) -> Result<Arc<OwnedFd>> {
        let mut names = Vec::new();
        let mut next = id;
        let mut found = loop {
            if let Some(own) = self.own_folder(next) {
                break own;
            }
            let node = self.tree.get(next)?;
            if let Some(orphan) = node.orphan() {
                break orphan;
            }
            let place = node.place().ok_or(Errno::ESTALE)?;
            next = place.parent();
            names.push(place.name);
        };
        while let Some(name) = names.pop() {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            found = Arc::new(open_at(&found, &name, flags)?);
        }
        Ok(found)
    }

    /// A descriptor (`O_PATH`) of a known node of any kind.
    pub(super) fn descriptor(&self, node: &Node) -> Result<Arc<OwnedFd>> {
        if let Some(first) = self.first_of(node) {
            return self.descriptor(&first);
        }
        if node.id == NodeId::ROOT {
            return Ok(self.root.clone());
        }
        if let Some(orphan) = node.orphan() {
            return Ok(orphan);
        }
        let opened = self.at_place(node, |directory, name| {
            let descriptor = open_at(directory, name, OFlags::PATH)?;
            let key = key(&status(&descriptor, b"")?);
            Ok((Arc::new(descriptor), key))
        });
        self.or_orphan(node, opened)
    }

    /// What the store says of a known node.
    pub(super) fn node_status(&self, node: &Node) -> Result<Statx> {
        if let Some(first) = self.first_of(node) {
            return self.node_status(&first);
        }
        if node.id == NodeId::ROOT {
            return status(&*self.root, b"");
        }
        if let Some(orphan) = node.orphan() {
            return status(&*orphan, b"");
        }
        let found = self.at_place(node, |directory, name| {
            let status = status(directory, name)?;
            Ok((status, key(&status)))
        });
        match found {
            Err(Errno::ESTALE) => status(&*node.orphan().ok_or(Errno::ESTALE)?, b""),
            found => found,
        }
    }

    /// Opens a known file for reading or writing.
    pub(super) fn open_node(&self, node: &Node, flags: OFlags) -> Result<OwnedFd> {
        let reopen = |orphan: Arc<OwnedFd>| {
            let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            platform::fs::open_again(&*orphan, flags).map_err(errno)
        };
        if let Some(orphan) = node.orphan() {
            return reopen(orphan);
        }
        let opened = self.at_place(node, |directory, name| {
            let descriptor = open_at(directory, name, flags)?;
            let key = key(&status(&descriptor, b"")?);
            Ok((descriptor, key))
        });
        match opened {
            Err(Errno::ESTALE) => reopen(node.orphan().ok_or(Errno::ESTALE)?),
            opened => opened,
        }
    }

    /// A node that lost its last name while it was looked for has a descriptor instead.
    fn or_orphan(&self, node: &Node, found: Result<Arc<OwnedFd>>) -> Result<Arc<OwnedFd>> {
        match found {
            Err(Errno::ESTALE) => node.orphan().ok_or(Errno::ESTALE),
            found => found,
        }
    }

    /// Refuses the daemon's own folder, which a mount does not have.
    pub(super) fn is_private(&self, parent: NodeId, name: Name<'_>) -> bool {
        parent == NodeId::ROOT && name.as_os_str().as_bytes() == crate::store::PRIVATE.as_bytes()
    }
}
