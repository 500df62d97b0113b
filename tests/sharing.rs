//! SEMANTICS 5.1: no `Permission denied` follows from another user having come first. Each test shows first
//! that a plain directory, opened to everyone, does fail the second user.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Finished, Index, Mount, Run, needs_root, tool, wheelhouse};

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
            // Not by this process: another one that it is just starting would have it open for writing.
            Run::new("cp").args([tool(program), place.at(program)]).succeeds();
        }
        fs::create_dir(place.at("wheels")).unwrap();
        open_to_all(&place.at("wheels"), 0o755);
        for wheel in fs::read_dir(wheelhouse()).unwrap() {
            let wheel = wheel.unwrap();
            let copy = place.at("wheels").join(wheel.file_name());
            fs::copy(wheel.path(), &copy).unwrap();
            open_to_all(&copy, 0o644);
        }
        for user in [0, USERS[0], USERS[1]] {
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

/// pip keeps its cache to itself: it goes by who owns the directory, and by whether it can be written to.
#[test]
fn pip_serves_root_and_users_from_one_cache() {
    let place = Place::new();
    let index = Index::new();
    let pip = |user: u32, cache: &Path| {
        let target = place.home(user).join("target");
        let _ = fs::remove_dir_all(&target);
        place
            .run(user, "environment/bin/python")
            .env("PIP_CACHE_DIR", cache)
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_INDEX_URL", index.url())
            .env("PIP_TRUSTED_HOST", "127.0.0.1")
            .args(["-m", "pip", "install", "--no-compile", "--target"])
            .arg(target)
            .args(["markupsafe", "toolz"])
            .finish()
    };
    Run::new("/usr/bin/python3").args(["-m", "venv"]).arg(place.at("environment")).succeeds();
    let [first, second] = USERS;
    let plain = place.plain().join("pip");
    pip(first, &plain).does_not_say("disabled");
    for user in [0, second] {
        let refused = pip(user, &plain);
        assert!(
            refused.all_output().contains("cache has been disabled"),
            "a plain directory does for {user} as well\n{refused}"
        );
    }

    for order in [[0, first, second], [first, 0, second]] {
        let mount = Mount::new();
        let cache = mount.path().join("pip");
        for (turn, user) in order.into_iter().enumerate() {
            let before = index.downloads();
            let installed = pip(user, &cache);
            assert!(installed.status.success(), "{installed}");
            installed.does_not_say("disabled").does_not_say("Permission denied");
            let downloads = index.downloads() - before;
            assert_eq!(downloads > 0, turn == 0, "user {user} downloaded {downloads} files");
        }
    }
}

/// What tools do to what others have made: `cp --archive`, `tar`, `rsync` and `install` all end with these.
#[test]
fn modes_owners_and_times_may_be_changed_by_all() {
    needs_root();
    let mount = Mount::new();
    let [first, second] = USERS;
    let run = |user: u32, script: &str| {
        Run::shell(script).directory(mount.path()).clean_environment("/").user(user)
    };
    run(first, "umask 077; mkdir d; echo first >d/f; ln -s f d/l").succeeds();
    run(second, "chmod 4640 d/f; chmod 1755 d; chmod 0 d/f; chmod g+s,o+t d").succeeds();
    // No mode keeps anybody out, and set-id bits don't come to stay.
    run(first, "cat d/f; stat --format %a d/f d").succeeds().says("first\n0\n1755\n");
    let script = format!("chown {second}:{second} d d/f; chgrp {second} d/f; chown -h 0:0 d/l");
    run(first, &script).succeeds();
    // They go on belonging to the mount's owner, as before.
    run(second, "stat --format %u:%g d d/f d/l").succeeds().says("0:0\n0:0\n0:0\n");
    let script = "touch --date @1000000000 d d/f; touch -h --date @1000000001 d/l; touch -a d/f; \
                  stat --format %Y d d/f d/l";
    run(second, script).succeeds().says("1000000000\n1000000000\n1000000001\n");
    run(second, "test -w d/f && test -r d/f && echo second >>d/f && truncate --size 3 d/f")
        .succeeds();
    let script = "setfattr --name user.note --value x d/f; cp --recursive d e; \
                  mkdir x; tar --create d | tar --extract --preserve-permissions --directory x; \
                  python3 -c 'import shutil; shutil.copy2(\"d/f\", \"e/g\")'; rm -r d; mv e/g x/d/";
    run(second, script).succeeds().does_not_say("denied").does_not_say("not permitted");
    run(first, "cat x/d/f x/d/g; rm -r e x").succeeds().says("fir");
}

/// As it is: the kernel itself lets nobody but the owner set an access control list, before it asks the mount,
/// which has none. Some of coreutils try that first, and fail although `chmod` would do.
#[test]
fn the_kernel_refuses_access_control_lists_to_all_but_the_owner() {
    needs_root();
    let [first, second] = USERS;
    let mount = Mount::builder().option(format!("--owner={first}:{first}")).mount();
    let outside = mount.beside("outside");
    open_to_all(&outside, 0o777);
    let run = |user: u32, script: &str| {
        Run::shell(script).directory(mount.path()).env("OUTSIDE", &outside).user(user)
    };
    run(first, "echo x >f; chmod 640 f; echo x >\"$OUTSIDE/g\"").succeeds();
    for command in ["cp --preserve=mode f copy", "install --mode 640 f copy"] {
        run(first, &format!("{command}; rm copy")).succeeds();
        run(0, &format!("{command}; rm copy")).succeeds();
        run(second, command).exits_with(1).says("permissions").says("Operation not permitted");
        // It is there nevertheless, whole.
        run(first, "cmp f copy; rm copy").succeeds();
    }
    // This one is content with that.
    run(second, "cp \"$OUTSIDE/g\" \"$OUTSIDE/h\"; mv \"$OUTSIDE/h\" h; cmp f h").succeeds();
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
