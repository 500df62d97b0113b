//! What goes on in the background: uses are noted, and limits are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::recency::{MAKING, Recency, WRITTEN};
use super::{Known, Progress};
use crate::cache::Cache;
use crate::cache::retire::ADMINISTRATOR;
use crate::cache::spill::space;
use crate::prune::Plan;
use crate::prune::layout::Found;

/// Uses are noted together that come within this time.
const BATCH: Duration = Duration::from_millis(50);

/// Where tools' caches lie is looked for again after this time, if somebody uses what is in none.
const LAYOUTS: Duration = Duration::from_secs(30);

/// What was asked is taken down each time that so much has passed.
const MINUTE: Duration = Duration::from_secs(60);

/// No more than one part in so many of the time is spent on keeping the limits when much is written.
const REST: u32 = 4;

/// What a pruner has to know.
#[derive(Debug)]
pub(in crate::cache) struct Pruner {
    /// Only one prunes at a time.
    pub(super) one: Mutex<()>,
    pub(super) progress: Progress,
    pub(super) recency: Recency,
    layouts: RwLock<Arc<[Found]>>,
    /// Another each time that others are found; never 0.
    generation: AtomicU32,
    pub(super) known: Mutex<Option<(Instant, Known)>>,
    /// How many bytes have been written since the mount was made, and at how many it has to be looked
    /// whether the limits are kept.
    written: AtomicU64,
    alarm: AtomicU64,
    wake: Mutex<Option<Sender<()>>>,
}

impl Pruner {
    pub(in crate::cache) fn new() -> Pruner {
        Pruner {
            one: Mutex::new(()),
            progress: Progress::default(),
            recency: Recency::new(),
            layouts: RwLock::new(Arc::new([])),
            generation: AtomicU32::new(1),
            known: Mutex::new(None),
            written: AtomicU64::new(0),
            alarm: AtomicU64::new(u64::MAX),
            wake: Mutex::new(None),
        }
    }

    pub(in crate::cache) fn layouts(&self) -> Arc<[Found]> {
        self.layouts.read().clone()
    }

    /// Changes when other caches are found than before.
    pub(in crate::cache) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// These caches are in the store.
    pub(super) fn note_layouts(&self, found: Arc<[Found]>) {
        let mut layouts = self.layouts.write();
        if *layouts != found {
            *layouts = found;
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Has the background look what there is to do.
    pub(super) fn wake(&self) {
        if let Some(wake) = &*self.wake.lock() {
            // It ends with the cache; then there is nothing to wake.
            let _ = wake.send(());
        }
    }
}

/// When what is due.
struct Due {
    limits: Option<Instant>,
    write: Instant,
    layouts: Instant,
    minute: Instant,
    /// Not before then, however much is written.
    rested: Instant,
}

impl Cache {
    /// Starts what goes on in the background.
    pub(in crate::cache) fn start_pruner(self: &Arc<Self>) -> std::io::Result<()> {
        let (wake, woken) = channel();
        *self.pruner.wake.lock() = Some(wake);
        let cache = Arc::downgrade(self);
        let every = self.options.pruning.every;
        std::thread::Builder::new().name("pruner".into()).spawn(move || {
            let now = Instant::now();
            // At once: the limits may be new.
            let limits = every.map(|_| now);
            let (write, minute) = (now + WRITTEN, now + MINUTE);
            let mut due = Due { limits, write, layouts: now, minute, rested: now };
            loop {
                let next = due.minute.min(due.write);
                let next = due.limits.map_or(next, |limits| limits.min(next));
                if !wait(&woken, next) {
                    return;
                }
                let Some(cache) = cache.upgrade() else { return };
                cache.work(&mut due);
            }
        })?;
        Ok(())
    }

    fn work(&self, due: &mut Due) {
        let now = Instant::now();
        if now >= due.layouts && self.pruner.recency.is_waiting() {
            due.layouts = now + LAYOUTS;
            if let Err(error) = self.find_layouts() {
                tracing::warn!("can't look which caches are in the store: {error}");
            }
        }
        if now >= due.minute {
            due.minute = now + MINUTE;
            self.take_down();
        }
        self.settle_uses();
        if now >= due.write {
            due.write = now + WRITTEN;
            self.write_uses(WRITTEN);
        }
        let Some(every) = self.options.pruning.every else { return };
        let rang = self.pruner.written.load(Ordering::Relaxed)
            >= self.pruner.alarm.load(Ordering::Relaxed);
        if rang && now < due.rested {
            // Later, and then surely.
            due.limits = due.limits.map(|limits| limits.min(due.rested));
        } else if rang || due.limits.is_some_and(|limits| now >= limits) {
            let more = self.keep_limits();
            let took = now.elapsed();
            due.rested = Instant::now() + took * REST;
            // What could not go because it was just being made can go soon.
            let again = if more { every.min(MAKING) } else { every };
            due.limits = Some(Instant::now() + again);
        }
    }

    /// Prunes what the limits do not allow; whether more has to go.
    fn keep_limits(&self) -> bool {
        let policy = self.policy(self.options.pruning.limits);
        // Before it is looked: what is written meanwhile may be seen, or not.
        let written = self.pruner.written.load(Ordering::Relaxed);
        let tell = |folder, name: &[u8]| self.tell_kernel(folder, name);
        let apply = |_: &Plan, paths: &[_]| {
            self.remove_at_once(&self.cleaning.lock(), paths, ADMINISTRATOR, &tell)
        };
        let mut more = false;
        let left = match self.prune_by(&policy, &apply) {
            Ok(pruned) => {
                self.note_pruned(&pruned);
                more = pruned.lacks.bytes > 0 && pruned.held.bytes > pruned.frees.bytes;
                if !pruned.units.is_empty() {
                    tracing::info!(
                        units = pruned.units.len(),
                        bytes = pruned.frees.bytes,
                        seen_by = pruned.seen_by.len(),
                        "pruned",
                    );
                }
                let held = pruned.held.bytes.saturating_sub(pruned.frees.bytes);
                let most = policy.max_size.unwrap_or(u64::MAX);
                // At least a little, or it would never rest where no more can go.
                most.saturating_sub(held).max(most / 50)
            }
            Err(error) => {
                tracing::warn!("can't prune: {error}");
                u64::MAX
            }
        };
        let free = match (policy.min_free, space(&*self.root)) {
            (Some(least), Some((free, _))) => free.saturating_sub(least).max(least / 50),
            _ => u64::MAX,
        };
        // Some of it is being written by now.
        let alarm = written.saturating_add(left.min(free) / 2);
        self.pruner.alarm.store(alarm, Ordering::Relaxed);
        if self.pruner.written.load(Ordering::Relaxed) >= alarm {
            self.pruner.wake();
        }
        more
    }

    /// Whether the limits are looked after.
    pub(in crate::cache) fn keeps_limits(&self) -> bool {
        self.options.pruning.every.is_some()
    }

    /// A file was written, and is closed. `bytes` is what it takes.
    pub(in crate::cache) fn note_stored(&self, bytes: u64) {
        let written = self.pruner.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let before = written - bytes;
        let alarm = self.pruner.alarm.load(Ordering::Relaxed);
        if before < alarm && written >= alarm {
            self.pruner.wake();
        }
    }
}

/// Waits until it is woken, for more to come together, or until `next`; false if there is no more to do.
fn wait(woken: &Receiver<()>, next: Instant) -> bool {
    match woken.recv_timeout(next.saturating_duration_since(Instant::now())) {
        Ok(()) => std::thread::sleep(BATCH),
        Err(RecvTimeoutError::Timeout) => {}
        Err(RecvTimeoutError::Disconnected) => return false,
    }
    while woken.try_recv().is_ok() {}
    true
}
