//! The locks of names, with real threads.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cachefs_mount::{Name, NodeId};

use super::name_locks::{Look, NameLocks};

/// One who has nothing to note.
struct Looking;

impl Look<[u64; 2]> for Looking {
    fn is_settled(&self, _: &[u64; 2]) -> bool {
        true
    }

    fn settle(&self, _: &[u64; 2]) {}

    fn undo(&self, _: [u64; 2]) {}
}

#[test]
fn nobody_sees_one_place_changed_and_the_other_not() {
    let (locks, done) = (NameLocks::new(), AtomicBool::new(false));
    let places = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 1..20_000 {
                let _change = locks.change(NodeId::ROOT, b"name");
                for place in &places {
                    place.store(turn, Ordering::Relaxed);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let look = || [0, 1].map(|place: usize| places[place].load(Ordering::Relaxed));
            let [a, b] = locks.look(NodeId::ROOT, b"name", look, &Looking);
            assert_eq!(a, b);
        }
    });
}

#[test]
fn a_name_may_be_taken_twice_at_once_by_one() {
    let locks = NameLocks::new();
    let name = Name::new(OsStr::new("a")).unwrap();
    drop(locks.change_two((NodeId::ROOT, name), (NodeId::ROOT, name)));
    drop(locks.change(NodeId::ROOT, b"a"));
}
