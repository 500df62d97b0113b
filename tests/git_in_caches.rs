//! git repositories inside a cache, as uv and cargo keep them: for a second user too (SEMANTICS 5.1).
//!
//! git refuses repositories that seem to belong to someone else ("dubious ownership"), and in a mount they
//! belong to its owner. What follows from that, and which setting mends it, is in the README, section
//! "Containers".

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use common::{Finished, Mount, Run, needs_root, tool, wheelhouse};

/// Two users that need no account.
const USERS: [u32; 2] = [64_101, 64_102];

/// git's settings without the one that matters, and with it.
const NONE: &str = "settings-as-they-are";
const SAFE: &str = "settings-safe";

/// A repository with a Python package and a crate in it, and what two users need to use them.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        needs_root();
        let place = Self { directory: tempfile::tempdir().unwrap() };
        for (name, from) in [("uv", tool("uv")), ("cargo", env!("CARGO").into())] {
            Run::new("cp").arg(from).arg(place.at(name)).succeeds();
        }
        Run::new("cp").args(["-r".into(), wheelhouse(), place.at("wheels")]).succeeds();
        let files = [
            (
                "repository/pyproject.toml",
                "[build-system]\nrequires = [\"hatchling\"]\nbuild-backend = \"hatchling.build\"\n\
                 [project]\nname = \"example\"\nversion = \"1.2.3\"\n",
            ),
            ("repository/src/example/__init__.py", "VALUE = 42\n"),
            (
                "repository/Cargo.toml",
                "[package]\nname = \"example\"\nversion = \"1.2.3\"\nedition = \"2021\"\n",
            ),
            ("repository/src/lib.rs", ""),
            // Or git would leave something running in the mount that tidies up.
            (NONE, "[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"),
            // And what `git config --system safe.directory '*'` writes to /etc/gitconfig.
            (SAFE, "[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[safe]\n\tdirectory = *\n"),
        ];
        for (name, text) in files {
            fs::create_dir_all(place.at(name).parent().unwrap()).unwrap();
            fs::write(place.at(name), text).unwrap();
        }
        let commit = "git init --quiet && git add --all && \
                      git -c user.name=x -c user.email=x@y commit --quiet --message first";
        Run::shell(commit).directory(place.at("repository")).succeeds();
        Run::new("chmod").args(["-R", "a+rX"]).arg(place.directory.path()).succeeds();
        for user in USERS {
            let manifest = format!(
                "[package]\nname = \"user\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\
                 [dependencies]\nexample = {{ git = \"{}\" }}\n",
                place.repository()
            );
            fs::create_dir_all(place.home(user).join("src")).unwrap();
            fs::write(place.home(user).join("Cargo.toml"), manifest).unwrap();
            fs::write(place.home(user).join("src/lib.rs"), "").unwrap();
            for path in [place.home(user), place.home(user).join("src")] {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                chown(path, Some(user), Some(user)).unwrap();
            }
        }
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn home(&self, user: u32) -> PathBuf {
        self.at(&format!("home-{user}"))
    }

    fn repository(&self) -> String {
        format!("file://{}", self.at("repository").display())
    }

    /// A program of a user's, with git's settings if there are any, and none of the machine's.
    fn run(&self, user: u32, program: &str, settings: &str) -> Run {
        Run::new(self.at(program))
            .clean_environment(self.home(user))
            .directory(self.home(user))
            .env("GIT_CONFIG_SYSTEM", self.at(settings))
            .user(user)
    }

    /// uv installs the package from the repository.
    fn install(&self, user: u32, cache: &Path, settings: &str) -> Finished {
        let environment = self.home(user).join("environment");
        let uv = |words: &[&str]| {
            self.run(user, "uv", settings)
                .env("UV_CACHE_DIR", cache)
                .env("UV_LINK_MODE", "copy")
                .env("UV_NO_CONFIG", "1")
                .args(words)
        };
        uv(&["venv", "--clear", "--python", "/usr/bin/python3"]).arg(&environment).succeeds();
        uv(&["pip", "install", "--no-index", "--find-links"])
            .args([&self.at("wheels"), Path::new("--python"), &environment])
            .arg(format!("example @ git+{}", self.repository()))
            .finish()
    }

    /// cargo fetches and checks out the crate, with its own git or with the program.
    fn lock(&self, user: u32, cache: &Path, settings: &str, program: bool) -> Finished {
        let _ = fs::remove_file(self.home(user).join("Cargo.lock"));
        self.run(user, "cargo", settings)
            .env("CARGO_HOME", cache)
            .env("CARGO_NET_GIT_FETCH_WITH_CLI", program.to_string())
            .arg("generate-lockfile")
            .finish()
    }
}

#[track_caller]
fn ok(finished: &Finished) -> &Finished {
    assert!(finished.status.success(), "{finished}");
    finished
}

#[test]
fn uv_installs_from_git_for_a_second_user_with_the_setting() {
    let place = Place::new();
    let mount = Mount::new();
    let cache = mount.path().join("uv");
    let [first, second] = USERS;
    ok(&place.install(first, &cache, SAFE)).says("Built example @ git+file://");
    // What the first one has built serves the second one, and the repository can be fetched into again.
    ok(&place.install(second, &cache, SAFE)).does_not_say("Built");
    let more = "git -c user.name=x -c user.email=x@y commit --quiet --allow-empty --message second";
    Run::shell(more).directory(place.at("repository")).succeeds();
    ok(&place.install(second, &cache, SAFE)).says("Built example @ git+file://");
    ok(&place.install(first, &cache, SAFE)).does_not_say("Built");
}

#[test]
fn without_the_setting_git_refuses_all_but_the_owner() {
    let place = Place::new();
    let [first, second] = USERS;
    let mount = Mount::builder().option(format!("--owner={first}:{first}")).mount();
    let cache = mount.path().join("uv");
    // The repository that they clone is the first one's too: it's the cache that is asked about here.
    Run::new("chown").args(["-R", &first.to_string()]).arg(place.at("repository")).succeeds();
    let refused = place.install(second, &cache, NONE);
    assert!(!refused.status.success(), "git has no objections any more\n{refused}");
    refused.says("detected dubious ownership").says(mount.path().to_str().unwrap());
    ok(&place.install(first, &cache, NONE)).says("Built example @ git+file://");
    ok(&place.install(second, &cache, SAFE)).does_not_say("Built");
}

#[test]
fn cargo_itself_needs_no_setting_and_with_the_program_git_the_same() {
    let place = Place::new();
    let mount = Mount::new();
    let [first, second] = USERS;
    let own = mount.path().join("own");
    for user in [first, second, first] {
        ok(&place.lock(user, &own, NONE, false)).says("Locking 1 package");
    }
    let program = mount.path().join("program");
    let refused = place.lock(first, &program, NONE, true);
    assert!(!refused.status.success(), "git has no objections any more\n{refused}");
    refused.says("dubious ownership");
    for user in [first, second, first] {
        ok(&place.lock(user, &program, SAFE, true)).says("Locking 1 package");
    }
}
