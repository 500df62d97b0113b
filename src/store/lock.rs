//! Who owns a store: an exclusive lock on a file that says the owner's pid.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::StoreError;
use super::system::{self, TryLockError};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{Mode, OFlags};
use crate::platform::io::Errno;

const NAME: &str = "lock";

/// How long a holder that has written no pid is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held as long as it lives; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the store at `path`, whose own folder is `private`.
    pub(super) fn take(path: &Path, private: &OwnedFd) -> Result<Lock, StoreError> {
        let failed = |e: io::Error| StoreError::new(path, "lock .cachefs/lock", e);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = platform::fs::openat(private, NAME, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| failed(e.into()))?;
        let mut file = File::from(file);
        let in_use = |pid| StoreError::InUse { path: path.to_owned(), pid };
        match patient_lock(&file, private) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(read_pid(private))),
            Err(TryLockError::Error(e)) if refuses_locks(&e) => {
                if let Some(pid) = read_pid(private).filter(|&pid| system::is_daemon(pid)) {
                    return Err(in_use(Some(pid)));
                }
                tracing::warn!(
                    store = %path.display(),
                    "the store's filesystem has no locks ({e}): two daemons on it that start at the same \
                     moment, or on two machines, are not kept apart; move the store to a local filesystem",
                );
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Lock { file })
    }
}

impl Lock {
    /// Takes the pid out of the file: one that outlives its process could later name another one.
    pub(super) fn let_go(&self) {
        let _ = self.file.set_len(0);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn refuses_locks(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// The pid in the lock file.
pub(super) fn read_pid(private: &OwnedFd) -> Option<u32> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = platform::fs::openat(private, NAME, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Locks the file. A holder that has written no pid has locked it just now, or lets go of it in this
/// moment.
fn patient_lock(file: &File, private: &OwnedFd) -> Result<(), TryLockError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let locked = system::try_lock(file);
        let wait = matches!(locked, Err(TryLockError::WouldBlock)) && read_pid(private).is_none();
        if !wait || Instant::now() >= until {
            return locked;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
