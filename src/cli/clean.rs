//! `cachefs clean`: takes everything, or some paths, out of the live view in one step.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::{Failure, show};
use crate::control::client::Client;
use crate::control::{Command, paths};
use crate::system::mounts::{self, FindError, MountPoint};

#[derive(Debug, clap::Args)]
#[command(override_usage = "cachefs clean [OPTIONS] [MOUNT] [PATH]...")]
pub(super) struct Args {
    /// The mount, by its mountpoint or its store (may be left out where there is just one), then what
    /// to remove: paths relative to the mount, or absolute ones in it. Everything if there are none
    #[arg(value_name = "PATH")]
    words: Vec<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (mount, given) = split(&args.words)?;
    let inside = given.iter().map(|path| relative(path, &mount.path));
    let paths = inside.collect::<Result<Vec<_>, _>>()?;
    let done = Client::of(&mount)?.ask(&Command::Clean { paths })?;
    let number = |key: &str| done[key].as_u64().unwrap_or(0);
    let (removed, seen_by) = (number("removed"), number("seen_by"));
    show::print(&if args.json {
        format!("{:#}\n", json!({"version": 1, "removed": removed, "seen_by": seen_by}))
    } else {
        sentence(removed, seen_by)
    })
}

/// Which mount is meant, and which paths. The first word is a mount if it names one by its mountpoint
/// or its store; an absolute path in a mount names both.
pub(super) fn split(words: &[PathBuf]) -> Result<(MountPoint, &[PathBuf]), Failure> {
    let Some((first, others)) = words.split_first() else {
        return Ok((mounts::find(None)?, words));
    };
    match mounts::find(Some(first)) {
        Ok(mount) => return Ok((mount, others)),
        Err(FindError::NotOne(_)) => {}
        Err(other) => return Err(other.into()),
    }
    if !first.is_absolute() {
        return Ok((mounts::find(None)?, words));
    }
    let around = mounts::ours()?.into_iter().filter(|mount| inside(first, &mount.path).is_some());
    // The innermost of several, and the last one mounted there.
    let around = around.max_by_key(|mount| mount.path.as_os_str().len());
    let mount = around.ok_or_else(|| FindError::NotOne(first.clone()))?;
    Ok((mount, words))
}

/// A path that was given, as the daemon of the mount at `mountpoint` takes it.
pub(super) fn relative(path: &Path, mountpoint: &Path) -> Result<PathBuf, Failure> {
    if !path.is_absolute() {
        return Ok(paths::in_mount(path)?);
    }
    let inside = inside(path, mountpoint).ok_or_else(|| {
        let (path, mountpoint) = (path.display(), mountpoint.display());
        format!("{path} is not in the mount at {mountpoint}; give paths relative to it")
    })?;
    Ok(paths::in_mount(&inside)?)
}

/// The part of an absolute path below `mountpoint`, which it may reach through symbolic links; the
/// last name stands for itself, also where it is one.
fn inside(path: &Path, mountpoint: &Path) -> Option<PathBuf> {
    let below = |path: &Path| path.strip_prefix(mountpoint).map(Path::to_owned).ok();
    below(path).or_else(|| {
        let parent = std::fs::canonicalize(path.parent()?).ok()?;
        below(&parent.join(path.file_name()?))
    })
}

fn sentence(removed: u64, seen_by: u64) -> String {
    let names = match removed {
        0 => return "There was nothing to remove.\n".into(),
        1 => "Removed 1 name.".to_owned(),
        many => format!("Removed {many} names."),
    };
    let it = if removed == 1 { "it" } else { "them" };
    match seen_by {
        0 => format!("{names}\n"),
        1 => format!("{names} 1 job still sees {it}; see `cachefs readers`.\n"),
        jobs => format!("{names} {jobs} jobs still see {it}; see `cachefs readers`.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_counted() {
        assert_eq!(sentence(0, 0), "There was nothing to remove.\n");
        assert_eq!(sentence(1, 0), "Removed 1 name.\n");
        assert_eq!(
            sentence(12, 3),
            "Removed 12 names. 3 jobs still see them; see `cachefs readers`.\n"
        );
        assert_eq!(sentence(1, 1), "Removed 1 name. 1 job still sees it; see `cachefs readers`.\n");
    }

    #[test]
    fn absolute_paths_are_made_relative() {
        let home = tempfile::tempdir().unwrap();
        let home = std::fs::canonicalize(home.path()).unwrap();
        let mountpoint = home.join("m");
        std::fs::create_dir_all(mountpoint.join("uv")).unwrap();
        std::os::unix::fs::symlink("m", home.join("link")).unwrap();
        std::os::unix::fs::symlink("uv", mountpoint.join("last")).unwrap();
        let made = |path: PathBuf| relative(&path, &mountpoint).map_err(|e| e.to_string());
        assert_eq!(made(mountpoint.join("uv/gone")), Ok("uv/gone".into()));
        assert_eq!(made(home.join("link/uv/gone")), Ok("uv/gone".into()));
        assert_eq!(made(home.join("link/last")), Ok("last".into()));
        assert_eq!(made("./uv/".into()), Ok("uv".into()));
        assert!(made(home.join("mm")).unwrap_err().contains("not in the mount"));
        assert!(made(mountpoint.join("../x")).unwrap_err().contains("`..`"));
        assert!(made("../x".into()).unwrap_err().contains("`..`"));
        assert!(made(mountpoint.clone()).unwrap_err().contains("no path at all"));
    }
}
