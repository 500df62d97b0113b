//! Filesystems of our own, in images on loop devices.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::common::{Run, needs, needs_root};

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
    /// Upper and lower directories on a tmpfs.
    Overlay,
}

/// What `lowered/file` holds, which lies in the lower directory of an overlay.
pub(crate) const LOWERED: &str = "was there before";

/// A mounted filesystem, that is gone with its value.
pub(crate) struct Image {
    place: tempfile::TempDir,
    mountpoints: Vec<PathBuf>,
}

impl Image {
    /// A new filesystem of that many MiB.
    #[track_caller]
    pub(crate) fn new(filesystem: Filesystem, mebibytes: u64) -> Self {
        Self::with(filesystem, mebibytes, &[])
    }

    /// The same with words more for `mkfs`.
    #[track_caller]
    pub(crate) fn with(filesystem: Filesystem, mebibytes: u64, words: &[&str]) -> Self {
        needs_root();
        let place = tempfile::Builder::new().prefix("cachefs-image-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut image = Self { place, mountpoints: Vec::new() };
        let (name, make): (_, &[&str]) = match filesystem {
            Filesystem::Ext4 => ("ext4", &["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"]),
            Filesystem::Xfs => ("xfs", &["-q"]),
            Filesystem::Btrfs => ("btrfs", &["-q"]),
            Filesystem::Tmpfs => {
                image.mount("tmpfs", "tmpfs", &format!("mode=755,size={mebibytes}m"), "root");
                return image;
            }
            Filesystem::Overlay => {
                image.mount("tmpfs", "tmpfs", &format!("mode=755,size={mebibytes}m"), "base");
                let base = image.place.path().join("base");
                for directory in ["lower/lowered", "upper", "work"] {
                    fs::create_dir_all(base.join(directory)).unwrap();
                }
                fs::write(base.join("lower/lowered/file"), LOWERED).unwrap();
                let base = base.display();
                let options =
                    format!("lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work");
                image.mount("overlay", "overlay", &options, "root");
                return image;
            }
        };
        let file = image.place.path().join("image");
        File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
        Run::new(needs(&format!("mkfs.{name}"))).args(make).args(words).arg(&file).succeeds();
        // The file holds zeros already; zeroing them again would go on for as long as the test.
        let options = if name == "ext4" { "loop,noinit_itable" } else { "loop" };
        image.mount(name, file.to_str().unwrap(), options, "root");
        image
    }

    #[track_caller]
    fn mount(&mut self, kind: &str, source: &str, options: &str, below: &str) {
        let mountpoint = self.place.path().join(below);
        fs::create_dir(&mountpoint).unwrap();
        Run::new("mount").args(["-t", kind, "-o", options, source]).arg(&mountpoint).succeeds();
        self.mountpoints.push(mountpoint);
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.mountpoints.last().unwrap()
    }

    /// A new directory on it.
    #[track_caller]
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for mountpoint in self.mountpoints.iter().rev() {
            // A failing test may have left something open; nothing may be left mounted for that.
            let done = std::process::Command::new("umount").arg("-l").arg(mountpoint).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("{} is still mounted", mountpoint.display());
            }
        }
    }
}
