//! What is done before anything is spilled (SEMANTICS 4.2): the least recently used of what is in the
//! store goes, where that makes room.

use std::time::{Duration, Instant};

use super::health;
use crate::cache::Cache;

/// What is removed is gone soon after, if nobody who runs may go on using it.
const SOON: Duration = Duration::from_secs(2);

impl Cache {
    /// Makes room in a store that is full, for `job`; whether there is room now. Who is running keeps
    /// what it may be using, and so there may be none before they have ended. Not to be called by who has
    /// locked a name.
    pub(super) fn make_room(&self, job: u64) -> bool {
        if self.spill.read_only {
            return false;
        }
        let Some((free, whole)) = health::room(&*self.root) else { return false };
        let wanted = 4 * health::margin(whole);
        let Some(missing) = wanted.checked_sub(free).filter(|_| free < health::margin(whole))
        else {
            return false;
        };
        // What has been removed makes room by and by.
        let coming = self.retired().bytes;
        let pruned = coming < missing && self.prune_for_room(missing - coming, job);
        if !pruned && coming == 0 && !self.is_pruning() {
            return false;
        }
        let until = Instant::now() + SOON;
        loop {
            let roomy =
                || health::room(&*self.root).is_some_and(|(free, _)| free > health::margin(whole));
            if roomy() {
                return true;
            }
            let nothing_comes = self.retired.records.lock().is_empty() && !self.is_pruning();
            if nothing_comes || Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
