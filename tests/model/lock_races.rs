//! Lock files that are opened with `open(path, "w")`, as programs do that write into them who has the lock: what one
//! of them does in the midst of what another does. All who open one lock the same file.

use std::sync::Arc;
use std::time::Duration;

use cachefs::cache::{Access, Cache, CacheOptions, Keep, PruneOptions};
use cachefs::readers::made_up::MadeUp;
use cachefs::readers::{Grouping, ReaderOptions, Readers};
use cachefs::store::{Store, Wishes};
use cachefs_mount::{Caller, Errno, HandleId, Lookup, NodeId, OpenFlags, Result, Volume};

use crate::engine::{Deaf, name};

const LOCK: &str = "guard";

/// A store with a lock file in it, and processes that are jobs of their own.
struct Ground {
    cache: Arc<Cache>,
    system: Arc<MadeUp>,
    _directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let directory = tempfile::tempdir().unwrap();
        // Who had the lock last.
        std::fs::write(directory.path().join(LOCK), "100\n").unwrap();
        let system = MadeUp::new();
        let options = ReaderOptions { grouping: Grouping::Tree, idle: Duration::from_secs(5) };
        let readers = Arc::new(Readers::new(system.clone(), options));
        let store = Arc::new(Store::open_as(directory.path(), &Wishes::default()).unwrap());
        let options = CacheOptions {
            access: Access::Shared { owner: (0, 0) },
            quotas: Default::default(),
            descriptors: 16,
            keep: Keep::default(),
            pruning: PruneOptions::default(),
        };
        let cache = Cache::new(store, options, readers).unwrap();
        cache.mounted(Arc::new(Deaf));
        Ground { cache, system, _directory: directory }
    }

    fn job(&self, pid: u32) -> Job<'_> {
        self.system.start(pid, 1);
        Job { ground: self, caller: Caller { uid: 0, gid: 0, thread: pid } }
    }

    /// Once somebody has looked whether anybody locks a file, that one is locked, and says by whom.
    fn is_taken_after_next_look(&self, held: NodeId, handle: HandleId) {
        let (cache, system) = (self.cache.clone(), self.system.clone());
        self.system.after_next_look(move || {
            system.lock(held.0);
            cache.write(handle, 0, b"101\n").unwrap();
        });
    }
}

struct Job<'a> {
    ground: &'a Ground,
    caller: Caller,
}

impl Job<'_> {
    fn finds(&self) -> NodeId {
        match self.ground.cache.lookup(&self.caller, NodeId::ROOT, name(LOCK)).unwrap() {
            Lookup::Found(entry) => entry.attributes.node,
            Lookup::Absent { .. } => panic!("the lock file is gone"),
        }
    }

    fn opens(&self, node: NodeId, flags: OpenFlags) -> Result<HandleId> {
        Ok(self.ground.cache.open(&self.caller, node, flags)?.handle)
    }

    /// Opens what it has found, to write it from the start, and is told to come again.
    fn is_told_to_come_again(&self) {
        let node = self.finds();
        let told = self.opens(node, OpenFlags::WRITE | OpenFlags::TRUNCATE);
        assert_eq!(told.unwrap_err(), Errno::ESTALE);
    }

    /// Comes again, as the kernel does: it asks twice, and opens what it is told then.
    fn comes_again(&self) -> (NodeId, HandleId) {
        self.finds();
        let node = self.finds();
        (node, self.opens(node, OpenFlags::WRITE | OpenFlags::TRUNCATE).unwrap())
    }
}

#[test]
fn who_comes_while_another_one_takes_the_lock_gets_the_same_file() {
    let ground = Ground::new();
    let [holder, comer] = [101, 102].map(|pid| ground.job(pid));
    holder.is_told_to_come_again();
    let (held, handle) = holder.comes_again();
    comer.is_told_to_come_again();
    ground.is_taken_after_next_look(held, handle);
    assert_eq!(comer.comes_again().0, held);
}

#[test]
fn who_comes_while_the_lock_becomes_another_file_gets_that() {
    let ground = Ground::new();
    let [holder, waiter, comer, looker] = [101, 102, 103, 104].map(|pid| ground.job(pid));
    // So that it is looked whether somebody locks the old one.
    looker.opens(looker.finds(), OpenFlags::READ).unwrap();
    for job in [&holder, &waiter, &comer] {
        job.is_told_to_come_again();
    }
    let (held, handle) = holder.comes_again();
    assert_eq!(waiter.comes_again().0, held);
    ground.is_taken_after_next_look(held, handle);
    assert_eq!(comer.comes_again().0, held);
}

#[test]
fn who_was_told_of_a_lock_that_everybody_has_left_gets_the_same_file_as_who_comes() {
    let ground = Ground::new();
    let [holder, waiter, comer] = [101, 102, 103].map(|pid| ground.job(pid));
    for job in [&holder, &waiter] {
        job.is_told_to_come_again();
    }
    let (held, handle) = holder.comes_again();
    ground.system.lock(held.0);
    ground.cache.write(handle, 0, b"101\n").unwrap();
    assert_eq!((waiter.finds(), waiter.finds()), (held, held));
    ground.cache.flush(&holder.caller, handle).unwrap();
    ground.system.unlock(held.0);
    ground.cache.release(handle);
    assert_eq!(comer.finds(), held);
    for job in [comer, waiter] {
        job.opens(held, OpenFlags::WRITE | OpenFlags::TRUNCATE).unwrap();
    }
}
