//! The engine: a [`Store`] as a [`Volume`].

mod access;
mod additions;
mod attributes;
mod clean;
mod descriptors;
mod drafts;
mod files;
mod handles;
mod history;
mod ledger;
mod listing;
mod lookup;
mod name_locks;
#[cfg(test)]
mod name_locks_tests;
mod namespace;
mod numbers;
mod own;
mod parting;
mod pruning;
mod publish;
mod quota;
mod reaper;
mod references;
mod removal;
mod renaming;
mod resolve;
mod retire;
mod spared;
mod spill;
mod sync;
mod tree;
mod usher;
pub mod view;
mod xattrs;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cachefs_mount::{
    AllocateFlags, Attributes, Caller, Entry, Errno, HandleId, Kind, ListingSink, Lookup, Name,
    NodeId, Notify, OpenFlags, Opened, RenameFlags, Result, Seek, SetAttributes, SetXattr, Space,
    Volume,
};
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

pub use self::access::Access;
use self::access::Part;
use self::additions::Additions;
use self::descriptors::Descriptors;
use self::drafts::Draft;
use self::handles::Handles;
use self::history::History;
pub use self::history::Minute;
pub use self::ledger::{RestoreError, Snapshot};
use self::lookup::Steps;
use self::name_locks::NameLocks;
use self::numbers::Numbers;
pub use self::numbers::{OTHER, ToolNumbers, Totals};
use self::own::Own;
use self::parting::Partings;
use self::pruning::Pruner;
pub use self::pruning::{
    Inventory, Known, Limits, Listed, PruneError, PruneOptions, PruneRequest, Pruned, PrunedUnit,
};
use self::quota::Quota;
pub use self::quota::{Limit, Quotas, Usage};
use self::references::Products;
use self::retire::Retired;
pub use self::retire::{Amount, CleanError, Cleaned, Holding, Keep};
use self::spared::Namings;
pub use self::spill::Degraded;
use self::spill::Spill;
use self::tree::{ASIDE, RETIRED, STAGES, Tree, USERS, stage};
pub use self::usher::Usher;
use self::usher::Ushering;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::readers::Readers;
use crate::store::Store;

/// How a cache behaves.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Who may do what.
    pub access: Access,
    /// How much each user may have: to himself, or in the store.
    pub quotas: Quotas,
    /// About how many descriptors of the store are kept open for later use.
    pub descriptors: usize,
    /// How long what was removed is kept.
    pub keep: Keep,
    /// How it is pruned.
    pub pruning: PruneOptions,
}

/// A store, ready to be mounted.
pub struct Cache {
    options: CacheOptions,
    store: Arc<Store>,
    readers: Arc<Readers>,
    root: Arc<OwnedFd>,
    /// Folders in which files are written, some thousands in each after the other.
    stages: Vec<Arc<OwnedFd>>,
    retired_folder: Arc<OwnedFd>,
    /// The daemon's own user and group, who new files belong to by themselves.
    own_user: (u32, u32),
    tree: Tree,
    handles: Handles,
    descriptors: Descriptors,
    /// By the numbers of their nodes.
    drafts: DashMap<u64, Arc<Draft>>,
    steps: Steps,
    additions: Additions,
    /// Of the running jobs, by their numbers.
    products: DashMap<u64, Products>,
    namings: Namings,
    partings: Partings,
    /// How many directories are open and listed.
    listings: AtomicUsize,
    /// Names that a job sees while it lists a directory, by the job and the directory.
    kept_while_listed: DashMap<(u64, u64), Vec<Box<[u8]>>>,
    retired: Retired,
    spill: Spill,
    /// None: everyone may have what there is.
    quota: Option<Quota>,
    pruner: Pruner,
    /// An administrator, or the daemon itself, removes what is to go as one. Locked before `names`.
    cleaning: Mutex<()>,
    own: Own,
    /// The operating system, once it shows this.
    kernel: OnceLock<Arc<dyn Notify>>,
    /// Of names in our own folders, of versions and of records.
    next_number: AtomicU64,
    /// Locked before all else.
    names: NameLocks,
    /// Shared by whoever moves or removes a name, from the system call until the tree tells of it;
    /// exclusive for one who could not find a node where the tree said. Locked after `names`, and
    /// before anything in the tree.
    moves: RwLock<()>,
    numbers: Numbers,
    ushering: Ushering,
    history: History,
}

/// How a cache is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that the operating system knows.
    pub nodes: u64,
    /// Open files and directories.
    pub handles: u64,
}

impl Cache {
    /// A cache of what lies in `store`, used by `readers`. Nothing is read but the status of the
    /// root and of the store's own folders.
    pub fn new(
        store: Arc<Store>,
        options: CacheOptions,
        readers: Arc<Readers>,
    ) -> io::Result<Arc<Cache>> {
        let cache = Arc::new(Cache::bare(store, options, readers)?);
        cache.begin()?;
        Ok(cache)
    }

    /// Without anything that runs in the background.
    fn bare(store: Arc<Store>, options: CacheOptions, readers: Arc<Readers>) -> io::Result<Cache> {
        let root = store.root().try_clone_to_owned()?;
        let (stages, retired_folder) = (store.stages(STAGES)?, store.folder("retired")?);
        let spill = Spill::new(&store)?;
        let own = Own::new(&store, &options)?;
        let quota = Quota::new(&store, &options);
        let key = |folder: &OwnedFd| {
            let status = resolve::status(folder, b"");
            status.map(|s| resolve::key(&s)).map_err(|e| io::Error::from_raw_os_error(e.raw()))
        };
        let mut own_keys =
            vec![(RETIRED, key(&retired_folder)?), (ASIDE, spill.key), (USERS, own.key)];
        for (number, folder) in stages.iter().enumerate() {
            own_keys.push((stage(number), key(folder)?));
        }
        let descriptors = Descriptors::new(options.descriptors);
        Ok(Cache {
            options,
            tree: Tree::new(key(&root)?, own_keys),
            handles: Handles::new(1),
            descriptors,
            drafts: DashMap::new(),
            steps: Steps::default(),
            additions: Additions::new(),
            products: DashMap::new(),
            namings: Namings::new(),
            partings: Partings::default(),
            listings: AtomicUsize::new(0),
            kept_while_listed: DashMap::new(),
            retired: Retired::default(),
            spill,
            quota,
            pruner: Pruner::new(),
            cleaning: Mutex::new(()),
            own,
            kernel: OnceLock::new(),
            // One mount after the other begins in another of the folders.
            next_number: AtomicU64::new(u64::from(std::process::id()) * drafts::ON_ONE_STAGE),
            names: NameLocks::new(),
            own_user: (
                platform::process::geteuid().as_raw(),
                platform::process::getegid().as_raw(),
            ),
            root: Arc::new(root),
            stages: stages.into_iter().map(Arc::new).collect(),
            retired_folder: Arc::new(retired_folder),
            store,
            readers,
            moves: RwLock::new(()),
            numbers: Numbers::new(),
            ushering: Ushering::default(),
            history: History::default(),
        })
    }

    /// Starts what runs in the background.
    fn begin(self: &Arc<Self>) -> io::Result<()> {
        self.start_reaper()?;
        self.start_herald()?;
        self.start_probing()?;
        self.start_pruner()?;
        self.start_counting()?;
        let cache = Arc::downgrade(self);
        self.readers.when_one_ends(Box::new(move |job| {
            if let Some(cache) = cache.upgrade() {
                cache.drop_drafts_of(job.id);
                cache.forget_products(job.id);
                cache.forget_kept_while_listed(job.id);
                cache.retired.wake();
            }
        }));
        Ok(())
    }

    /// A number that nothing has had yet.
    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// How it is doing.
    pub fn counts(&self) -> Counts {
        Counts { nodes: self.tree.len() as u64, handles: self.handles.len() as u64 }
    }

    /// Does something in a directory that is not everyone's, or not by one who writes for everyone; it makes
    /// so many names.
    fn apart<T>(
        &self,
        caller: &Caller,
        (parent, names): (NodeId, u64),
        inside: impl FnOnce() -> Result<T>,
        beside: impl FnOnce(u32) -> Result<T>,
    ) -> Option<Result<T>> {
        let part = self.tree.get(parent).and_then(|folder| self.part(caller, &folder));
        match part {
            Ok(Part::Everyones) => None,
            // Whoever has too much can remove it.
            Ok(Part::Own(_)) if names == 0 => Some(inside()),
            Ok(Part::Own(user)) => Some(self.charge(user, 0, names).and_then(|()| inside())),
            Ok(Part::Beside(user)) => Some(beside(user)),
            Err(errno) => Some(Err(errno)),
        }
    }

    /// The store that it shows.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Volume for Cache {
    fn mounted(&self, kernel: Arc<dyn Notify>) {
        // Once: it is mounted once.
        let _ = self.kernel.set(kernel);
    }

    fn lookup(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Lookup> {
        self.lookup(caller, parent, name)
    }

    fn takes_long(&self, caller: &Caller) -> bool {
        self.is_to_copy(caller)
    }

    fn forget(&self, node: NodeId, lookups: u64) -> bool {
        self.give_back(node, lookups)
    }

    fn attributes(
        &self,
        _: &Caller,
        node: NodeId,
        _: Option<HandleId>,
    ) -> Result<(Attributes, Duration)> {
        self.attributes(node)
    }

    fn set_attributes(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        changes: &SetAttributes,
    ) -> Result<(Attributes, Duration)> {
        self.set_attributes(caller, node, handle, changes)
    }

    fn read_link(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        self.read_link(node)
    }

    fn make_node(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        kind: Kind,
        permissions: u16,
    ) -> Result<Entry> {
        let inside = || self.make_node(caller, parent, name, kind, permissions);
        let beside = |user| self.make_node_beside(caller, user, (parent, name), kind, permissions);
        if let Some(done) = self.apart(caller, (parent, 1), inside, beside) {
            return done;
        }
        if !self.goes_aside(parent, name) && !self.is_over(caller, parent)? {
            match self.make_node(caller, parent, name, kind, permissions) {
                Err(errno) if self.takes_over(errno) => {}
                made => return made,
            }
        }
        self.make_node_aside(caller, parent, name, kind, permissions)
    }

    fn make_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
    ) -> Result<Entry> {
        let inside = || self.make_directory(caller, parent, name, permissions);
        let beside = |user| self.make_directory_beside(caller, user, (parent, name), permissions);
        if let Some(done) = self.apart(caller, (parent, 1), inside, beside) {
            return done;
        }
        if !self.goes_aside(parent, name) && !self.is_over(caller, parent)? {
            match self.make_directory(caller, parent, name, permissions) {
                Err(errno) if self.takes_over(errno) => {}
                made => return made,
            }
        }
        self.make_directory_aside(caller, parent, name, permissions)
    }

    fn make_symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &OsStr,
    ) -> Result<Entry> {
        let inside = || self.make_symlink(caller, parent, name, target);
        let beside = |user| self.make_symlink_beside(caller, user, (parent, name), target);
        if let Some(done) = self.apart(caller, (parent, 1), inside, beside) {
            return done;
        }
        if !self.goes_aside(parent, name) && !self.is_over(caller, parent)? {
            match self.make_symlink(caller, parent, name, target) {
                Err(errno) if self.takes_over(errno) => {}
                made => return made,
            }
        }
        self.make_symlink_aside(caller, parent, name, target)
    }

    fn make_link(
        &self,
        caller: &Caller,
        node: NodeId,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<Entry> {
        let what = self.tree.get(node)?;
        if self.is_foreign(caller, &what)? {
            return self.wants_own(caller, &what, false);
        }
        let inside = || self.make_link(caller, node, parent, name);
        let beside = |user| self.make_link_beside(caller, user, node, (parent, name));
        if let Some(done) = self.apart(caller, (parent, 1), inside, beside) {
            return done;
        }
        if !self.goes_aside(parent, name) && !self.would_come_in(&what, parent) {
            match self.make_link(caller, node, parent, name) {
                // What lies in the area can't have a name in the store.
                Err(errno) if self.is_for_the_area(errno) => {}
                made => return made,
            }
        }
        self.make_link_aside(caller, node, parent, name)
    }

    fn remove_file(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        let inside = || self.remove_file(caller, parent, name);
        let beside = |user| self.remove_file_beside(caller, user, (parent, name));
        if let Some(done) = self.apart(caller, (parent, 0), inside, beside) {
            return done;
        }
        if !self.goes_aside(parent, name) {
            match self.remove_file(caller, parent, name) {
                Err(errno) if self.is_for_the_area(errno) => {}
                removed => return removed,
            }
        }
        self.remove_file_aside(caller, parent, name)
    }

    fn remove_directory(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()> {
        let inside = || self.remove_directory(caller, parent, name);
        let beside = |user| self.remove_directory_beside(caller, user, (parent, name));
        if let Some(done) = self.apart(caller, (parent, 0), inside, beside) {
            return done;
        }
        let aside = self.goes_aside(parent, name);
        if !aside {
            match self.remove_directory(caller, parent, name) {
                // Something in it may be gone only for us.
                Err(Errno::ENOTEMPTY) if self.spill.is_used() => {}
                Err(errno) if self.is_for_the_area(errno) => {}
                removed => return removed,
            }
        }
        self.remove_directory_aside(caller, parent, name, !aside)
    }

    fn rename(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: RenameFlags,
    ) -> Result<()> {
        let parts = [parent, new_parent]
            .map(|folder| self.tree.get(folder).and_then(|folder| self.part(caller, &folder)));
        match parts {
            [Ok(Part::Everyones), Ok(Part::Everyones)] => {}
            [Ok(Part::Own(_)), Ok(Part::Own(_))] => {
                return self.rename(caller, (parent, name), (new_parent, new_name), flags);
            }
            [Ok(Part::Beside(user)), Ok(_)] | [Ok(_), Ok(Part::Beside(user))] => {
                let (from, to) = ((parent, name), (new_parent, new_name));
                return self.rename_beside(caller, user, from, to, flags);
            }
            [Ok(_), Err(errno)] | [Err(errno), _] => return Err(errno),
            // One is not trusted in the one and trusted in the other.
            [Ok(_), Ok(_)] => return Err(Errno::EACCES),
        }
        if !self.goes_aside(parent, name)
            && !self.goes_aside(new_parent, new_name)
            && !self.would_bring_in(parent, new_parent)
            && !self.is_incomplete(caller, parent, name)
        {
            self.note_named(new_parent, new_name, self.readers.job(caller).id);
            match self.rename(caller, (parent, name), (new_parent, new_name), flags) {
                // Between the store and the area nothing is moved.
                Err(errno) if self.is_for_the_area(errno) => {}
                // The store has not taken what was written under the old name.
                Err(Errno::ENOENT) if self.is_hidden(parent, name) => {}
                renamed => return renamed,
            }
        }
        self.rename_aside(caller, (parent, name), (new_parent, new_name), flags)
    }

    fn open(&self, caller: &Caller, node: NodeId, flags: OpenFlags) -> Result<Opened> {
        self.open(caller, node, flags)
    }

    fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        let inside = || self.create(caller, parent, name, permissions, flags);
        let beside = |user| self.create_beside(caller, user, (parent, name), permissions, flags);
        if let Some(done) = self.apart(caller, (parent, 1), inside, beside) {
            return done;
        }
        if !self.goes_aside(parent, name) && !self.is_over(caller, parent)? {
            match self.create(caller, parent, name, permissions, flags) {
                Err(errno) if self.takes_over(errno) => {}
                created => return created,
            }
        }
        self.create_aside(caller, parent, name, permissions, flags)
    }

    fn backing(&self, handle: HandleId) -> Result<Arc<File>> {
        self.backing(handle)
    }

    fn read(&self, handle: HandleId, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.read(handle, offset, into)
    }

    fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<usize> {
        self.write(handle, offset, data)
    }

    fn flush(&self, caller: &Caller, handle: HandleId) -> Result<()> {
        // The kernel has written back what was stored through mappings before it asked.
        self.close_draft(&*self.handles.get(handle)?, Some(caller))
    }

    fn release(&self, handle: HandleId) {
        self.release(handle);
    }

    fn sync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        self.sync(handle, data_only)
    }

    fn allocate(
        &self,
        handle: HandleId,
        offset: u64,
        length: u64,
        flags: AllocateFlags,
    ) -> Result<()> {
        self.allocate(handle, offset, length, flags)
    }

    fn seek(&self, handle: HandleId, offset: u64, seek: Seek) -> Result<u64> {
        self.seek(handle, offset, seek)
    }

    fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<usize> {
        self.copy_range(from, to, length)
    }

    fn open_directory(&self, caller: &Caller, node: NodeId) -> Result<(HandleId, bool)> {
        self.open_directory(caller, node)
    }

    fn read_directory(
        &self,
        _: &Caller,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn ListingSink,
    ) -> Result<()> {
        self.read_directory(handle, offset, sink)
    }

    fn release_directory(&self, handle: HandleId) {
        self.release_directory(handle);
    }

    fn sync_directory(&self, handle: HandleId) -> Result<()> {
        self.sync_directory(handle)
    }

    fn space(&self) -> Result<Space> {
        // Who looks for room before he writes is told of that where his writes go.
        let area = self.spill.folder().filter(|_| self.spills_at_once());
        let of = area.as_deref().unwrap_or(&self.root);
        let space = platform::fs::fstatvfs(of).map_err(resolve::errno)?;
        Ok(Space {
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
            block_size: space.f_bsize as u32,
            fragment_size: space.f_frsize as u32,
            name_max: space.f_namemax as u32,
        })
    }

    fn xattr(&self, _: &Caller, node: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        self.xattr(node, name)
    }

    fn list_xattrs(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        self.list_xattrs(node)
    }

    fn set_xattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        how: SetXattr,
    ) -> Result<()> {
        self.before_xattr(caller, node)?;
        self.set_xattr(node, name, value, how)
    }

    fn remove_xattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<()> {
        self.before_xattr(caller, node)?;
        self.remove_xattr(node, name)
    }
}
