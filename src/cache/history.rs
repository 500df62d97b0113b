//! What was asked of a cache over the last day: hits and misses by minute, so that what is new can be told from
//! what has always been. Requests pay nothing for it: once a minute the difference is taken down.

use std::collections::VecDeque;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::Cache;
use super::numbers::ToolNumbers;

/// So many minutes are known: a day's. Each takes 32 bytes.
const MINUTES: usize = 24 * 60;

/// What was asked in a minute, or in the time since the one before if the machine slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// When it ended.
    pub at: SystemTime,
    /// Files that were opened and were there.
    pub hits: u64,
    /// Names that were asked for and were not there.
    pub misses: u64,
}

#[derive(Debug, Default)]
pub(super) struct History(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    minutes: VecDeque<Minute>,
    /// What had been counted at the end of the last.
    hits: u64,
    misses: u64,
}

impl Taken {
    /// What was asked since the last minute ended.
    fn since(&self, at: SystemTime, counted: &ToolNumbers) -> Minute {
        Minute { at, hits: counted.hits - self.hits, misses: counted.misses - self.misses }
    }

    fn add(&mut self, at: SystemTime, counted: &ToolNumbers) {
        let minute = self.since(at, counted);
        (self.hits, self.misses) = (counted.hits, counted.misses);
        if self.minutes.len() == MINUTES {
            self.minutes.pop_front();
        }
        self.minutes.push_back(minute);
    }
}

impl Cache {
    /// A minute has passed.
    pub(super) fn take_down(&self) {
        // Counted while it is locked: what was counted never gets less.
        let mut taken = self.history.0.lock();
        taken.add(SystemTime::now(), &self.totals().all_tools());
    }

    /// What was asked by minute, the oldest first; the last is the one that has not ended.
    pub fn history(&self) -> Vec<Minute> {
        let taken = self.history.0.lock();
        let current = taken.since(SystemTime::now(), &self.totals().all_tools());
        taken.minutes.iter().copied().chain([current]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_than_a_day_is_known() {
        let mut taken = Taken::default();
        let at = |minute: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute as u64);
        for minute in 1..=MINUTES + 5 {
            let hits = minute as u64 * 10;
            taken.add(at(minute), &ToolNumbers { hits, misses: 3, ..ToolNumbers::default() });
        }
        assert_eq!(taken.minutes.len(), MINUTES);
        assert_eq!(taken.minutes[0], Minute { at: at(6), hits: 10, misses: 0 });
        assert_eq!(taken.minutes.back().unwrap().at, at(MINUTES + 5));
        let counted = ToolNumbers { hits: taken.hits + 2, misses: 4, ..ToolNumbers::default() };
        assert_eq!(taken.since(at(0), &counted), Minute { at: at(0), hits: 2, misses: 1 });
    }
}
