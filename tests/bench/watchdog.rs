//! Ends what hangs: a mount whose daemon does not answer would hold the benchmark for ever.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::systems;

/// While it lives, the mounts are broken off when one step takes too long.
pub(crate) struct Watchdog {
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Watchdog {
    pub(crate) fn over(mountpoints: Vec<PathBuf>) -> Watchdog {
        let deadline: Arc<Mutex<Option<Instant>>> = Arc::default();
        let watched = Arc::downgrade(&deadline);
        std::thread::spawn(move || {
            while let Some(deadline) = watched.upgrade() {
                let late = deadline.lock().is_ok_and(|at| at.is_some_and(|at| Instant::now() > at));
                if late {
                    eprintln!("bench: a step hangs; its mounts are broken off");
                    mountpoints.iter().for_each(|mount| systems::detach(mount));
                    return;
                }
                drop(deadline);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Watchdog { deadline }
    }

    /// From now on, a step may take this long.
    pub(crate) fn allow(&self, time: Duration) {
        if let Ok(mut deadline) = self.deadline.lock() {
            *deadline = Some(Instant::now() + time);
        }
    }
}
