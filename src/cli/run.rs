//! `cachefs run`: a mount for one command, which needs no privileges.
//!
//! The mount is [kept](keeper) by a process of its own for all who run something with one store, and is gone when
//! the last of them has ended, however that was: each has a connection to the keeper as long as it runs. Where
//! that is possible the mount is made in [namespaces](namespace) of its own, into which only the commands are led.

mod keeper;
mod lease;
mod namespace;
mod signals;

use std::ffi::{CString, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use super::{Failure, env, show};
use crate::system::mounts;

pub(super) use keeper::{Args as KeeperArgs, KEEPER, keep};
use lease::Lease;
use namespace::Namespaces;
use signals::Signals;

/// As shells say that a command was found, but can't be started.
const NOT_STARTED: u8 = 126;

/// As shells say that there is no such command.
const NOT_FOUND: u8 = 127;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory that holds the cache; created if it is missing [default: `cachefs` in the user's cache
    /// directory]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    /// Where the command sees it: an empty directory, or one that is created [default: the store's name with
    /// `.mount` behind it]
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,

    /// The command and its words
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Runs the command and ends as it does: with its exit code, or by the signal that ended it.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // First of all: what arrives from here on must not leave a mount behind.
    let signals = Signals::hold()?;
    let store = store(args)?;
    let at = match &args.at {
        Some(at) => mounts::resolve(at)?,
        None => {
            let mut name = store.clone().into_os_string();
            name.push(".mount");
            name.into()
        }
    };
    let lease = Lease::take(&store, &at, signals.mask_before())?;
    if args.at.is_some() && lease.mountpoint() != at {
        let (store, there) = (store.display(), lease.mountpoint().display());
        tracing::warn!(
            "the store {store} is mounted already, at {there}: the command finds it there"
        );
    }
    let ended = match signals.arrived() {
        Some(signal) => Ok(ExitStatus::from_raw(signal)),
        None => start(args, &lease, &signals),
    };
    // Before this process ends in whatever way: nothing of it is to be left then.
    lease.give_back();
    signals::end_like(ended?)
}

/// The store that is meant, which exists then.
fn store(args: &Args) -> Result<PathBuf, Failure> {
    let store = match &args.store {
        Some(store) => store.clone(),
        None => user_cache().ok_or("HOME is not set; name a store by --store")?.join("cachefs"),
    };
    let created = DirBuilder::new().recursive(true).mode(0o700).create(&store);
    created.map_err(|e| {
        format!("can't create the store {}: {e}; name another one by --store", store.display())
    })?;
    Ok(mounts::resolve(&store)?)
}

/// The user's own cache directory, as the XDG base directory specification has it.
fn user_cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
}

/// Runs the command to its end.
fn start(args: &Args, lease: &Lease, signals: &Signals) -> Result<ExitStatus, Failure> {
    let (program, words) = args.command.split_first().ok_or("there is no command")?;
    let namespaces = lease.daemon().map(Namespaces::of).transpose();
    let namespaces = namespaces.map_err(|e| format!("can't enter the mount's namespaces: {e}"))?;
    let (mask, parent) = (signals.mask_before(), std::process::id());
    let directory = namespace::current_directory();
    let mountpoint = CString::new(lease.mountpoint().as_os_str().as_bytes())?;
    let mut command = Command::new(program);
    command.args(words).envs(env::variables(lease.mountpoint()));
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if let Some(namespaces) = &namespaces {
                namespaces.enter()?;
                // The kernel takes the mount's root for one of user 0, who does not exist in a user namespace
                // of ours, and lets nothing be made in it until it has asked whose it is.
                rustix::fs::stat(mountpoint.as_c_str())?;
                if let Some(directory) = &directory {
                    rustix::process::chdir(directory.as_c_str())?;
                }
            }
            namespace::end_with(parent, rustix::process::Signal::KILL)?;
            mask.restore()
        });
    }
    match command.spawn() {
        Ok(child) => Ok(signals.forward_until_end(child)?),
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_STARTED,
            };
            let why = format!("can't run {}: {error}; name a program", program.display());
            let failure: Failure = why.into();
            show::failure(&*failure);
            Ok(ExitStatus::from_raw(i32::from(code) << 8))
        }
    }
}
