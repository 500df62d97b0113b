//! Where a test works.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Mount, MountBuilder};

/// A mount, or a plain directory in its stead.
pub(crate) struct Place {
    root: PathBuf,
    name: String,
    mount: Option<Mount>,
    /// Keeps the plain directory.
    _plain: Option<tempfile::TempDir>,
}

impl Place {
    /// A new mount with owners and modes as on a local filesystem, and these options more.
    #[track_caller]
    pub(crate) fn new(options: &[&str]) -> Self {
        Self::built(Mount::builder().watchdog(Duration::from_secs(300)), options)
    }

    /// The mount of this builder, with `--access posix` and these options more.
    #[track_caller]
    pub(crate) fn built(builder: MountBuilder, options: &[&str]) -> Self {
        if let Some(directory) = std::env::var_os("CACHEFS_TEST_PLAIN") {
            let plain = tempfile::tempdir_in(directory).unwrap();
            fs::set_permissions(plain.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let root = plain.path().to_path_buf();
            return Self { root, name: "plain directory".into(), mount: None, _plain: Some(plain) };
        }
        let mount = builder.options(["--access", "posix"]).options(options.to_vec()).mount();
        fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            root: mount.path().to_path_buf(),
            name: format!("mount with {options:?}"),
            mount: Some(mount),
            _plain: None,
        }
    }

    /// Where to work.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A name below the root.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The mount, unless it is a plain directory.
    pub(crate) fn mount(&self) -> Option<&Mount> {
        self.mount.as_ref()
    }

    pub(crate) fn is_mount(&self) -> bool {
        self.mount.is_some()
    }
}

/// Runs a test on a mount as it is by default, and on one whose daemon carries all bytes itself.
#[track_caller]
pub(crate) fn everywhere(test: impl Fn(&Place)) {
    let ways: &[&[&str]] = if std::env::var_os("CACHEFS_TEST_PLAIN").is_some() {
        &[&[]]
    } else {
        &[&[], &["--no-passthrough"]]
    };
    for way in ways {
        run(&Place::new(way), &test);
    }
}

/// Runs a test on a mount as it is by default, where the way of the bytes makes no difference.
#[track_caller]
pub(crate) fn on_one(test: impl Fn(&Place)) {
    run(&Place::new(&[]), &test);
}

/// A failure says where it happened.
fn run(place: &Place, test: &impl Fn(&Place)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(place))) {
        eprintln!("failed on: {}", place.name);
        resume_unwind(panic);
    }
}

/// Makes the kernel forget the names and inodes that nobody uses. The tests beside are only slower for it.
#[track_caller]
pub(crate) fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("dropping caches needs root");
}
