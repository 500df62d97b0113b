//! How many clients there may be at a time, and how many of them one user's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// So many clients are answered at a time; others are told to come again.
pub(super) const CLIENTS: usize = 64;

/// So many of them may be of users other than root: root always gets in.
const NOT_ROOT: usize = 56;

/// So many may be of users other than root and the daemon's: a user may have any number of user ids
/// (`subuid(5)`).
const OTHERS: usize = 32;

/// So many may be of one of those.
const ONE: usize = 16;

/// Who has come.
#[derive(Debug)]
pub(super) struct Room {
    /// The daemon's user.
    owner: u32,
    by_user: Mutex<HashMap<u32, usize>>,
}

/// A client's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    uid: u32,
}

impl Room {
    pub(super) fn new(owner: u32) -> Arc<Room> {
        Arc::new(Room { owner, by_user: Mutex::default() })
    }

    /// A place for a client of that user, if there is one.
    pub(super) fn enter(self: &Arc<Room>, uid: u32) -> Option<Place> {
        let mut by_user = self.by_user.lock();
        let count = |wanted: &dyn Fn(u32) -> bool| -> usize {
            by_user.iter().filter(|&(&uid, _)| wanted(uid)).map(|(_, &clients)| clients).sum()
        };
        let is_other = |uid| uid != 0 && uid != self.owner;
        let limits: [(bool, usize, usize); 4] = [
            (true, count(&|_| true), CLIENTS),
            (uid != 0, count(&|uid| uid != 0), NOT_ROOT),
            (is_other(uid), count(&is_other), OTHERS),
            (is_other(uid), count(&|other| other == uid), ONE),
        ];
        if limits.iter().any(|&(concerns, clients, most)| concerns && clients >= most) {
            return None;
        }
        *by_user.entry(uid).or_default() += 1;
        Some(Place { room: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_user = self.room.by_user.lock();
        if let Some(clients) = by_user.get_mut(&self.uid) {
            *clients -= 1;
            if *clients == 0 {
                by_user.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(room: &Arc<Room>, uid: u32) -> Vec<Place> {
        std::iter::from_fn(|| room.enter(uid)).collect()
    }

    #[test]
    fn nobody_keeps_root_out() {
        let room = Room::new(7);
        let many: Vec<_> = (1000..1100).map(|uid| fill(&room, uid)).collect();
        assert_eq!((many[0].len(), many[1].len(), many[2].len()), (16, 16, 0));
        let owner = fill(&room, 7);
        assert_eq!(owner.len(), 24);
        let root = fill(&room, 0);
        assert_eq!(root.len(), 8);
        drop((many, owner));
        assert_eq!(fill(&room, 0).len(), 56);
        drop(root);
        assert!(room.by_user.lock().is_empty());
    }

    #[test]
    fn root_that_is_the_daemons_user_may_have_all() {
        let room = Room::new(0);
        assert_eq!(fill(&room, 0).len(), 64);
        let one = fill(&room, 5);
        assert_eq!((one.len(), fill(&room, 0).len()), (16, 48));
    }
}
