//! Whether the store takes writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use cachefs_mount::{Errno, Result};
use parking_lot::Mutex;

use crate::cache::Cache;
use crate::cache::resolve::errno;
use crate::cache::retire::ADMINISTRATOR;
use crate::platform;
use crate::platform::fd::AsFd;
use crate::platform::fs::{AtFlags, Mode, OFlags};

/// So often it is tried whether the store takes writes again.
const PROBED: Duration = Duration::from_secs(1);

/// So many bytes are written between two looks at how much room is left.
const UNCHECKED: u64 = 512 << 10;

/// Parts of a filesystem that are left free, and the least and the most, in bytes.
const MARGIN: (u64, u64, u64) = (50, 2 << 20, 64 << 20);

/// Since when and why a store can't be written.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// Since when.
    pub since: SystemTime,
    /// Why, for people.
    pub reason: String,
}

#[derive(Debug, Default)]
pub(in crate::cache) struct Health {
    degraded: Mutex<Option<Degraded>>,
    is_degraded: AtomicBool,
    /// Bytes written since it was looked how much room is left.
    unchecked: AtomicU64,
    /// There is less room in the store than its margin.
    low: AtomicBool,
    /// There is less room in the area than its margin.
    area_low: AtomicBool,
    /// To the thread that looks whether it is over.
    wake: Mutex<Option<Sender<()>>>,
}

impl Health {
    /// The store can't be written from now on, if it could.
    pub(super) fn begin(&self, reason: &str) {
        if self.is_degraded.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!("degraded: {reason}; what is written goes to the spill area");
        let reason = reason.to_owned();
        *self.degraded.lock() = Some(Degraded { since: SystemTime::now(), reason });
        if let Some(wake) = &*self.wake.lock() {
            // It ends with the cache.
            let _ = wake.send(());
        }
    }

    fn end(&self) {
        self.low.store(false, Ordering::Release);
        *self.degraded.lock() = None;
        self.is_degraded.store(false, Ordering::Release);
        tracing::info!("no longer degraded: the store can be written again");
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.is_degraded.load(Ordering::Acquire)
    }

    pub(super) fn degraded(&self) -> Option<Degraded> {
        self.degraded.lock().clone()
    }
}

/// Free for us, and of the whole filesystem, in bytes; none if it does not say.
pub(in crate::cache) fn room(of: impl AsFd) -> Option<(u64, u64)> {
    let space = platform::fs::fstatvfs(of).ok()?;
    let unit = space.f_frsize;
    // Some filesystems do not know.
    (space.f_blocks > 0).then_some((space.f_bavail * unit, space.f_blocks * unit))
}

pub(super) fn margin(whole: u64) -> u64 {
    let (part, least, most) = MARGIN;
    (whole / part).clamp(least, most)
}

/// Whether there is less room than is to be left.
pub(in crate::cache) fn is_low(of: impl AsFd) -> bool {
    room(of).is_some_and(|(free, whole)| free < margin(whole))
}

impl Cache {
    /// To be called after that many bytes were written.
    pub(in crate::cache) fn note_written(&self, bytes: usize, job: u64) {
        let health = &self.spill.health;
        let before = health.unchecked.fetch_add(bytes as u64, Ordering::Relaxed);
        if before + bytes as u64 >= UNCHECKED {
            health.unchecked.store(0, Ordering::Relaxed);
            self.check_room(job);
        }
    }

    /// Looks how much room is left.
    fn check_room(&self, job: u64) {
        let Some(area) = self.spill.folder() else { return };
        let health = &self.spill.health;
        if !self.spill.read_only
            && !health.is_degraded()
            && is_low(&*self.root)
            && !self.make_room(job)
            && self.spill.is_elsewhere()
        {
            health.low.store(true, Ordering::Release);
            health.begin("the store's filesystem is nearly full");
        }
        health.area_low.store(is_low(&*area), Ordering::Release);
    }

    /// Why nothing more is to be written to a file, if so: `ENOSPC` if it lies in the store and is to
    /// go on in the area, or if it lies in the area and that is full too.
    pub(in crate::cache) fn refuses_more(&self, file: &std::fs::File) -> Result<()> {
        let health = &self.spill.health;
        let (low, area_low) =
            (health.low.load(Ordering::Acquire), health.area_low.load(Ordering::Acquire));
        if !low && !area_low {
            return Ok(());
        }
        let key = crate::cache::resolve::key(&crate::cache::resolve::status(file, b"")?);
        let here = if self.is_in_store(key) {
            low && !area_low
        } else {
            area_low && self.spill.key.device == key.device
        };
        if here { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Starts what looks whether the store can be written again.
    pub(in crate::cache) fn start_probing(self: &Arc<Self>) -> std::io::Result<()> {
        if self.spill.folder().is_none() || self.spill.read_only {
            return Ok(());
        }
        let (wake, woken) = std::sync::mpsc::channel();
        *self.spill.health.wake.lock() = Some(wake);
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("probe".into()).spawn(move || {
            while woken.recv().is_ok() {
                loop {
                    match woken.recv_timeout(PROBED) {
                        Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    let Some(cache) = cache.upgrade() else { return };
                    if !cache.spill.health.is_degraded() {
                        break;
                    }
                    if cache.probe().is_ok() {
                        cache.spill.health.end();
                        break;
                    }
                }
            }
        })?;
        Ok(())
    }

    /// Whether the store takes writes: an error if not.
    fn probe(&self) -> Result<()> {
        if let Some((free, whole)) = room(&*self.root)
            && free < 2 * margin(whole)
            && self.spill.is_elsewhere()
        {
            self.make_room(ADMINISTRATOR);
            return Err(Errno::ENOSPC);
        }
        let name = self.next_number().to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = platform::fs::openat(&*self.stages[0], &*name, flags, mode).map_err(errno)?;
        let written = platform::io::write(&file, &[0; 4096])
            .and_then(|_| platform::fs::fdatasync(&file))
            .map_err(errno);
        platform::fs::unlinkat(&*self.stages[0], &*name, AtFlags::empty()).map_err(errno)?;
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_small() {
        assert_eq!(margin(10 << 20), 2 << 20);
        assert_eq!(margin(1000 << 20), 20 << 20);
        assert_eq!(margin(1 << 40), 64 << 20);
    }

    #[test]
    fn the_first_reason_counts() {
        let health = Health::default();
        assert!(health.degraded().is_none());
        health.begin("first");
        health.begin("second");
        assert_eq!(health.degraded().unwrap().reason, "first");
        health.end();
        assert!(health.degraded().is_none() && !health.is_degraded());
    }
}
