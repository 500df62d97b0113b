//! A filesystem on which writing or reading fails when the test says so.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::needs_root;

/// Mounted until it is dropped.
pub(crate) struct Faulty {
    place: tempfile::TempDir,
    server: Child,
}

impl Faulty {
    #[track_caller]
    pub(crate) fn new() -> Faulty {
        needs_root();
        let place = tempfile::Builder::new().prefix("cachefs-faulty-").tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["source", "shown"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::create_dir(at("source/store")).unwrap();
        fs::write(at("faults"), "").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty/faulty.py");
        let mut server = Command::new("/usr/bin/python3")
            .arg(script)
            .args([at("source"), at("shown"), at("faults")])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !at("shown/store").exists() {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none(), "the faulty filesystem is gone ({ended:?}): run tests/setup");
            assert!(Instant::now() < deadline, "the faulty filesystem is not there");
            std::thread::sleep(Duration::from_millis(20));
        }
        Faulty { place, server }
    }

    /// The directory that is shown with its faults.
    pub(crate) fn store(&self) -> PathBuf {
        self.place.path().join("shown/store")
    }

    /// The same without faults.
    pub(crate) fn source(&self) -> PathBuf {
        self.place.path().join("source/store")
    }

    /// What fails from now on: `write`, `read`, both, or nothing.
    pub(crate) fn fails(&self, what: &str) {
        let new = self.place.path().join("faults.new");
        fs::write(&new, what).unwrap();
        fs::rename(new, self.place.path().join("faults")).unwrap();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let shown = self.place.path().join("shown");
        let _ = Command::new("umount").arg("-l").arg(shown).status();
        // It ends by itself once nobody uses its filesystem.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.server.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.server.kill();
                let _ = self.server.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
