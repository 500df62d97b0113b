//! What the locks of names are built of: in a test of every order of steps, something else is in its
//! place.

pub(super) use std::hash::RandomState;
pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

pub(super) use parking_lot::{Mutex, MutexGuard};

/// Lets others go on.
pub(super) fn pause() {
    std::thread::sleep(std::time::Duration::from_micros(50));
}
