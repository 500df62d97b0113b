//! Where jobs meet.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Agent;
use crate::common::{Finished, Mount, MountBuilder, Run, staged};

/// What is to be seen below a directory, by name: `/`, `= contents` or `-> target`.
pub(crate) type View = BTreeMap<String, String>;

/// How long what happens in the background may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mount, or a plain directory in its stead, with a file `anchor` in it.
pub(crate) struct Ground {
    root: PathBuf,
    store: PathBuf,
    mount: Option<Mount>,
    place: tempfile::TempDir,
}

impl Ground {
    /// A new mount as it is by default.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A new mount with these options.
    #[track_caller]
    pub(crate) fn with(options: &[&str]) -> Self {
        Self::built(Mount::builder().options(options.to_vec()))
    }

    /// The mount of this builder, whose store is a new one here.
    #[track_caller]
    pub(crate) fn built(builder: MountBuilder) -> Self {
        let mut ground = Self::plain();
        if std::env::var_os("CACHEFS_TEST_PLAIN").is_none() {
            let mount = builder.store(&ground.store).mount();
            ground.root = mount.path().to_path_buf();
            ground.mount = Some(mount);
        }
        ground
    }

    /// A plain directory.
    #[track_caller]
    pub(crate) fn plain() -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("cachefs-views-");
        let place = match std::env::var_os("CACHEFS_TEST_PLAIN") {
            Some(directory) => builder.tempdir_in(directory),
            None => builder.tempdir(),
        };
        let place = place.unwrap();
        let store = fs::canonicalize(place.path()).unwrap().join("store");
        fs::create_dir(&store).unwrap();
        fs::write(store.join("anchor"), "anchor").unwrap();
        Self { root: store.clone(), store, mount: None, place }
    }

    /// Where jobs work. Not to be opened by the test itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    #[track_caller]
    pub(crate) fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("this is a plain directory")
    }

    pub(crate) fn is_mount(&self) -> bool {
        self.mount.is_some()
    }

    /// A directory that has nothing to do with the mount.
    #[track_caller]
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A process that will be a job once it opens something.
    #[track_caller]
    pub(crate) fn agent(&self) -> Agent {
        Agent::new(&self.root)
    }

    /// Several of them.
    #[track_caller]
    pub(crate) fn agents<const COUNT: usize>(&self) -> [Agent; COUNT] {
        std::array::from_fn(|_| self.agent())
    }

    /// A job that has begun: it has read the anchor, and knows nothing else yet.
    #[track_caller]
    pub(crate) fn older(&self) -> Agent {
        let mut agent = self.agent();
        assert_eq!(agent.read("/anchor"), "anchor");
        agent
    }

    /// Runs a shell script in the root, as a job of its own that ends with it.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> Finished {
        Run::shell(script).directory(&self.root).succeeds()
    }

    /// `cachefs clean` of these paths, or of all if there are none; on a plain directory, what does the same.
    #[track_caller]
    pub(crate) fn clean(&self, paths: &[&str]) -> Finished {
        if !self.is_mount() {
            let all = if paths.is_empty() { "./*".to_owned() } else { paths.join(" ") };
            return self.shell(&format!("rm -rf {all}"));
        }
        self.mount().cachefs(["clean"]).arg(&self.root).args(paths).succeeds()
    }

    /// The live view, as the store has it.
    #[track_caller]
    pub(crate) fn live(&self) -> View {
        view_of(&self.store)
    }

    /// Fails the test unless the live view is the anchor and this.
    #[track_caller]
    pub(crate) fn live_is<const COUNT: usize>(&self, names: [(&str, &str); COUNT]) {
        assert_eq!(self.live(), view([("anchor", "= anchor")].into_iter().chain(names)));
    }

    /// Space and names that are retired, by what `cachefs status` says.
    #[track_caller]
    pub(crate) fn retired(&self) -> (u64, u64) {
        if !self.is_mount() {
            return (0, 0);
        }
        let status = self.mount().status();
        let number = |key: &str| {
            let number = status["retired"][key].as_u64();
            number.unwrap_or_else(|| panic!("status tells no retired {key}: {status:#}"))
        };
        (number("bytes"), number("files"))
    }

    /// Waits until nothing that was removed is left.
    #[track_caller]
    pub(crate) fn reclaimed(&self) {
        if !self.is_mount() {
            return;
        }
        let retired = self.store.join(".cachefs/retired");
        eventually("everything retired is reclaimed", || {
            names(&retired).is_empty() && self.retired() == (0, 0)
        });
    }

    /// Waits until nothing that was being written is left.
    #[track_caller]
    pub(crate) fn nothing_is_staged(&self) {
        if self.is_mount() {
            eventually("nothing is staged any more", || staged(&self.store).is_empty());
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Before the directory that its store lies in.
        drop(self.mount.take());
    }
}

fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let listing = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("listing {}: {error}", directory.display()));
    listing.map(|entry| entry.unwrap().file_name()).collect()
}

fn view<'a>(names: impl IntoIterator<Item = (&'a str, &'a str)>) -> View {
    names.into_iter().map(|(name, what)| (name.to_owned(), what.to_owned())).collect()
}

/// A directory that is no mount, as an agent tells it. What is the daemon's own is left out.
#[track_caller]
pub(crate) fn view_of(directory: &Path) -> View {
    let mut found = View::new();
    let mut left = vec![(directory.to_path_buf(), String::new())];
    while let Some((directory, above)) = left.pop() {
        for name in names(&directory) {
            let path = directory.join(&name);
            let name = format!("{above}{}", name.display());
            if name == ".cachefs" {
                continue;
            }
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let what = if kind.is_dir() {
                left.push((path, format!("{name}/")));
                "/".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                format!("= {}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
            };
            found.insert(name, what);
        }
    }
    found
}

/// Waits for what happens in the background, and fails the test when it takes too long.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "after {PATIENCE:?} it doesn't hold that {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Runs a test on a mount as it is by default, and on one whose daemon carries all bytes itself.
#[track_caller]
pub(crate) fn everywhere(test: impl Fn(&Ground)) {
    let plain = std::env::var_os("CACHEFS_TEST_PLAIN").is_some();
    let ways: &[&[&str]] = if plain { &[&[]] } else { &[&[], &["--no-passthrough"]] };
    for way in ways {
        let ground = Ground::with(way);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(&ground))) {
            eprintln!("failed on a mount with {way:?}");
            resume_unwind(panic);
        }
    }
}
