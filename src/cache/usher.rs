//! Working directories that were removed keep their names.
//!
//! `getcwd(2)` fails in a directory whose name the kernel has let go of, as it does when somebody removes it. It
//! takes the name up again when somebody looks it up who still sees the directory. Those who work in it need not
//! ever do that; so after each removal a process that the daemon has outside of itself does it for them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cachefs_mount::{Caller, NodeId};
use parking_lot::Mutex;

use super::Cache;
use super::lookup::Seen;
use super::tree::{DEEPEST, KeptList};
use super::view::{During, Moment, Reader, Stage};
use crate::platform::ffi::OsStringExt;

/// Who can look at processes, and look up names in the mount.
pub trait Usher: Send + Sync + 'static {
    /// The process that looks them up, and does nothing else in the mount.
    fn process(&self) -> u32;
    /// The inodes of the mount, whose device this is, that processes work in although the kernel has let go
    /// of their names.
    fn lost(&self, device: (u32, u32)) -> Vec<u64>;
    /// Looks up a path, relative to the mount.
    fn look_up(&self, path: &Path);
}

/// So long after a removal it is looked whether anybody is lost all the same.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// So much longer than that takes, nobody looks again.
const REST: u32 = 4;

/// As the view function knows the usher: he sees all that anybody may still see.
const EVERYTHING: Reader =
    Reader { id: u64::MAX - 2, began: Moment(0), during: During::NONE, user: None };

#[derive(Default)]
pub(super) struct Ushering {
    usher: OnceLock<Arc<dyn Usher>>,
    wake: Mutex<Option<Sender<NodeId>>>,
}

impl Ushering {
    /// As the view function knows a caller who is the usher.
    pub(super) fn reader(&self, caller: &Caller) -> Option<Reader> {
        let usher = self.usher.get()?;
        (caller.thread != 0 && usher.process() == caller.thread).then_some(EVERYTHING)
    }

    /// The kernel lets go of the name of a directory that others go on seeing.
    pub(super) fn show(&self, directory: NodeId) {
        if let Some(wake) = &*self.wake.lock() {
            // It ends with the cache; then there is nobody to be shown anywhere.
            let _ = wake.send(directory);
        }
    }
}

impl Cache {
    /// Has somebody keep the names of working directories that are removed.
    pub fn guided_by(self: &Arc<Self>, usher: Arc<dyn Usher>) -> std::io::Result<()> {
        let (wake, woken) = std::sync::mpsc::channel();
        *self.ushering.wake.lock() = Some(wake);
        // Once: it is mounted once.
        let _ = self.ushering.usher.set(usher.clone());
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("usher".into()).spawn(move || {
            // When to look who is lost, if anybody may be, and not before when.
            let (mut look, mut rested) = (None::<Instant>, Instant::now());
            loop {
                let next = match look {
                    None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    Some(at) => woken.recv_timeout(at.saturating_duration_since(Instant::now())),
                };
                let Some(cache) = cache.upgrade() else { return };
                match next {
                    Ok(first) => {
                        // The same many times, where somebody looks for one again and again.
                        let all: HashSet<NodeId> = woken.try_iter().chain([first]).collect();
                        for path in all.into_iter().filter_map(|it| cache.last_path(it)) {
                            usher.look_up(&path);
                        }
                        look.get_or_insert(rested.max(Instant::now() + LOOK_AFTER));
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        let began = Instant::now();
                        cache.show_all(&*usher);
                        (look, rested) = (None, began + began.elapsed() * (1 + REST));
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(())
    }

    /// Somebody is told something else than a directory that others still see: by that the kernel lets go of
    /// the directory's name.
    pub(super) fn keep_reachable(&self, caller: &Caller, kept: &KeptList, seen: &Seen) {
        // Of two under one name, he can show the way to one.
        if self.ushering.reader(caller).is_some() {
            return;
        }
        // Each is held as a version.
        let is_told = |what| matches!(seen, Seen::Kept(told) if *told == what);
        let lets_go =
            kept.iter().filter(|kept| matches!(kept.version.stage, Stage::Retired { .. }));
        let let_go = lets_go.map(|kept| kept.version.what).filter(|what| !is_told(*what));
        for directory in let_go {
            if self.tree.is_used_directory(directory, 1) {
                self.ushering.show(directory);
            }
        }
    }

    fn show_all(&self, usher: &dyn Usher) {
        let Some(kernel) = self.kernel.get() else { return };
        for inode in usher.lost(kernel.device()) {
            if let Some(path) = self.last_path(NodeId(inode)) {
                usher.look_up(&path);
            }
        }
    }

    /// The path that something has, or had, relative to the store.
    pub(super) fn last_path(&self, node: NodeId) -> Option<PathBuf> {
        let (mut at, mut names) = (node, Vec::new());
        while at != NodeId::ROOT {
            let place = self.tree.get(at).ok()?.last_place()?;
            if names.len() > DEEPEST {
                return None;
            }
            at = place.parent();
            names.push(place.name);
        }
        names.reverse();
        Some(PathBuf::from(OsString::from_vec(names.join(&b'/'))))
    }
}
