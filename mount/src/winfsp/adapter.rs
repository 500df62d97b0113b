//! What Windows asks, as calls of a [`Volume`]: opening, closing, and names. What is asked of an open file is in
//! `open`.

use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::attributes::{
    DIRECTORY_FILE, Disposition, NON_DIRECTORY_FILE, new_permissions, open_flags,
};
use super::listing::Listing;
use super::names::{can_be, may_be_new, split};
use super::open::{Handle, Open};
use super::status::Status;
use super::tree::Tree;
use crate::{Attributes, Caller, Errno, Kind, Name, OpenFlags, RenameFlags, SetAttributes, Volume};

/// How something is to be opened or created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Who wants it.
    pub(super) caller: Caller,
    /// The disposition and options of `NtCreateFile`.
    pub(super) options: u32,
    /// The access rights that it was granted.
    pub(super) access: u32,
}

pub(super) struct Adapter<V> {
    pub(super) tree: Arc<Tree<V>>,
    /// Held by whoever finds out where a file ends to write there. By node, as hard links are different files
    /// to the driver.
    pub(super) ends: [Mutex<()>; 16],
}

impl<V: Volume> Adapter<V> {
    pub(super) fn new(volume: Arc<V>) -> Adapter<V> {
        Adapter { tree: Arc::new(Tree::new(volume)), ends: Default::default() }
    }

    fn volume(&self) -> &V {
        &self.tree.volume
    }

    /// What a path leads to.
    pub(super) fn look(&self, caller: &Caller, names: &[&[u16]]) -> Result<Attributes, Status> {
        Ok(self.tree.walk(caller, names)?.attributes)
    }

    /// Opens what is there. What is to be replaced is opened by [`Adapter::overwrite`], which follows: it may
    /// become another file by that.
    pub(super) fn open(&self, wish: &Wish, names: &[&[u16]]) -> Result<Open<V>, Status> {
        again(|| {
            let walk = self.tree.walk(&wish.caller, names)?;
            let directory = walk.attributes.kind == Kind::Directory;
            if directory && wish.options & NON_DIRECTORY_FILE != 0 {
                return Err(Status::FILE_IS_A_DIRECTORY);
            }
            if !directory && wish.options & DIRECTORY_FILE != 0 {
                return Err(Status::NOT_A_DIRECTORY);
            }
            let open = Open::new(walk, wish);
            if !open.flags.is_empty() && Disposition::of(wish.options) != Disposition::Replace {
                open.handle(self.volume())?;
            }
            Ok(open)
        })
    }

    /// Creates and opens what is not there, with `permissions`, which the attributes `bits` may restrict.
    pub(super) fn create(
        &self,
        wish: &Wish,
        names: &[&[u16]],
        bits: u32,
        permissions: u16,
    ) -> Result<Open<V>, Status> {
        if names.is_empty() {
            return Err(Status::OBJECT_NAME_COLLISION);
        }
        again(|| {
            let (mut walk, name) = self.tree.walk_to_parent(&wish.caller, names)?;
            if let Some((entry, _)) = walk.find(&wish.caller, name)? {
                walk.give_back(&entry);
                return Err(Status::OBJECT_NAME_COLLISION);
            }
            if !may_be_new(name) {
                return Err(Status::OBJECT_NAME_INVALID);
            }
            let name = OsString::from_wide(name);
            let (parent, own) = (walk.node(), Name::new(&name)?);
            let directory = wish.options & DIRECTORY_FILE != 0;
            let permissions = new_permissions(permissions, bits, directory);
            let mut handle = None;
            let entry = if directory {
                self.volume().make_directory(&wish.caller, parent, own, permissions)?
            } else {
                let flags = created(wish);
                let (entry, opened) =
                    self.volume().create(&wish.caller, parent, own, permissions, flags)?;
                handle = Some(Handle::from(&opened));
                entry
            };
            self.tree.spellings.changed(parent);
            walk.enter(&entry, name);
            let open = Open::new(walk, wish);
            *open.file.write() = handle;
            Ok(open)
        })
    }

    /// Makes the file empty, or a new one of it.
    pub(super) fn overwrite(&self, open: &Open<V>, bits: u32) -> Result<Attributes, Status> {
        let flags = open.flags | OpenFlags::READ | OpenFlags::WRITE | OpenFlags::TRUNCATE;
        let mut file = open.file.write();
        if let Some(old) = file.take() {
            self.volume().release(old.id);
        }
        let mut walk = open.walk.lock();
        let node = walk.node();
        let opened = match self.volume().open(&open.caller, node, flags) {
            // The new version is another node, which the name leads to when it is asked for again.
            Err(Errno::ESTALE) => {
                let path = self.tree.path(node).ok_or(Status::FILE_DELETED)?;
                *walk = self.tree.walk(&open.caller, &split(&path)?)?;
                self.volume().open(&open.caller, walk.node(), flags)?
            }
            opened => opened?,
        };
        let handle = file.insert(Handle::from(&opened)).id;
        let (node, caller) = (walk.node(), &open.caller);
        let (now, _) = self.volume().attributes(caller, node, Some(handle))?;
        let Some(permissions) = super::attributes::permissions(&now, bits) else { return Ok(now) };
        let changes = SetAttributes { permissions: Some(permissions), ..Default::default() };
        Ok(self.volume().set_attributes(caller, node, Some(handle), &changes)?.0)
    }

    /// The last handle of what was opened has been closed. Mapped pages may still be written.
    pub(super) fn cleanup(&self, open: &Open<V>) {
        if let Some(file) = open.file.read().as_ref().filter(|file| file.wants_flush)
            && let Err(error) = self.volume().flush(&open.caller, file.id)
        {
            tracing::warn!(%error, "a file that was closed could not be finished");
        }
    }

    /// Nothing will be asked of it any more.
    pub(super) fn close(&self, open: &Open<V>) {
        if let Some(file) = open.file.write().take() {
            self.volume().release(file.id);
        }
    }

    /// Whether the name could be removed when it is closed.
    pub(super) fn can_remove(&self, open: &Open<V>) -> Result<(), Status> {
        let attributes = open.walk.lock().attributes;
        if attributes.node == crate::NodeId::ROOT {
            return Err(Status::CANNOT_DELETE);
        }
        if attributes.kind == Kind::Directory
            && !Listing::new(self.volume(), &open.caller, &attributes)?.is_empty()
        {
            return Err(Status::DIRECTORY_NOT_EMPTY);
        }
        Ok(())
    }

    /// Removes the name, unless it stands for something else by now.
    pub(super) fn remove(&self, open: &Open<V>, names: &[&[u16]]) -> Result<(), Status> {
        let mut first = true;
        again(|| {
            let (mut walk, name) = self.tree.walk_to_parent(&open.caller, names)?;
            let parent = walk.node();
            let Some((entry, name)) = walk.find(&open.caller, name)? else { return Ok(()) };
            walk.enter(&entry, name.clone());
            // When it is asked for again, the same directory is another node.
            let expected = std::mem::take(&mut first).then(|| open.walk.lock().node());
            if expected.is_some_and(|expected| expected != walk.node()) {
                return Ok(());
            }
            let name = Name::new(&name)?;
            match walk.attributes.kind {
                Kind::Directory => self.volume().remove_directory(&open.caller, parent, name)?,
                _ => self.volume().remove_file(&open.caller, parent, name)?,
            }
            self.tree.spellings.changed(parent);
            Ok(())
        })
    }

    /// Renames what is open; what has the new name is replaced only if `replace`.
    pub(super) fn rename(
        &self,
        open: &Open<V>,
        caller: &Caller,
        from: &[&[u16]],
        to: &[&[u16]],
        replace: bool,
    ) -> Result<(), Status> {
        again(|| {
            let (mut walk, name) = self.tree.walk_to_parent(caller, from)?;
            let parent = walk.node();
            let (entry, name) = walk.find(caller, name)?.ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
            walk.enter(&entry, name.clone());

            let (target, new_name) = self.tree.walk_to_parent(caller, to)?;
            // On Linux nobody asks a volume for that.
            if target.passes(walk.node()) {
                return Err(Status::INVALID_PARAMETER);
            }
            let new_parent = target.node();
            let new_name = match target.find(caller, new_name)? {
                Some((there, spelled)) => {
                    target.give_back(&there);
                    // By name: what has two names is not renamed to another spelling of the second.
                    let itself = spelled == name && new_parent == parent;
                    // Who replaces something takes over how it is spelled: it is one step then.
                    if itself { OsString::from_wide(new_name) } else { spelled }
                }
                None if may_be_new(new_name) => OsString::from_wide(new_name),
                None => return Err(Status::OBJECT_NAME_INVALID),
            };
            if new_parent == parent && new_name == name {
                // A volume would refuse it for what is there: itself.
                return Ok(());
            }
            let flags = if replace { RenameFlags::empty() } else { RenameFlags::NO_REPLACE };
            let (from, to) = (Name::new(&name)?, Name::new(&new_name)?);
            self.volume().rename(caller, parent, from, new_parent, to, flags)?;
            self.tree.spellings.changed(parent);
            self.tree.spellings.changed(new_parent);
            for node in [walk.node(), open.walk.lock().node()] {
                self.tree.renamed(node, new_parent, &new_name);
            }
            Ok(())
        })
    }

    /// What `name` stands for in an open directory, and how it is spelled.
    pub(super) fn look_in(
        &self,
        open: &Open<V>,
        name: &[u16],
    ) -> Result<(Attributes, OsString), Status> {
        if !can_be(name) {
            return Err(Status::OBJECT_NAME_INVALID);
        }
        let walk = open.walk.lock();
        let (entry, name) = walk.find(&open.caller, name)?.ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
        walk.give_back(&entry);
        Ok((entry.attributes, name))
    }

    /// Begins a search in an open directory.
    pub(super) fn list(&self, open: &Open<V>) -> Result<Arc<Listing>, Status> {
        let attributes = open.walk.lock().attributes;
        if attributes.kind != Kind::Directory {
            return Err(Status::NOT_A_DIRECTORY);
        }
        let listing = Arc::new(Listing::new(self.volume(), &open.caller, &attributes)?);
        *open.listing.lock() = Some(listing.clone());
        Ok(listing)
    }
}

/// How a file that is not there is created: what is open to others from the start, or replaced, is told apart.
fn created(wish: &Wish) -> OpenFlags {
    let how = match Disposition::of(wish.options) {
        Disposition::Create => OpenFlags::EXCLUSIVE,
        Disposition::Replace => OpenFlags::TRUNCATE,
        Disposition::Open => OpenFlags::empty(),
    };
    let flags = open_flags(wish.access, wish.options);
    how | if flags.is_empty() { OpenFlags::READ } else { flags }
}

/// Does `call` once more when the volume answers ESTALE: names lead somewhere else by now.
fn again<T>(mut call: impl FnMut() -> Result<T, Status>) -> Result<T, Status> {
    match call() {
        Err(Status::FILE_INVALID) => call(),
        answer => answer,
    }
}
