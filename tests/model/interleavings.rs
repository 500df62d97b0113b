//! Publishing, retiring and looking up at the same time, in every order of steps that a scheduler of our own
//! can think of.
//!
//! The locks of names are the engine's, from its very file, on primitives that the scheduler knows; so is
//! the function that decides who sees what. What they protect is a miniature: what a name stands for in the
//! store, and its other versions, each read and written in a step of its own, as the engine does.
//!
//! What it does not explore are orders that only a weakly ordered memory shows: each step is seen by all at once.

use std::ffi::OsStr;

use cachefs::cache::view::{self, During, Moment, Reader, Stage, Version};
use cachefs_mount::{Name, NodeId};
use shuttle::sync::Arc;
use shuttle::thread;
use sync::{AtomicU64, Mutex, Ordering};

#[path = "../../src/cache/name_locks.rs"]
#[allow(dead_code, reason = "the engine uses more of it")]
mod name_locks;

use name_locks::{Look, NameLocks};

/// What the engine's `sync` is here.
mod sync {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    pub(super) use shuttle::sync::MutexGuard;
    pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering, fence};
    pub(super) use shuttle::thread::yield_now as pause;

    pub(super) type RandomState = BuildHasherDefault<DefaultHasher>;

    #[derive(Debug, Default)]
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

const NAMES: [&str; 2] = ["a", "b"];

/// Runs from before everything until after everything, and changes nothing.
const OLD: Reader = Reader { id: 9, began: Moment(0), during: During::NONE, user: None };

/// Begins when everything has happened.
const NEW: Reader = Reader { id: 10, began: Moment(u64::MAX), during: During::NONE, user: None };

fn writer(id: u64) -> Reader {
    Reader { id, began: Moment(0), during: During::NONE, user: None }
}

type Job = Box<dyn FnOnce(&Miniature) + Send>;

/// How those who look do so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    /// With the locks' help.
    Whole,
    /// So, too, but they note where a file is before they know that it is still there.
    Hasty,
    /// Without.
    None,
}

/// A directory with two names, in which a number is a file.
struct Miniature {
    locks: NameLocks,
    store: [Mutex<Option<u32>>; 2],
    others: [Mutex<Vec<Version<u32>>>; 2],
    clock: AtomicU64,
    care: Care,
    /// Files that lookups have made known, and have not given back.
    known: AtomicU64,
    /// Under which name a file is known to be; by its number.
    places: Mutex<[Option<usize>; 4]>,
}

impl Miniature {
    fn new(first: Option<u32>, care: Care) -> Arc<Miniature> {
        let mini = Miniature {
            locks: NameLocks::new(),
            store: Default::default(),
            others: Default::default(),
            clock: AtomicU64::new(1),
            care,
            known: AtomicU64::new(0),
            places: Mutex::default(),
        };
        *mini.store[0].lock() = first;
        Arc::new(mini)
    }

    fn change(&self, name: usize) -> name_locks::Change<'_> {
        self.locks.change(NodeId::ROOT, NAMES[name].as_bytes())
    }

    fn tick(&self) -> Moment {
        Moment(self.clock.fetch_add(1, Ordering::SeqCst))
    }

    fn stage(&self, name: usize, by: u64, file: u32) {
        let _change = self.change(name);
        self.others[name].lock().push(Version::shared(file, Stage::Staged { by }));
    }

    fn publish(&self, name: usize, by: u64) {
        let _change = self.change(name);
        let is_it = |version: &Version<u32>| version.stage == Stage::Staged { by };
        let staged = self.others[name].lock().iter().find(|v| is_it(v)).map(|v| v.what);
        let Some(file) = staged else { return };
        // Renamed in the store first; the record of it goes after that.
        let old = self.store[name].lock().replace(file);
        self.places.lock()[file as usize] = Some(name);
        if let Some(old) = old {
            self.places.lock()[old as usize] = None;
        }
        self.others[name].lock().retain(|version| !is_it(version));
    }

    fn retired(&self, by: u64) -> Stage {
        Stage::Retired { at: self.tick(), hidden: [by].into_iter().collect(), only: None }
    }

    fn retire(&self, name: usize, by: u64) {
        let _change = self.change(name);
        let stage = self.retired(by);
        let Some(what) = self.store[name].lock().take() else { return };
        self.places.lock()[what as usize] = None;
        self.others[name].lock().push(Version::shared(what, stage));
    }

    fn rename(&self, from: usize, to: usize, by: u64) {
        let name = |index: usize| (NodeId::ROOT, Name::new(OsStr::new(NAMES[index])).unwrap());
        let _change = self.locks.change_two(name(from), name(to));
        let stage = self.retired(by);
        let Some(what) = self.store[from].lock().take() else { return };
        *self.store[to].lock() = Some(what);
        self.places.lock()[what as usize] = Some(to);
        self.others[from].lock().push(Version::shared(what, stage));
    }

    /// What nobody is left to see is reclaimed.
    fn reclaim(&self, name: usize) {
        let _change = self.change(name);
        self.others[name].lock().retain(|v| !matches!(v.stage, Stage::Retired { .. }));
    }

    fn sees(&self, name: usize, reader: Reader) -> Option<u32> {
        let look = || {
            let live = *self.store[name].lock();
            if live.is_some() {
                self.known.fetch_add(1, Ordering::SeqCst);
            }
            let found = (live, self.others[name].lock().clone());
            if self.care == Care::Hasty {
                Looking { mini: self, name }.settle(&found);
            }
            found
        };
        let means = Looking { mini: self, name };
        let found = match self.care {
            Care::None => look(),
            _ => self.locks.look(NodeId::ROOT, NAMES[name].as_bytes(), look, &means),
        };
        means.undo(found.clone());
        let (live, others) = found;
        view::seen(others.into_iter().chain(live.map(Version::live)), reader)
    }

    /// Runs jobs at the same time, and looks after that.
    fn run(self: Arc<Self>, jobs: Vec<Job>) {
        let start = |job: Job| {
            let mini = self.clone();
            thread::spawn(move || job(&mini))
        };
        let started: Vec<_> = jobs.into_iter().map(start).collect();
        started.into_iter().for_each(|job| job.join().unwrap());
        assert_eq!(self.known.load(Ordering::SeqCst), 0, "known and not given back");
        let is_there = |(name, file): (usize, u32)| *self.store[name].lock() == Some(file);
        let places = self.places.lock();
        let mut known = places.iter().zip(0..).filter_map(|(name, file)| Some(((*name)?, file)));
        assert!(known.all(is_there), "known to be where it is not: {places:?}");
    }
}

type Found = (Option<u32>, Vec<Version<u32>>);

struct Looking<'a> {
    mini: &'a Miniature,
    name: usize,
}

impl Look<Found> for Looking<'_> {
    fn is_settled(&self, (live, _): &Found) -> bool {
        live.is_none_or(|file| self.mini.places.lock()[file as usize] == Some(self.name))
    }

    fn settle(&self, (live, _): &Found) {
        if let Some(file) = live {
            self.mini.places.lock()[*file as usize] = Some(self.name);
        }
    }

    fn undo(&self, (live, _): Found) {
        if live.is_some() {
            self.mini.known.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Who lets others finish sees the whole of a change of which it has seen a part.
#[test]
fn who_is_let_finish_has_finished() {
    let both = || {
        let mini = Miniature::new(Some(1), Care::Whole);
        mini.clone().run(vec![
            Box::new(|mini| mini.retire(0, 1)),
            Box::new(|mini| {
                if mini.store[0].lock().is_none() {
                    mini.locks.let_finish(NodeId::ROOT, NAMES[0].as_bytes());
                    assert_eq!(mini.others[0].lock().len(), 1, "a part of a change");
                }
            }),
        ]);
    };
    shuttle::check_random(both, 300);
}

/// One who ran before sees something each time, and never what is older than what it saw.
fn look_on(mini: &Miniature) {
    let mut last = 0;
    for _ in 0..3 {
        let seen = mini.sees(0, OLD).expect("gone for one who ran before");
        assert!(seen >= last, "{seen} after {last}");
        last = seen;
    }
}

fn publishing_and_removing(care: Care) {
    let mini = Miniature::new(Some(1), care);
    mini.clone().run(vec![
        Box::new(|mini| {
            mini.stage(0, 1, 2);
            assert_eq!(mini.sees(0, writer(1)), Some(2));
            mini.publish(0, 1);
            assert_eq!(mini.sees(0, writer(1)), Some(2), "its own, or kept for it");
        }),
        Box::new(|mini| {
            mini.retire(0, 2);
            let seen = mini.sees(0, writer(2));
            assert_ne!(seen, Some(1), "removed by itself");
        }),
        Box::new(look_on),
        Box::new(|mini| {
            // One who begins later sees what is live, and nothing else.
            let seen = mini.sees(0, NEW);
            assert!(seen.is_none_or(|seen| seen <= 2));
        }),
    ]);
    let live = *mini.store[0].lock();
    assert_eq!(mini.sees(0, NEW), live);
}

fn removing_and_making_again(care: Care) {
    Miniature::new(Some(1), care).run(vec![
        Box::new(|mini| {
            for file in 2..4 {
                mini.retire(0, 1);
                assert_eq!(mini.sees(0, writer(1)), None);
                mini.stage(0, 1, file);
                mini.publish(0, 1);
                assert_eq!(mini.sees(0, writer(1)), Some(file));
            }
        }),
        Box::new(look_on),
    ]);
}

fn renaming_to_and_fro(care: Care) {
    Miniature::new(Some(1), care).run(vec![
        Box::new(|mini| mini.rename(0, 1, 1)),
        Box::new(|mini| mini.rename(1, 0, 2)),
        Box::new(|mini| {
            assert_eq!(mini.sees(0, OLD), Some(1), "moved away, and gone for one who ran before");
            mini.sees(1, OLD);
            assert_eq!(mini.sees(0, OLD), Some(1), "moved away, and gone for one who ran before");
        }),
    ]);
}

/// What was found under a name that it has no more is not known to be there.
fn moving_what_is_looked_at(care: Care) {
    Miniature::new(Some(1), care).run(vec![
        Box::new(|mini| mini.rename(0, 1, 1)),
        Box::new(|mini| _ = mini.sees(0, NEW)),
        Box::new(|mini| _ = mini.sees(1, NEW)),
    ]);
}

fn reclaiming_beside_a_new_version(care: Care) {
    let mini = Miniature::new(Some(1), care);
    mini.retire(0, 2);
    mini.clone().run(vec![
        Box::new(|mini| mini.reclaim(0)),
        Box::new(|mini| {
            mini.stage(0, 1, 2);
            mini.publish(0, 1);
            assert_eq!(mini.sees(0, NEW), Some(2));
        }),
        Box::new(|mini| {
            let seen = mini.sees(0, NEW);
            assert!(matches!(seen, None | Some(2)));
        }),
    ]);
    assert_eq!(mini.sees(0, OLD), Some(2));
}

/// At random, and with few but well chosen switches.
fn explore(run: fn(Care), care: Care) {
    let times = std::env::var("CACHEFS_SOAK").map_or(5_000, |steps| steps.parse().unwrap());
    shuttle::check_random(move || run(care), times);
    shuttle::check_pct(move || run(care), times, 3);
}

macro_rules! explored {
    ($($name:ident)+) => { $(
        mod $name {
            #[test]
            fn in_every_order() {
                super::explore(super::$name, super::Care::Whole);
            }
        }
    )+ };
}

explored! {
    publishing_and_removing
    removing_and_making_again
    renaming_to_and_fro
    moving_what_is_looked_at
    reclaiming_beside_a_new_version
}

/// So that it is known that these orders are found at all.
#[test]
#[should_panic = "gone for one who ran before"]
fn one_who_looks_without_care_is_found_out() {
    explore(removing_and_making_again, Care::None);
}

#[test]
#[should_panic = "gone for one who ran before"]
fn one_who_looks_without_care_while_names_move_is_found_out() {
    explore(renaming_to_and_fro, Care::None);
}

#[test]
#[should_panic = "known to be where it is not"]
fn one_who_notes_too_soon_where_it_is_is_found_out() {
    explore(moving_what_is_looked_at, Care::Hasty);
}
