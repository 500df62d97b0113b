//! A volume in memory: what a [`Volume`] has to do, without a cache behind it. It is mounted by the example, and
//! what the tests of the adapter for Windows look at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cachefs_mount::{
    AllocateFlags, Attributes, Caller, Entry, Errno, FOREVER, HandleId, Kind, Listed, ListingSink,
    Lookup, Name, NodeId, Notify, OpenFlags, Opened, RenameFlags, Result, Seek, SetAttributes,
    SetTime, SetXattr, Space, Volume,
};
use parking_lot::Mutex;

/// How large the volume says it is, in blocks of [`BLOCK`] bytes.
const BLOCKS: u64 = 1 << 18;
const BLOCK: u32 = 4096;

/// A tree of files in memory.
#[derive(Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
    /// What happens right after a directory has been listed.
    after_listing: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

struct State {
    nodes: HashMap<NodeId, Node>,
    handles: HashMap<HandleId, Handle>,
    last: u64,
    notify: Option<Arc<dyn Notify>>,
    /// Threads (on Windows, processes) and users that have asked for something.
    askers: BTreeSet<(u32, u32)>,
    /// How files were opened and created.
    opened: Vec<OpenFlags>,
    /// Closed handles that were announced.
    flushed: usize,
    /// How often something was to be made last.
    synced: usize,
    /// Whether what is to be replaced or removed next becomes another node first.
    stale: bool,
}

#[derive(Clone)]
struct Node {
    attributes: Attributes,
    content: Content,
    lookups: u64,
}

#[derive(Clone)]
enum Content {
    Bytes(Vec<u8>),
    Names(BTreeMap<OsString, NodeId>),
    Target(OsString),
}

struct Handle {
    node: NodeId,
    flags: OpenFlags,
}

impl Default for State {
    fn default() -> State {
        let mut state = State {
            nodes: HashMap::new(),
            handles: HashMap::new(),
            last: 0,
            notify: None,
            askers: BTreeSet::new(),
            opened: Vec::new(),
            flushed: 0,
            synced: 0,
            stale: false,
        };
        let root = state.add(&NOBODY, Kind::Directory, 0o777, Content::Names(BTreeMap::new()));
        debug_assert_eq!(root, NodeId::ROOT);
        state
    }
}

/// Who makes the root, and stands for whoever asks past the mount.
pub(crate) const NOBODY: Caller = Caller { uid: 0, gid: 0, thread: 0 };

/// What the tests look at.
#[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
impl Memory {
    /// Who has asked for something since this was asked: threads (on Windows, processes) and users.
    pub(crate) fn askers(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.state.lock().askers).into_iter().collect()
    }

    /// How files were opened and created since this was asked.
    pub(crate) fn opened(&self) -> Vec<OpenFlags> {
        std::mem::take(&mut self.state.lock().opened)
    }

    /// Lookups that were not given back, and handles that were not released.
    pub(crate) fn held(&self) -> (u64, usize) {
        let state = self.state.lock();
        (state.nodes.values().map(|node| node.lookups).sum(), state.handles.len())
    }

    /// How often the volume was told that a handle is closed.
    pub(crate) fn flushed(&self) -> usize {
        self.state.lock().flushed
    }

    /// How often the volume was asked to make last what was written.
    pub(crate) fn synced(&self) -> usize {
        self.state.lock().synced
    }

    /// What is replaced or removed next becomes another node first, of which the volume says ESTALE.
    pub(crate) fn make_stale(&self) {
        self.state.lock().stale = true;
    }

    /// Does `this` right after a directory has been listed for the first time from now.
    pub(crate) fn after_listing(&self, this: impl FnOnce() + Send + 'static) {
        *self.after_listing.lock() = Some(Box::new(this));
    }

    /// How the system is told of changes.
    pub(crate) fn notify(&self) -> Option<Arc<dyn Notify>> {
        self.state.lock().notify.clone()
    }

    /// The names in a directory, as they are spelled.
    pub(crate) fn names(&self, directory: NodeId) -> Vec<String> {
        let mut state = self.state.lock();
        let names = state.names(directory).unwrap().keys();
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn add(&mut self, by: &Caller, kind: Kind, permissions: u16, content: Content) -> NodeId {
        let (node, now) = (NodeId(self.number()), SystemTime::now());
        let attributes = Attributes {
            node,
            kind,
            permissions,
            links: 0,
            uid: by.uid,
            gid: by.gid,
            size: 0,
            blocks: 0,
            block_size: BLOCK,
            device: 0,
            accessed: now,
            modified: now,
            changed: now,
        };
        self.nodes.insert(node, Node { attributes, content, lookups: 0 });
        node
    }

    fn node(&mut self, node: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&node).ok_or(Errno::ENOENT)
    }

    fn names(&mut self, directory: NodeId) -> Result<&mut BTreeMap<OsString, NodeId>> {
        match &mut self.node(directory)?.content {
            Content::Names(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn child(&mut self, parent: NodeId, name: Name<'_>) -> Result<NodeId> {
        self.names(parent)?.get(name.as_os_str()).copied().ok_or(Errno::ENOENT)
    }

    fn bytes(&mut self, node: NodeId) -> Result<&mut Vec<u8>> {
        match &mut self.node(node)?.content {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(Errno::EISDIR),
        }
    }

    /// Gives a file another size: as large as the volume says that it is, at most.
    fn resize(&mut self, node: NodeId, size: u64) -> Result<&mut Vec<u8>> {
        let bytes = self.bytes(node)?;
        if size > BLOCKS * u64::from(BLOCK) {
            return Err(Errno::ENOSPC);
        }
        let size = size as usize;
        let more = size.saturating_sub(bytes.len());
        bytes.try_reserve(more).map_err(|_| Errno::ENOSPC)?;
        bytes.resize(size, 0);
        Ok(bytes)
    }

    fn handle(&self, handle: HandleId) -> Result<NodeId> {
        self.handles.get(&handle).map(|handle| handle.node).ok_or(Errno::EBADF)
    }

    fn attributes(&mut self, node: NodeId) -> Result<Attributes> {
        let node = self.node(node)?;
        let size = match &node.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::Names(names) => names.len(),
            Content::Target(target) => target.len(),
        } as u64;
        Ok(Attributes { size, blocks: size.div_ceil(512), ..node.attributes })
    }

    /// One more lookup.
    fn entry(&mut self, node: NodeId) -> Result<Entry> {
        self.node(node)?.lookups += u64::from(node != NodeId::ROOT);
        let attributes = self.attributes(node)?;
        Ok(Entry { attributes, name_valid: FOREVER, attributes_valid: FOREVER })
    }

    /// Gives `node` a name, which what had it loses.
    fn name(&mut self, parent: NodeId, name: Name<'_>, node: NodeId) -> Result<()> {
        let old = self.names(parent)?.insert(name.as_os_str().to_owned(), node);
        self.node(node)?.attributes.links += 1;
        self.node(parent)?.attributes.modified = SystemTime::now();
        old.map_or(Ok(()), |old| self.loses_name(old))
    }

    fn unname(&mut self, parent: NodeId, name: Name<'_>) -> Result<()> {
        let old = self.names(parent)?.remove(name.as_os_str()).ok_or(Errno::ENOENT)?;
        self.node(parent)?.attributes.modified = SystemTime::now();
        self.loses_name(old)
    }

    fn loses_name(&mut self, node: NodeId) -> Result<()> {
        self.node(node)?.attributes.links -= 1;
        self.drop_unused(node);
        Ok(())
    }

    fn drop_unused(&mut self, node: NodeId) {
        let opened = self.handles.values().any(|handle| handle.node == node);
        let unused = |of: &Node| of.lookups == 0 && of.attributes.links == 0 && !opened;
        if node != NodeId::ROOT && self.nodes.get(&node).is_some_and(unused) {
            self.nodes.remove(&node);
        }
    }

    /// Takes back lookups; whether none is left.
    fn give_back(&mut self, node: NodeId, lookups: u64) -> bool {
        let Ok(known) = self.node(node) else { return true };
        known.lookups = known.lookups.checked_sub(lookups).expect("given back more than was given");
        let none = known.lookups == 0;
        self.drop_unused(node);
        none
    }

    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Opened {
        let handle = HandleId(self.number());
        self.handles.insert(handle, Handle { node, flags });
        let wants_flush = flags.contains(OpenFlags::WRITE);
        Opened { handle, wants_flush, alone: false, counted: true, moves: 0 }
    }

    /// Makes the node that a name stands for another one, if that was asked for.
    fn is_stale(&mut self, node: NodeId) -> Result<()> {
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        let fresh = NodeId(self.number());
        let mut copy = self.node(node)?.clone();
        (copy.attributes.node, copy.lookups) = (fresh, 0);
        self.nodes.insert(fresh, copy);
        for other in self.nodes.values_mut() {
            if let Content::Names(names) = &mut other.content {
                names.values_mut().filter(|named| **named == node).for_each(|named| *named = fresh);
            }
        }
        self.node(node)?.attributes.links = 0;
        Err(Errno::ESTALE)
    }
}

impl Volume for Memory {
    fn mounted(&self, kernel: Arc<dyn Notify>) {
        self.state.lock().notify = Some(kernel);
    }

    fn lookup(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Lookup> {
        let mut state = self.state.lock();
        state.askers.insert((caller.thread, caller.uid));
        match state.child(parent, name) {
            Ok(node) => Ok(Lookup::Found(state.entry(node)?)),
            Err(Errno::ENOENT) => Ok(Lookup::Absent { valid: FOREVER }),
            Err(errno) => Err(errno),
        }
    }

    fn forget(&self, node: NodeId, lookups: u64) -> bool {
        self.state.lock().give_back(node, lookups)
    }

    fn attributes(
        &self,
        _: &Caller,
        node: NodeId,
        _: Option<HandleId>,
    ) -> Result<(Attributes, Duration)> {
        Ok((self.state.lock().attributes(node)?, FOREVER))
    }

    fn set_attributes(
        &self,
        _: &Caller,
        node: NodeId,
        _: Option<HandleId>,
        changes: &SetAttributes,
    ) -> Result<(Attributes, Duration)> {
        let mut state = self.state.lock();
        if let Some(size) = changes.size {
            state.resize(node, size)?;
        }
        let time = |set: SetTime| match set {
            SetTime::Now => SystemTime::now(),
            SetTime::At(at) => at,
        };
        let of = &mut state.node(node)?.attributes;
        of.permissions = changes.permissions.unwrap_or(of.permissions);
        of.uid = changes.uid.unwrap_or(of.uid);
        of.gid = changes.gid.unwrap_or(of.gid);
        of.accessed = changes.accessed.map_or(of.accessed, time);
        of.modified = changes.modified.map_or(of.modified, time);
        of.changed = SystemTime::now();
        Ok((state.attributes(node)?, FOREVER))
    }

    fn read_link(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        match &self.state.lock().node(node)?.content {
            Content::Target(target) => Ok(target.as_encoded_bytes().to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn make_node(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        kind: Kind,
        permissions: u16,
    ) -> Result<Entry> {
        self.make(caller, parent, name, kind, permissions, Content::Bytes(Vec::new()))
    }

    fn make_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
    ) -> Result<Entry> {
        let content = Content::Names(BTreeMap::new());
        self.make(caller, parent, name, Kind::Directory, permissions, content)
    }

    fn make_symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &OsStr,
    ) -> Result<Entry> {
        self.make(caller, parent, name, Kind::Symlink, 0o777, Content::Target(target.to_owned()))
    }

    fn make_link(&self, _: &Caller, node: NodeId, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        let mut state = self.state.lock();
        if state.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        state.name(parent, name, node)?;
        state.entry(node)
    }

    fn remove_file(&self, _: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        let mut state = self.state.lock();
        let node = state.child(parent, name)?;
        if state.node(node)?.attributes.kind == Kind::Directory {
            return Err(Errno::EISDIR);
        }
        state.unname(parent, name)
    }

    fn remove_directory(&self, _: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        let mut state = self.state.lock();
        let node = state.child(parent, name)?;
        if !state.names(node)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        state.is_stale(node)?;
        state.unname(parent, name)
    }

    fn rename(
        &self,
        _: &Caller,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: RenameFlags,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let node = state.child(parent, name)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            return Err(Errno::EINVAL);
        }
        if let Ok(there) = state.child(new_parent, new_name) {
            if flags.contains(RenameFlags::NO_REPLACE) {
                return Err(Errno::EEXIST);
            }
            if there == node {
                return Ok(());
            }
            let directory = state.node(node)?.attributes.kind == Kind::Directory;
            match (directory, &state.node(there)?.content) {
                (false, Content::Names(_)) => return Err(Errno::EISDIR),
                (true, Content::Names(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Content::Bytes(_) | Content::Target(_)) => return Err(Errno::ENOTDIR),
                _ => {}
            }
        }
        state.name(new_parent, new_name, node)?;
        state.unname(parent, name)
    }

    fn open(&self, caller: &Caller, node: NodeId, flags: OpenFlags) -> Result<Opened> {
        let mut state = self.state.lock();
        state.askers.insert((caller.thread, caller.uid));
        state.bytes(node)?;
        state.opened.push(flags);
        if flags.contains(OpenFlags::TRUNCATE) {
            state.is_stale(node)?;
            state.bytes(node)?.clear();
        }
        Ok(state.open(node, flags))
    }

    fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        let mut state = self.state.lock();
        let node = match state.child(parent, name) {
            Ok(_) if flags.contains(OpenFlags::EXCLUSIVE) => return Err(Errno::EEXIST),
            Ok(node) => node,
            Err(Errno::ENOENT) => {
                let bytes = Content::Bytes(Vec::new());
                let node = state.add(caller, Kind::File, permissions, bytes);
                state.name(parent, name, node)?;
                node
            }
            Err(errno) => return Err(errno),
        };
        state.opened.push(flags);
        let opened = state.open(node, flags);
        Ok((state.entry(node)?, opened))
    }

    fn backing(&self, _: HandleId) -> Result<Arc<File>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn read(&self, handle: HandleId, offset: u64, into: &mut [u8]) -> Result<usize> {
        let mut state = self.state.lock();
        let node = state.handle(handle)?;
        let bytes = state.bytes(node)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let length = into.len().min(bytes.len() - offset);
        into[..length].copy_from_slice(&bytes[offset..offset + length]);
        Ok(length)
    }

    fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<usize> {
        let mut state = self.state.lock();
        if !state.handles.get(&handle).is_some_and(|held| held.flags.contains(OpenFlags::WRITE)) {
            return Err(Errno::EBADF);
        }
        let node = state.handle(handle)?;
        let end = offset.saturating_add(data.len() as u64);
        let size = end.max(state.bytes(node)?.len() as u64);
        let bytes = state.resize(node, size)?;
        bytes[offset as usize..end as usize].copy_from_slice(data);
        state.node(node)?.attributes.modified = SystemTime::now();
        Ok(data.len())
    }

    fn flush(&self, _: &Caller, handle: HandleId) -> Result<()> {
        let mut state = self.state.lock();
        state.handle(handle)?;
        state.flushed += 1;
        Ok(())
    }

    fn release(&self, handle: HandleId) {
        let mut state = self.state.lock();
        if let Some(held) = state.handles.remove(&handle) {
            state.drop_unused(held.node);
        }
    }

    fn sync(&self, handle: HandleId, _: bool) -> Result<()> {
        let mut state = self.state.lock();
        state.handle(handle)?;
        state.synced += 1;
        Ok(())
    }

    fn allocate(&self, _: HandleId, _: u64, _: u64, _: AllocateFlags) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn seek(&self, handle: HandleId, offset: u64, seek: Seek) -> Result<u64> {
        let mut state = self.state.lock();
        let node = state.handle(handle)?;
        let size = state.bytes(node)?.len() as u64;
        match seek {
            _ if offset >= size => Err(Errno::ENXIO),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    fn copy_range(&self, _: (HandleId, u64), _: (HandleId, u64), _: u64) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }

    fn open_directory(&self, _: &Caller, node: NodeId) -> Result<(HandleId, bool)> {
        let mut state = self.state.lock();
        state.names(node)?;
        Ok((state.open(node, OpenFlags::READ).handle, true))
    }

    fn read_directory(
        &self,
        _: &Caller,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn ListingSink,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let directory = state.handle(handle)?;
        let names = state.names(directory)?;
        let dots = [".", ".."].map(|dot| (OsString::from(dot), directory));
        let all: Vec<_> = dots.into_iter().chain(names.clone()).collect();
        for (next, (name, node)) in (1..).zip(&all).skip(offset as usize) {
            // Gone meanwhile.
            let Ok(attributes) = state.attributes(*node) else { continue };
            let wanted = next > 2 && sink.wants_attributes();
            // Counted before it is taken: it may be given back at once, when the lock is free again.
            let entry = wanted.then(|| state.entry(*node)).transpose()?;
            let listed = Listed { name, node: *node, kind: attributes.kind, next, entry };
            if !parking_lot::MutexGuard::unlocked(&mut state, || sink.take(&listed)) {
                if wanted {
                    state.give_back(*node, 1);
                }
                break;
            }
        }
        Ok(())
    }

    fn release_directory(&self, handle: HandleId) {
        self.release(handle);
        let then = self.after_listing.lock().take();
        then.into_iter().for_each(|then| then());
    }

    fn sync_directory(&self, handle: HandleId) -> Result<()> {
        self.state.lock().handle(handle).map(drop)
    }

    fn space(&self) -> Result<Space> {
        Ok(Space {
            blocks: BLOCKS,
            blocks_free: BLOCKS / 2,
            blocks_available: BLOCKS / 4,
            files: 1 << 20,
            files_free: 1 << 19,
            block_size: BLOCK,
            fragment_size: BLOCK,
            name_max: 255,
        })
    }

    fn xattr(&self, _: &Caller, _: NodeId, _: &OsStr) -> Result<Vec<u8>> {
        Err(Errno::ENODATA)
    }

    fn list_xattrs(&self, _: &Caller, _: NodeId) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn set_xattr(&self, _: &Caller, _: NodeId, _: &OsStr, _: &[u8], _: SetXattr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn remove_xattr(&self, _: &Caller, _: NodeId, _: &OsStr) -> Result<()> {
        Err(Errno::ENODATA)
    }
}

impl Memory {
    fn make(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        kind: Kind,
        permissions: u16,
        content: Content,
    ) -> Result<Entry> {
        let mut state = self.state.lock();
        match state.child(parent, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let node = state.add(caller, kind, permissions, content);
        state.name(parent, name, node)?;
        state.entry(node)
    }
}
