//! All that the kernel knows of us, written out and read back: node ids, references, names, open
//! handles. With it and the descriptors that go along, another process can go on serving a mount.

use std::sync::Arc;

use cachefs_mount::{Caller, HandleId, NodeId, OpenFlags};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::handles::{Handle, HandleRecord, Handles, Open};
use super::tree::{ASIDE, FileKey, NodeRecord, RETIRED, Tree, USERS, stage};
use super::{Cache, CacheOptions};
use crate::platform::fd::OwnedFd;
use crate::readers::Readers;
use crate::store::Store;

/// Comes first, and is raised when anything below changes.
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Ledger {
    next_number: u64,
    numbers: Vec<(FileKey, u64)>,
    nodes: Vec<NodeRecord>,
    next_handle: u64,
    handles: Vec<HandleRecord>,
}

/// What a mount's state is, for another process.
#[derive(Debug)]
pub struct Snapshot {
    /// Versioned; read by [`Cache::restore`].
    pub bytes: Vec<u8>,
    /// The descriptors of files without a name, in the order that `bytes` expects.
    pub descriptors: Vec<Arc<OwnedFd>>,
}

/// Why a snapshot could not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of cachefs.
    #[error(
        "the state is of version {0}, and this cachefs knows version {VERSION}; unmount, and mount again"
    )]
    Version(u32),
    /// Not what [`Cache::snapshot`] writes.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// The store could not be opened as it was.
    #[error("the store is not as it was: {0}")]
    Store(#[from] std::io::Error),
}

impl Cache {
    /// Everything that the kernel knows. Nobody may be served meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        let (nodes, descriptors) = self.tree.records();
        let (next_number, numbers) = self.tree.numbers();
        let (next_handle, handles) = (self.handles.next(), self.handles.records());
        let ledger = Ledger { next_number, numbers, nodes, next_handle, handles };
        // Fails only where memory can't be had, and then it has ended the process.
        let bytes = postcard::to_allocvec(&(VERSION, ledger)).unwrap_or_default();
        Snapshot { bytes, descriptors }
    }

    /// Goes on where the cache that wrote the snapshot was.
    pub fn restore(
        store: Arc<Store>,
        options: CacheOptions,
        readers: Arc<Readers>,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Arc<Cache>, RestoreError> {
        let (version, rest) = postcard::take_from_bytes::<u32>(bytes)
            .map_err(|_| RestoreError::Damaged("it has no version"))?;
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        let ledger: Ledger =
            postcard::from_bytes(rest).map_err(|_| RestoreError::Damaged("it ends too early"))?;
        let mut cache = Cache::bare(store, options, readers)?;
        let mut descriptors = descriptors.into_iter();
        let folder = |id| cache.tree.get(id).map(|node| (id, node.key())).map_err(damaged);
        let stages = (0..cache.stages.len()).map(stage);
        let own = stages.chain([RETIRED, ASIDE, USERS]).map(folder).collect::<Result<_, _>>()?;
        let numbers = (ledger.next_number, ledger.numbers);
        cache.tree = Tree::from_records(numbers, ledger.nodes, &mut descriptors, own)
            .ok_or(RestoreError::Damaged("it does not fit its descriptors"))?;
        cache.handles = Handles::new(ledger.next_handle);
        for record in ledger.handles {
            let (id, node) = (HandleId(record.id), NodeId(record.node));
            let open = match record.flags {
                None => Open::Directory(Mutex::default()),
                Some(flags) => cache
                    .reopen(node, OpenFlags::from_bits_truncate(flags))
                    .map_err(|errno| std::io::Error::from_raw_os_error(errno.raw()))?,
            };
            let nobody = Caller { uid: 0, gid: 0, thread: 0 };
            let job = cache.readers.job(&nobody);
            let uid = job.uid;
            cache.handles.restore(id, Handle { node, job, process: 0, uid, user: None, open });
        }
        let cache = Arc::new(cache);
        cache.begin()?;
        Ok(cache)
    }
}

fn damaged(_: cachefs_mount::Errno) -> RestoreError {
    RestoreError::Damaged("it has no folders")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use cachefs_mount::{Caller, Errno, Lookup, Name, Volume};

    use std::time::Duration;

    use super::*;
    use crate::cache::{Access, PruneOptions};
    use crate::readers::made_up::MadeUp;
    use crate::readers::{Grouping, ReaderOptions};

    const CALLER: Caller = Caller { uid: 0, gid: 0, thread: 0 };

    fn name(text: &str) -> Name<'_> {
        Name::new(OsStr::new(text)).unwrap()
    }

    fn options() -> CacheOptions {
        let keep = super::super::Keep::default();
        CacheOptions {
            access: Access::Shared { owner: (0, 0) },
            quotas: Default::default(),
            descriptors: 64,
            keep,
            pruning: PruneOptions::default(),
        }
    }

    fn readers() -> Arc<Readers> {
        let options = ReaderOptions { grouping: Grouping::Tree, idle: Duration::ZERO };
        Arc::new(Readers::new(MadeUp::new(), options))
    }

    fn create(cache: &Cache, parent: NodeId, text: &str) -> (NodeId, HandleId) {
        let flags = OpenFlags::READ | OpenFlags::WRITE;
        let (entry, opened) =
            Volume::create(cache, &CALLER, parent, name(text), 0o644, flags).unwrap();
        (entry.attributes.node, opened.handle)
    }

    #[test]
    fn another_process_goes_on_where_one_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let old = Cache::new(store.clone(), options(), readers()).unwrap();
        let entry = Volume::make_directory(&*old, &CALLER, NodeId::ROOT, name("d"), 0o755).unwrap();
        let (kept, writing) = create(&old, entry.attributes.node, "kept");
        Volume::write(&*old, writing, 0, b"before").unwrap();
        let (removed, _) = create(&old, NodeId::ROOT, "removed");
        Volume::remove_file(&*old, &CALLER, NodeId::ROOT, name("removed")).unwrap();
        let reading = Volume::open(&*old, &CALLER, kept, OpenFlags::READ).unwrap().handle;

        let Snapshot { bytes, descriptors } = old.snapshot();
        let descriptors = descriptors.iter().map(|d| d.try_clone().unwrap()).collect();
        drop(old);
        let new = Cache::restore(store, options(), readers(), &bytes, descriptors);
        // A handle of a file without a name needs that file's descriptor, which came along.
        let new = new.unwrap();

        Volume::write(&*new, writing, 6, b" and after").unwrap();
        let mut text = [0; 32];
        let length = Volume::read(&*new, reading, 0, &mut text).unwrap();
        assert_eq!(&text[..length], b"before and after");
        let gone = Volume::attributes(&*new, &CALLER, removed, None).unwrap().0;
        assert_eq!((gone.node, gone.links), (removed, 0));
        match Volume::lookup(&*new, &CALLER, entry.attributes.node, name("kept")).unwrap() {
            Lookup::Found(found) => assert_eq!(found.attributes.node, kept),
            Lookup::Absent { .. } => panic!("the name is gone"),
        }
        // Numbers go on where they were.
        let (fresh, handle) = create(&new, NodeId::ROOT, "fresh");
        assert!(fresh > removed && handle > reading);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let refused = |bytes: &[u8]| {
            Cache::restore(store.clone(), options(), readers(), bytes, Vec::new())
                .map(|_| ())
                .unwrap_err()
        };
        assert!(matches!(refused(b""), RestoreError::Damaged(_)));
        assert!(matches!(refused(&[99]), RestoreError::Version(99)));
        let good = Cache::new(store.clone(), options(), readers()).unwrap().snapshot().bytes;
        for length in 1..good.len() {
            assert!(matches!(refused(&good[..length]), RestoreError::Damaged(_)), "{length}");
        }
        let cache = Cache::new(store.clone(), options(), readers()).unwrap();
        assert_eq!(
            Volume::attributes(&*cache, &CALLER, NodeId(77), None).unwrap_err(),
            Errno::ESTALE
        );
    }
}
