//! Signals on their way to a command.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus};

use libc::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, c_int, sigset_t};

use crate::cli::Failure;

/// What is passed on.
const FORWARDED: [c_int; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// Signals of this process, which wait until they are asked for.
pub(super) struct Signals {
    held: sigset_t,
    before: Mask,
}

/// Which signals a process does not take.
#[derive(Clone, Copy)]
pub(super) struct Mask(sigset_t);

impl Mask {
    /// Makes it that of the calling thread; may be called between fork and exec.
    pub(super) fn restore(self) -> io::Result<()> {
        // SAFETY: the set was filled in by the same call.
        let failed = unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Signals {
    /// Lets signals wait from here on. For a process that has one thread.
    pub(super) fn hold() -> io::Result<Signals> {
        let held = set(FORWARDED.into_iter().chain([SIGCHLD]));
        let mut before = MaybeUninit::uninit();
        // SAFETY: both are sets of this function's own, and the second one is filled in.
        let failed =
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const held, before.as_mut_ptr()) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was filled in, for the call succeeded.
        Ok(Signals { held, before: Mask(unsafe { before.assume_init() }) })
    }

    /// What was held before.
    pub(super) fn mask_before(&self) -> Mask {
        self.before
    }

    /// A signal that has arrived and would have ended this process.
    pub(super) fn arrived(&self) -> Option<c_int> {
        let (wanted, now) = (set(FORWARDED), libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the set and the time outlive the call, and it is told nothing of who sent the signal.
        let signal =
            unsafe { libc::sigtimedwait(&raw const wanted, std::ptr::null_mut(), &raw const now) };
        (signal > 0).then_some(signal)
    }

    /// Passes signals on to `child` until it ends; how it did.
    pub(super) fn forward_until_end(&self, mut child: Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let mut about = MaybeUninit::<libc::siginfo_t>::uninit();
            // SAFETY: both outlive the call, which fills in the second one.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.held, about.as_mut_ptr()) };
            if signal <= 0 || signal == SIGCHLD {
                continue;
            }
            // SAFETY: it was filled in, for there was a signal.
            let from_terminal = unsafe { about.assume_init() }.si_code > 0;
            // What is typed at a terminal the command gets from there.
            if !from_terminal {
                // SAFETY: kill takes no pointers, and the child was not waited for: the pid is its own.
                unsafe { libc::kill(child.id().cast_signed(), signal) };
            }
        }
    }
}

fn set(signals: impl IntoIterator<Item = c_int>) -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset fills it in, and sigaddset is given numbers of signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Ends as a command has ended: by the same signal, if it was one.
pub(super) fn end_like(status: ExitStatus) -> Result<ExitCode, Failure> {
    let Some(signal) = status.signal() else {
        let code = u8::try_from(status.code().unwrap_or(1))?;
        return Ok(ExitCode::from(code));
    };
    // One core is enough, and the command has written it.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let only = set([signal]);
    // SAFETY: no handler of ours is installed, and the set outlives the call.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
    }
    // For the few that end nobody.
    Ok(ExitCode::from(u8::try_from(128 + signal)?))
}
