//! The processes of this machine, as Windows has them.

use std::collections::HashMap;
use std::ffi::c_void;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use windows_sys::Wdk::System::Threading::{NtQueryInformationProcess, ProcessBasicInformation};
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, FILETIME, GetLastError, HANDLE, INVALID_HANDLE_VALUE, STILL_ACTIVE,
};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, GetProcessTimes, INFINITE, OpenProcess, PROCESS_BASIC_INFORMATION,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, RegisterWaitForSingleObject,
    UnregisterWait, UnregisterWaitEx, WT_EXECUTEONLYONCE,
};

use super::system::{Ends, Fate, Process, System, Watch};

/// The processes of this machine.
///
/// WinFsp tells of a caller which process he is in, and that is what he is known by here: no thread of its own is
/// watched. Job objects are not told from each other.
#[derive(Default)]
pub struct Windows(Arc<Watched>);

#[derive(Default)]
struct Watched {
    ends: OnceLock<Weak<dyn Ends>>,
    processes: Mutex<HashMap<u32, Waiting>>,
}

/// A process whose end is waited for.
struct Waiting {
    wait: Wait,
    // Closed after nobody waits for it.
    _process: OwnedHandle,
    told: *mut Told,
}

// SAFETY: what is told is used by the one who is told, and freed by the one who takes this out of the map.
unsafe impl Send for Waiting {}

/// Of `RegisterWaitForSingleObject`.
struct Wait(HANDLE);

// SAFETY: it is a number, which any thread may end.
unsafe impl Send for Wait {}

/// What the pool's thread is given that notices an end.
struct Told {
    watched: Weak<Watched>,
    process: u32,
}

impl std::fmt::Debug for Windows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let watched: Vec<u32> = self.0.processes.lock().keys().copied().collect();
        f.debug_struct("Windows").field("watched", &watched).finish()
    }
}

impl Windows {
    /// None is watched.
    pub fn new() -> Windows {
        Windows::default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for waiting in std::mem::take(self.processes.get_mut()).into_values() {
            // SAFETY: it was registered, and is not used again; when this returns nobody is being told.
            unsafe { UnregisterWaitEx(waiting.wait.0, INVALID_HANDLE_VALUE) };
            waiting.free();
        }
    }
}

impl Waiting {
    fn free(self) {
        // SAFETY: it was made by `Box::into_raw`, and whoever was told is done with it.
        drop(unsafe { Box::from_raw(self.told) });
    }
}

/// Opens a process, if it runs: one that has ended is still there as long as somebody has it open.
fn open(process: u32) -> Option<OwnedHandle> {
    let rights = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE;
    // SAFETY: it takes numbers.
    let opened = unsafe { OpenProcess(rights, 0, process) };
    // SAFETY: it has just been opened, for us.
    (!opened.is_null()).then(|| unsafe { OwnedHandle::from_raw_handle(opened) })
}

/// How it has ended, if it has.
fn exit_code(process: &OwnedHandle) -> Option<u32> {
    let mut code = 0;
    // SAFETY: it writes a number.
    let known = unsafe { GetExitCodeProcess(process.as_raw_handle(), &raw mut code) } != 0;
    (known && code != STILL_ACTIVE.cast_unsigned()).then_some(code)
}

/// When it was started, in NT's time.
fn started(process: &OwnedHandle) -> Option<u64> {
    let mut times = [FILETIME::default(); 4];
    let [start, end, kernel, user] = &mut times;
    // SAFETY: it writes to these four.
    let known = unsafe { GetProcessTimes(process.as_raw_handle(), start, end, kernel, user) } != 0;
    known.then(|| u64::from(times[0].dwHighDateTime) << 32 | u64::from(times[0].dwLowDateTime))
}

/// Who has started it, as far as that one has not ended: its number may be another's then.
fn parent(process: &OwnedHandle) -> Option<u32> {
    let mut found = PROCESS_BASIC_INFORMATION::default();
    let length = size_of_val(&found) as u32;
    // SAFETY: that is the structure of that class, and that long.
    let status = unsafe {
        NtQueryInformationProcess(
            process.as_raw_handle(),
            ProcessBasicInformation,
            (&raw mut found).cast(),
            length,
            std::ptr::null_mut(),
        )
    };
    let parent = u32::try_from(found.InheritedFromUniqueProcessId).ok().filter(|_| status >= 0)?;
    let older = started(&open(parent)?)? <= started(process)?;
    older.then_some(parent)
}

/// Called by a thread of the system's pool.
unsafe extern "system" fn ended(told: *mut c_void, _: bool) {
    // SAFETY: it lives until it is freed, which is done below, or once nobody is being told.
    let told = unsafe { &*told.cast::<Told>() };
    let (process, Some(watched)) = (told.process, told.watched.upgrade()) else { return };
    let Some(waiting) = watched.processes.lock().remove(&process) else { return };
    // SAFETY: it was registered, and is not used again; this does not wait for the call that it is made in.
    unsafe { UnregisterWait(waiting.wait.0) };
    waiting.free();
    if let Some(ends) = watched.ends.get().and_then(Weak::upgrade) {
        ends.process_ended(process);
    }
}

impl System for Windows {
    fn process(&self, process: u32) -> Option<Process> {
        let open = open(process)?;
        if exit_code(&open).is_some() {
            return None;
        }
        Some(Process { pid: process, parent: parent(&open).unwrap_or(0), cgroup: 0 })
    }

    /// A process that has crashed, or was ended by Ctrl-C, has an NTSTATUS for its exit code. Who was ended by another
    /// process has what that one says, and can't be told from one that has ended of itself.
    fn fate(&self, process: u32) -> Fate {
        const ERROR: u32 = 0xc000_0000;
        match open(process).as_ref().and_then(exit_code) {
            Some(ERROR..) => Fate::Killed,
            _ => Fate::Fine,
        }
    }

    /// None: a file is closed for us when the last handle is that stands for its opening, whoever has it.
    fn has_open(&self, _: u32, _: u64) -> bool {
        false
    }

    /// None, that is told: locks are the driver's.
    fn is_locked(&self, _: (u32, u32), _: u64) -> bool {
        false
    }

    fn report_to(&self, ends: Weak<dyn Ends>) {
        // Once: it is called once.
        let _ = self.0.ends.set(ends);
    }

    fn watch(&self, process: u32) -> bool {
        let mut processes = self.0.processes.lock();
        if processes.contains_key(&process) {
            return true;
        }
        let Some(open) = open(process) else {
            // SAFETY: it takes nothing.
            let is_gone = unsafe { GetLastError() } == ERROR_INVALID_PARAMETER;
            if !is_gone {
                tracing::debug!(process, "can't watch for the end of a process");
            }
            return false;
        };
        let told = Box::into_raw(Box::new(Told { watched: Arc::downgrade(&self.0), process }));
        let mut wait = std::ptr::null_mut();
        // SAFETY: `told` is freed only when it is not used any more, and the process is open as long as it is waited
        // for.
        let registered = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                open.as_raw_handle(),
                Some(ended),
                told.cast(),
                INFINITE,
                WT_EXECUTEONLYONCE,
            )
        };
        let waiting = Waiting { wait: Wait(wait), _process: open, told };
        if registered == 0 {
            waiting.free();
            return false;
        }
        // Whoever is told waits for the lock.
        processes.insert(process, waiting);
        true
    }

    fn watch_thread(&self, _: u32) -> Watch {
        Watch::No
    }

    fn unwatch_thread(&self, _: u32) {}

    fn watch_group(&self, _: u64, _: u32) {}

    fn is_populated(&self, _: u64) -> Option<bool> {
        None
    }

    fn unwatch_group(&self, _: u64) {}
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    struct Heard(Mutex<mpsc::Sender<u32>>);

    impl Ends for Heard {
        fn process_ended(&self, process: u32) {
            self.0.lock().send(process).unwrap();
        }

        fn thread_ended(&self, _: u32) {}

        fn group_emptied(&self, _: u64) {}
    }

    /// A process that lasts until its input is closed.
    fn child() -> std::process::Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "readers::windows::tests::a_child_that_waits",
            "--include-ignored",
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    #[ignore = "a child of other tests"]
    fn a_child_that_waits() {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }

    #[test]
    fn a_process_has_its_parent_and_its_end_is_told() {
        let (send, heard) = mpsc::channel();
        let heard_by: Arc<dyn Ends> = Arc::new(Heard(Mutex::new(send)));
        let system = Windows::new();
        system.report_to(Arc::downgrade(&heard_by));
        let mut child = child();
        let pid = child.id();
        let process = system.process(pid).unwrap();
        assert_eq!(process, Process { pid, parent: std::process::id(), cgroup: 0 });
        assert!(system.watch(pid) && system.watch(pid));
        assert_eq!(system.fate(pid), Fate::Fine);
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok(pid));
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
        // Still open, and gone all the same.
        assert_eq!(system.process(pid), None);
        assert_eq!(format!("{system:?}"), "Windows { watched: [] }");
    }

    #[test]
    fn what_is_watched_may_last_longer() {
        let mut child = child();
        let system = Windows::new();
        assert!(system.watch(child.id()));
        drop(system);
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn nobody_is_nobody() {
        let system = Windows::new();
        assert_eq!(system.process(3), None);
        assert!(!system.watch(3));
    }
}
