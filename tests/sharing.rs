//! SEMANTICS 5.1: no `Permission denied` follows from another user having come first. Each test shows first
//! that a plain directory, opened to everyone, does fail the second user.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Finished, Mount, Run, needs_root, tool, wheelhouse};

/// Two users that need no account.
const USERS: [u32; 2] = [64_101, 64_102];

/// A place that both users can enter, with what they run and install: the work tree may be closed to them.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        needs_root();
        let directory = tempfile::tempdir().unwrap();
        open_to_all(directory.path(), 0o755);
        let place = Self { directory };
        for program in ["uv", "ruff"] {
            fs::copy(tool(program), place.at(program)).unwrap();
        }
        fs::create_dir(place.at("wheels")).unwrap();
        open_to_all(&place.at("wheels"), 0o755);
        for wheel in fs::read_dir(wheelhouse()).unwrap() {
            let wheel = wheel.unwrap();
            let copy = place.at("wheels").join(wheel.file_name());
            fs::copy(wheel.path(), &copy).unwrap();
            open_to_all(&copy, 0o644);
        }
        for user in USERS {
            let home = place.home(user);
            fs::create_dir(&home).unwrap();
            std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
        }
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn home(&self, user: u32) -> PathBuf {
        self.at(&format!("home-{user}"))
    }

    /// A plain directory that everyone may write to.
    fn plain(&self) -> PathBuf {
        let plain = self.at("plain");
        fs::create_dir(&plain).unwrap();
        open_to_all(&plain, 0o1777);
        plain
    }

    fn run(&self, user: u32, program: &str) -> Run {
        Run::new(self.at(program))
            .clean_environment(self.home(user))
            .directory(self.home(user))
            .user(user)
            .timeout(Duration::from_secs(60))
    }

    fn install(&self, user: u32, cache: &Path) -> Finished {
        let environment = self.home(user).join("environment");
        let uv = || {
            self.run(user, "uv")
                .env("UV_CACHE_DIR", cache)
                .env("UV_NO_CONFIG", "1")
                .env("UV_LINK_MODE", "copy")
        };
        let made = uv()
            .args(["venv", "--clear", "--python", "/usr/bin/python3"])
            .arg(&environment)
            .finish();
        if !made.status.success() {
            return made;
        }
        uv().args(["pip", "install", "--offline", "--no-index", "--python"])
            .arg(&environment)
            .arg("--find-links")
            .arg(self.at("wheels"))
            .args(["rich", "toolz", "markupsafe"])
            .finish()
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_second_user_installs_from_what_the_first_one_left() {
    let place = Place::new();
    let [first, second] = USERS;
    let plain = place.plain();
    assert!(place.install(first, &plain).status.success());
    let failed = place.install(second, &plain);
    assert!(!failed.status.success(), "a plain directory does as well\n{failed}");
    failed.says("Permission denied");

    let mount = Mount::new();
    let cache = mount.path().join("uv");
    let filled = place.install(first, &cache);
    assert!(filled.status.success(), "{filled}");
    filled.says("Prepared 6 packages");
    let served = place.install(second, &cache);
    assert!(served.status.success(), "{served}");
    served.says("Installed 6 packages").does_not_say("Prepared");
    // The first one may go on with what the second one touched, and clean what is not his.
    let again = place.install(first, &cache);
    assert!(again.status.success(), "{again}");
    place
        .run(second, "uv")
        .env("UV_CACHE_DIR", &cache)
        .args(["cache", "clean", "--force"])
        .succeeds();
    let refilled = place.install(first, &cache);
    assert!(refilled.status.success(), "{refilled}");
    refilled.says("Prepared 6 packages");
}

#[test]
fn ruff_checks_with_a_cache_that_another_user_made() {
    let place = Place::new();
    let [first, second] = USERS;
    let source = place.at("source");
    fs::create_dir(&source).unwrap();
    open_to_all(&source, 0o755);
    fs::write(source.join("module.py"), "X = 1\n").unwrap();
    open_to_all(&source.join("module.py"), 0o644);
    let check = |user, cache: &Path| {
        place
            .run(user, "ruff")
            .args(["check", "--isolated", "--cache-dir"])
            .arg(cache)
            .arg(&source)
            .finish()
    };
    let plain = place.plain().join("ruff");
    assert!(check(first, &plain).status.success());
    fs::write(source.join("module.py"), "Y = 2\n").unwrap();
    let failed = check(second, &plain);
    assert!(
        !failed.status.success() || failed.all_output().contains("Permission denied"),
        "a plain directory does as well\n{failed}"
    );

    let mount = Mount::new();
    let cache = mount.path().join("ruff");
    for user in [first, second, first] {
        let checked = check(user, &cache);
        assert!(checked.status.success(), "{checked}");
        checked.does_not_say("Permission denied").does_not_say("Failed");
    }
}
