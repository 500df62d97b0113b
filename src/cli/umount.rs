//! `cachefs umount`: by the daemon, or without it where it is gone.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{Failure, Named};
use crate::control::Command;
use crate::control::client::{Client, ClientError};
use crate::system::busy;
use crate::system::mounts::{self, MountPoint};

/// A daemon has so long to let go of the store after it has unmounted.
const END_TIME: Duration = Duration::from_secs(30);

/// So long, when others may have files open after a lazy unmount, or have the mount in a container: then its
/// end may be long in coming.
const SHORT_END_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    named: Named,

    /// Take it away also while it is in use: those who have files open may finish
    #[arg(long)]
    lazy: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mount = mounts::find(args.named.mount.as_deref())?;
    match Client::of(&mount) {
        Ok(client) => by_daemon(client, &mount, args.lazy)?,
        Err(ClientError::NoDaemon(_)) => without_daemon(&mount, args.lazy)?,
        Err(other) => return Err(other.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn by_daemon(mut client: Client, mount: &MountPoint, lazy: bool) -> Result<(), Failure> {
    let daemon = client.process();
    client.ask(&Command::Unmount { lazy })?;
    let Some(daemon) = daemon else { return Ok(()) };
    if daemon.wait(SHORT_END_TIME) {
        return Ok(());
    }
    let (at, store) = (mount.path.display(), mount.source.display());
    if lazy {
        tracing::warn!(
            "{at} is gone; the daemon keeps the store {store} until the last open file is closed"
        );
        return Ok(());
    }
    let holders = busy::elsewhere(mount);
    if !holders.is_empty() {
        return Err(format!(
            "{at} is unmounted here, but containers still have it, and the daemon serves them from the store \
             {store} until they end: {}",
            busy::list(&holders)
        )
        .into());
    }
    if daemon.wait(END_TIME) {
        return Ok(());
    }
    Err(format!(
        "{at} is unmounted, but its daemon still holds the store {store}; look into its log"
    )
    .into())
}

/// Where the daemon was killed the mount is still there, and every call on it fails.
fn without_daemon(mount: &MountPoint, lazy: bool) -> Result<(), Failure> {
    mounts::unmount(&mount.path, lazy).map_err(|error| explain(&mount.path, &error))
}

fn explain(at: &Path, error: &std::io::Error) -> Failure {
    let shown = at.display();
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            let users = busy::list(&busy::users(at));
            format!(
                "{shown} is in use by {users}; end that, or use `cachefs umount --lazy {shown}`"
            )
            .into()
        }
        _ => format!("can't unmount {shown}: {error}; run as root or as the user who mounted it")
            .into(),
    }
}
