//! Times as Windows counts them: in units of 100 ns since the year 1601.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::SetTime;

/// From there to 1970.
const BEFORE_UNIX: Duration = Duration::from_secs(11_644_473_600);

const UNITS_A_SECOND: u128 = 10_000_000;

/// `time` in those units; what can't be said so is the first or the last time that can.
pub(super) fn to_windows(time: SystemTime) -> u64 {
    let units = |span: Duration| span.as_nanos() * UNITS_A_SECOND / 1_000_000_000;
    let since = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => BEFORE_UNIX.checked_add(after),
        Err(before) => BEFORE_UNIX.checked_sub(before.duration()).or(Some(Duration::ZERO)),
    };
    let units = since.map_or(u128::MAX, units).min(i64::MAX as u128);
    units as u64
}

/// A time that somebody sets: none for 0 and for negative numbers, which mean that it stays.
pub(super) fn to_set(units: u64) -> Option<SetTime> {
    let units = i64::try_from(units).ok().filter(|&units| units > 0)? as u64;
    let since =
        Duration::from_secs(units / 10_000_000) + Duration::from_nanos(units % 10_000_000 * 100);
    let at = match since.checked_sub(BEFORE_UNIX) {
        Some(after) => UNIX_EPOCH.checked_add(after),
        None => UNIX_EPOCH.checked_sub(BEFORE_UNIX - since),
    };
    at.map(SetTime::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        let second = Duration::from_secs(1);
        for (time, units) in [
            (UNIX_EPOCH, 116_444_736_000_000_000),
            (UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_700), 133_444_736_001_234_567),
            (UNIX_EPOCH - second / 2, 116_444_735_995_000_000),
            (UNIX_EPOCH - BEFORE_UNIX + second, 10_000_000),
        ] {
            assert_eq!(to_windows(time), units);
            assert_eq!(to_set(units), Some(SetTime::At(time)));
        }
    }

    #[test]
    fn what_means_nothing_sets_nothing() {
        assert_eq!(to_set(0), None);
        assert_eq!(to_set(u64::MAX), None);
        assert_eq!(to_set(u64::MAX - 1), None);
        assert_eq!(to_windows(UNIX_EPOCH - BEFORE_UNIX), 0);
    }
}
