//! What each user is charged for: by file, and all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use smallvec::SmallVec;

use crate::cache::retire::Amount;
use crate::cache::tree::FileKey;

/// What one user, or nobody, is charged for of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    user: Option<u32>,
    bytes: u64,
}

/// Of one file; the first is that of who made it, who is charged for the file as such.
type Shares = SmallVec<[Share; 1]>;

/// All that one user is charged for.
#[derive(Debug, Default)]
pub(super) struct Sum {
    bytes: AtomicU64,
    files: AtomicU64,
    /// Since when what he writes is not taken, in seconds since 1970; 0: it is.
    over: AtomicU64,
}

impl Sum {
    pub(super) fn amount(&self) -> Amount {
        let get = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Amount { bytes: get(&self.bytes), files: get(&self.files) }
    }

    /// Notes whether what he writes is not taken; true if that begins now.
    pub(super) fn note_over(&self, over: bool) -> bool {
        let was = self.over.load(Ordering::Relaxed) != 0;
        if was != over {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let since = if over { now.map_or(1, |now| now.as_secs()) } else { 0 };
            self.over.store(since, Ordering::Relaxed);
        }
        over && !was
    }

    fn over(&self) -> Option<SystemTime> {
        let since = self.over.load(Ordering::Relaxed);
        (since > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(since))
    }
}

#[derive(Debug, Default)]
pub(super) struct Charges {
    files: DashMap<FileKey, Shares>,
    /// Locked after `files`.
    users: DashMap<u32, Arc<Sum>>,
}

impl Charges {
    pub(super) fn sum(&self, user: u32) -> Arc<Sum> {
        if let Some(sum) = self.users.get(&user) {
            return sum.clone();
        }
        self.users.entry(user).or_default().clone()
    }

    fn add(&self, user: Option<u32>, bytes: u64, files: u64) {
        if let Some(user) = user {
            let sum = self.sum(user);
            sum.bytes.fetch_add(bytes, Ordering::Relaxed);
            sum.files.fetch_add(files, Ordering::Relaxed);
        }
    }

    fn give_back(&self, user: Option<u32>, bytes: u64, files: u64) {
        if let Some(user) = user {
            let sum = self.sum(user);
            sum.bytes.fetch_sub(bytes, Ordering::Relaxed);
            sum.files.fetch_sub(files, Ordering::Relaxed);
        }
    }

    fn give_back_all(&self, shares: &Shares) {
        for (number, share) in shares.iter().enumerate() {
            self.give_back(share.user, share.bytes, u64::from(number == 0));
        }
    }

    /// A file is new, or somebody else's from now on.
    pub(super) fn made(&self, file: FileKey, user: Option<u32>, bytes: u64) {
        self.add(user, bytes, 1);
        let shares = SmallVec::from_elem(Share { user, bytes }, 1);
        if let Some(old) = self.files.insert(file, shares) {
            self.give_back_all(&old);
        }
    }

    /// A file was found; whether nothing was known of it.
    pub(super) fn found(&self, file: FileKey, user: u32, bytes: u64) -> bool {
        let Entry::Vacant(entry) = self.files.entry(file) else { return false };
        self.add(Some(user), bytes, 1);
        entry.insert(SmallVec::from_elem(Share { user: Some(user), bytes }, 1));
        true
    }

    /// A file is gone.
    pub(super) fn gone(&self, file: FileKey) {
        if let Some((_, shares)) = self.files.remove(&file) {
            self.give_back_all(&shares);
        }
    }

    /// A file takes so many bytes now, as `user` has left it. `before`: what it took before that, and who
    /// made it, where nothing is known of it. True if it was empty and nobody's, and is his now.
    pub(super) fn now_takes(
        &self,
        file: FileKey,
        user: Option<u32>,
        before: (u64, impl FnOnce() -> Option<u32>),
        now: u64,
    ) -> bool {
        let mut entry = match self.files.get_mut(&file) {
            Some(entry) => entry,
            None => {
                // That is read from the disk, for which nobody is to wait.
                let (bytes, user) = (before.0, (before.1)());
                self.files.entry(file).or_insert_with(|| {
                    self.add(user, bytes, 1);
                    SmallVec::from_elem(Share { user, bytes }, 1)
                })
            }
        };
        let shares = entry.value_mut();
        let had: u64 = shares.iter().map(|share| share.bytes).sum();
        let nobodys = shares.len() == 1 && shares[0] == Share { user: None, bytes: 0 };
        if now > had {
            if nobodys && user.is_some() {
                shares[0].user = user;
                self.add(user, 0, 1);
            }
            self.add(user, now - had, 0);
            match shares.iter_mut().find(|share| share.user == user) {
                Some(share) => share.bytes += now - had,
                None => shares.push(Share { user, bytes: now - had }),
            }
            return nobodys && user.is_some();
        }
        // Who came last goes first, but for who has made it smaller.
        let mut less = had - now;
        let own = shares.iter().position(|share| share.user == user);
        for number in own.into_iter().chain((0..shares.len()).rev()) {
            let share = &mut shares[number];
            let part = less.min(share.bytes);
            share.bytes -= part;
            less -= part;
            self.give_back(share.user, part, 0);
        }
        let mut first = true;
        shares.retain(|share| std::mem::take(&mut first) || share.bytes > 0);
        false
    }

    /// Every user, what he is charged for, and since when nothing more is taken.
    pub(super) fn all(&self) -> Vec<(u32, Amount, Option<SystemTime>)> {
        let told = |user: u32, sum: &Sum| (user, sum.amount(), sum.over());
        self.users.iter().map(|entry| told(*entry.key(), entry.value())).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: FileKey = FileKey { device: 1, inode: 2 };

    fn has(charges: &Charges, user: u32) -> (u64, u64) {
        let Amount { bytes, files } = charges.sum(user).amount();
        (bytes, files)
    }

    fn unknown() -> Option<u32> {
        None
    }

    #[test]
    fn each_pays_for_what_he_adds() {
        let charges = Charges::default();
        charges.made(FILE, Some(7), 100);
        assert!(!charges.now_takes(FILE, Some(8), (100, unknown), 150));
        assert_eq!((has(&charges, 7), has(&charges, 8)), ((100, 1), (50, 0)));
        // Who makes it smaller gets his own back first.
        charges.now_takes(FILE, Some(7), (150, unknown), 120);
        assert_eq!((has(&charges, 7), has(&charges, 8)), ((70, 1), (50, 0)));
        charges.now_takes(FILE, Some(9), (120, unknown), 10);
        assert_eq!((has(&charges, 7), has(&charges, 8)), ((10, 1), (0, 0)));
        charges.gone(FILE);
        charges.gone(FILE);
        assert_eq!(has(&charges, 7), (0, 0));
    }

    #[test]
    fn what_was_nobodys_stays_so_but_for_what_is_added() {
        let charges = Charges::default();
        charges.now_takes(FILE, Some(7), (100, unknown), 130);
        assert_eq!(has(&charges, 7), (30, 0));
        assert!(!charges.found(FILE, 8, 100));
        charges.gone(FILE);
        assert_eq!(has(&charges, 7), (0, 0));
        // An empty one is his who fills it.
        assert!(charges.now_takes(FILE, Some(7), (0, unknown), 30));
        assert_eq!(has(&charges, 7), (30, 1));
        // It is another file by now, under the same number.
        charges.made(FILE, Some(8), 5);
        assert_eq!((has(&charges, 7), has(&charges, 8)), ((0, 0), (5, 1)));
    }

    #[test]
    fn others_go_on_while_it_is_found_out_who_made_a_file() {
        let charges = Charges::default();
        let maker = || {
            // By who counts what there is.
            assert!(charges.found(FILE, 9, 100));
            Some(9)
        };
        charges.now_takes(FILE, Some(7), (100, maker), 130);
        assert_eq!((has(&charges, 7), has(&charges, 9)), ((30, 0), (100, 1)));
    }

    #[test]
    fn a_user_is_told_once_that_he_is_over() {
        let sum = Sum::default();
        assert!(sum.over().is_none() && !sum.note_over(false));
        assert!(sum.note_over(true) && !sum.note_over(true));
        assert!(sum.over().is_some() && !sum.note_over(false) && sum.over().is_none());
    }

    proptest! {
        /// Whoever does what: all together are charged for what there is, and for nothing in the end.
        #[test]
        fn all_is_charged_and_given_back(
            steps in prop::collection::vec((0..3u64, 0..3u32, 0..100u64), 1..40),
        ) {
            let charges = Charges::default();
            let total = || (0..3).map(|user| has(&charges, user).0).sum::<u64>();
            let mut sizes = [0; 3];
            for (inode, user, now) in steps {
                let file = FileKey { device: 0, inode };
                let size = &mut sizes[inode as usize];
                charges.now_takes(file, Some(user), (*size, unknown), now);
                *size = now;
                prop_assert_eq!(total(), sizes.iter().sum::<u64>());
            }
            for inode in 0..3 {
                charges.gone(FileKey { device: 0, inode });
            }
            prop_assert!((0..3).all(|user| has(&charges, user) == (0, 0)));
        }
    }
}
