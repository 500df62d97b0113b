//! Files that are opened with `open(path, "w")`: what one does in the midst of what another does. Lock files, too,
//! into which programs write who has the lock; all who open one lock the same file.

use std::sync::Arc;
use std::time::Duration;

use cachefs::cache::{Access, Cache, CacheOptions, Keep, PruneOptions};
use cachefs::readers::made_up::MadeUp;
use cachefs::readers::{Grouping, ReaderOptions, Readers};
use cachefs::store::{Store, Wishes};
use cachefs_mount::{
    Caller, Errno, HandleId, Lookup, NodeId, OpenFlags, RenameFlags, Result, Volume,
};

use crate::engine::{Deaf, name};

const FILE: &str = "guard";

/// A store with a file in it, and processes that are jobs of their own.
struct Ground {
    cache: Arc<Cache>,
    system: Arc<MadeUp>,
    _directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let directory = tempfile::tempdir().unwrap();
        // Who had the lock last.
        std::fs::write(directory.path().join(FILE), "100\n").unwrap();
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

    /// Once somebody has looked what becomes of a process, another one writes.
    fn is_written_after_next_look(&self, handle: HandleId) {
        let cache = self.cache.clone();
        self.system.after_next_look(move || {
            cache.write(handle, 0, b"101\n").unwrap();
        });
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
        match self.ground.cache.lookup(&self.caller, NodeId::ROOT, name(FILE)).unwrap() {
            Lookup::Found(entry) => entry.attributes.node,
            Lookup::Absent { .. } => panic!("the file is gone"),
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

    fn writes(&self, handle: HandleId, text: &str) {
        self.ground.cache.write(handle, 0, text.as_bytes()).unwrap();
    }

    fn closes(&self, handle: HandleId) {
        self.ground.cache.flush(&self.caller, handle).unwrap();
        self.ground.cache.release(handle);
    }

    fn reads(&self) -> String {
        let handle = self.opens(self.finds(), OpenFlags::READ).unwrap();
        let mut text = [0; 64];
        let length = self.ground.cache.read(handle, 0, &mut text).unwrap();
        self.ground.cache.release(handle);
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    /// Opens the file to write it from the start, which another one is about to do, too, and has been told of.
    fn opens_what_is_told_to(&self, other: &Job<'_>) -> (NodeId, HandleId) {
        self.is_told_to_come_again();
        other.is_told_to_come_again();
        let (told, handle) = self.comes_again();
        assert_eq!((other.finds(), other.finds()), (told, told));
        (told, handle)
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
    holder.writes(handle, "101\n");
    assert_eq!((waiter.finds(), waiter.finds()), (held, held));
    ground.cache.flush(&holder.caller, handle).unwrap();
    ground.system.unlock(held.0);
    ground.cache.release(handle);
    assert_eq!(comer.finds(), held);
    for job in [comer, waiter] {
        job.opens(held, OpenFlags::WRITE | OpenFlags::TRUNCATE).unwrap();
    }
}

#[test]
fn who_was_told_of_a_file_that_its_writer_gives_up_writes_one_of_his_own() {
    let ground = Ground::new();
    let [killed, writer, reader] = [101, 102, 103].map(|pid| ground.job(pid));
    let (told, handle) = killed.opens_what_is_told_to(&writer);
    killed.writes(handle, "101\n");
    ground.system.kill(101);
    killed.closes(handle);
    let handle = writer.opens(told, OpenFlags::WRITE | OpenFlags::TRUNCATE).unwrap();
    assert_eq!(reader.reads(), "100\n");
    writer.writes(handle, "102\n");
    writer.closes(handle);
    assert_eq!(reader.reads(), "102\n");
}

#[test]
fn who_was_told_of_a_file_that_has_its_name_by_now_does_not_empty_it() {
    let ground = Ground::new();
    let [first, second, reader] = [101, 102, 103].map(|pid| ground.job(pid));
    let (told, handle) = first.opens_what_is_told_to(&second);
    first.writes(handle, "101\n");
    first.closes(handle);
    let handle = second.opens(told, OpenFlags::WRITE | OpenFlags::TRUNCATE).unwrap();
    assert_eq!(reader.reads(), "101\n");
    second.writes(handle, "102\n");
    assert_eq!(reader.reads(), "101\n");
    second.closes(handle);
    assert_eq!(reader.reads(), "102\n");
}

/// The kernel has opened the file, and lets go of it before the process has got a descriptor.
#[test]
fn who_is_killed_while_he_opens_a_file_has_not_emptied_it() {
    let ground = Ground::new();
    let [first, second, reader] = [101, 102, 103].map(|pid| ground.job(pid));
    for job in [&first, &second] {
        job.is_told_to_come_again();
    }
    let (_, handle) = first.comes_again();
    let (_, shared) = second.comes_again();
    ground.cache.release(shared);
    ground.cache.release(handle);
    assert_eq!(reader.reads(), "100\n");
}

#[test]
fn who_is_killed_while_he_creates_a_file_has_not_created_it() {
    let ground = Ground::new();
    let [killed, reader] = [101, 102].map(|pid| ground.job(pid));
    let flags = OpenFlags::WRITE | OpenFlags::TRUNCATE;
    let (caller, new) = (&killed.caller, name("new"));
    let (_, opened) = ground.cache.create(caller, NodeId::ROOT, new, 0o644, flags).unwrap();
    ground.cache.release(opened.handle);
    let found = ground.cache.lookup(&reader.caller, NodeId::ROOT, new).unwrap();
    assert!(matches!(found, Lookup::Absent { .. }));
}

#[test]
fn who_dies_while_another_one_writes_what_both_have_opened_leaves_what_was_there() {
    let ground = Ground::new();
    let [writer, killed, reader] = [101, 102, 103].map(|pid| ground.job(pid));
    for job in [&writer, &killed] {
        job.is_told_to_come_again();
    }
    let (_, handle) = writer.comes_again();
    let (_, shared) = killed.comes_again();
    ground.system.kill(102);
    ground.is_written_after_next_look(handle);
    killed.closes(shared);
    assert_eq!(reader.reads(), "100\n");
    writer.closes(handle);
    assert_eq!(reader.reads(), "101\n");
}

/// The kernel comes again once only.
#[test]
fn who_replaces_a_file_that_has_another_number_by_now_comes_again_once() {
    let ground = Ground::new();
    let [first, second, third] = [101, 102, 103].map(|pid| ground.job(pid));
    let (told, handle) = first.opens_what_is_told_to(&second);
    first.writes(handle, "101\n");
    first.closes(handle);
    let flags = OpenFlags::WRITE | OpenFlags::TRUNCATE;
    assert_eq!(third.opens(told, flags).unwrap_err(), Errno::ESTALE);
    let (_, handle) = third.comes_again();
    third.writes(handle, "103\n");
    third.closes(handle);
    assert_eq!(third.reads(), "103\n");
}

/// Who has taken a name away tells the kernel, which remembers a listing for all, after he has had his answer.
#[test]
fn who_lists_a_directory_from_which_a_name_has_just_gone_is_told_what_is_there() {
    let ground = Ground::new();
    let [mover, lister] = [101, 102].map(|pid| ground.job(pid));
    let lists_as_remembered = || {
        let (handle, remembered) =
            ground.cache.open_directory(&lister.caller, NodeId::ROOT).unwrap();
        ground.cache.release_directory(handle);
        remembered
    };
    assert!(lists_as_remembered());
    let (root, none) = (NodeId::ROOT, RenameFlags::empty());
    ground.cache.rename(&mover.caller, root, name(FILE), root, name("moved"), none).unwrap();
    assert!(!lists_as_remembered());
}
