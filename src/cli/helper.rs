//! `mount.cachefs`: what `mount -t cachefs`, `/etc/fstab` and systemd's `.mount` units call, by a link of that
//! name to this program in `/sbin`. See mount(8), "EXTERNAL HELPERS".

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use super::options::MountArgs;
use super::{Failure, mount, show};
use crate::telemetry;

/// The name by which this program is the helper.
pub(super) const NAME: &str = "mount.cachefs";

/// mount(8): the words are off.
const USAGE: u8 = 1;

/// mount(8): the mount failed.
const FAILED: u8 = 32;

/// mount(8) leaves little of PATH, and root is to run no one else's program; `fusermount3` is sought there.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory that holds the cache; created if it is missing
    store: PathBuf,

    /// Where to mount it: an empty directory; created if it is missing
    mountpoint: PathBuf,

    /// Options of `cachefs mount`, as NAME or NAME=VALUE, and those of mount(8) that mean something here
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<String>,

    /// Only look whether the options are known
    #[arg(short)]
    fake: bool,

    /// Say what was mounted
    #[arg(short)]
    verbose: bool,

    /// Does nothing: there is no /etc/mtab to write
    #[arg(short)]
    no_mtab: bool,

    /// Does nothing: an unknown option is refused all the same, lest one that is misspelled goes unnoticed
    #[arg(short)]
    sloppy: bool,

    /// Is refused: enter the namespace first
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<PathBuf>,

    /// Does nothing: it is always this type
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// Mounts a cache directory, as mount(8) wants it.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Helper {
    #[command(flatten)]
    args: Args,
}

/// Whether this program was called by the helper's name.
pub(super) fn is_called() -> bool {
    let called = std::env::args_os().next();
    called.is_some_and(|called| Path::new(&called).file_name() == Some(OsStr::new(NAME)))
}

/// Does what mount(8) asks for, with exit codes that it understands.
pub(super) fn main() -> ExitCode {
    let args = match Helper::try_parse() {
        Ok(helper) => helper.args,
        Err(error) => {
            // To standard output or standard error; there is nothing to do where neither takes it.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    telemetry::for_commands();
    let args = Args { options: asked_for(&args.options), ..args };
    if let Err(why) = check(&args) {
        let failure: Failure = why.into();
        show::failure(&*failure);
        return USAGE.into();
    }
    if args.fake {
        return ExitCode::SUCCESS;
    }
    let mut command = Command::new(mount::PROGRAM);
    command.args(["mount", "-o", &args.options.join(",")]).arg("--").env("PATH", PATH);
    if let Err(failure) = mount::start_child(command.args([&args.store, &args.mountpoint])) {
        show::failure(&*failure);
        return FAILED.into();
    }
    if args.verbose {
        println!("{NAME}: {} mounted on {}", args.store.display(), args.mountpoint.display());
    }
    ExitCode::SUCCESS
}

/// The options that somebody has written. mount(8) adds `noexec` to those that let users mount; a cache holds
/// programs, and there is none that gives rights to whoever runs it.
fn asked_for(options: &[String]) -> Vec<String> {
    let all = || options.iter().flat_map(|options| options.split(','));
    let for_users = all().any(|option| matches!(option, "user" | "users" | "owner" | "group"));
    all().filter(|option| !(for_users && *option == "noexec")).map(str::to_owned).collect()
}

fn check(args: &Args) -> Result<(), String> {
    if args.namespace.is_some() {
        return Err("-N is not supported; enter the namespace first (nsenter(1))".into());
    }
    let (store, mountpoint) = (args.store.clone(), args.mountpoint.clone());
    let settings = MountArgs::of(store, mountpoint, args.options.clone()).checked()?;
    if settings.foreground {
        return Err(
            "`-o foreground` is refused: mount(8) would wait for the end of the mount".into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mount_adds_for_users_is_taken_out() {
        let given = |options: &str| asked_for(&[options.to_owned()]).join(",");
        assert_eq!(given("rw,noexec,nosuid,user,noatime"), "rw,nosuid,user,noatime");
        assert_eq!(given("rw,noexec"), "rw,noexec");
    }
}
