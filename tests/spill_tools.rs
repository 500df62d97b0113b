//! SEMANTICS 4: real tools whose cache can't be written do and say what they do and say with one that can.
//!
//! Each scenario runs twice in a plain directory: cold, and warm without an index. The same is then expected of a
//! mount at the same path of an empty store that is read-only or full (cold), and of a filled one that is
//! read-only (warm).

mod common;
mod conformance;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Index, Mount, Run, Tree, needs, needs_root, tool};
use conformance::{Filesystem, Image};

struct Scene {
    /// The directory that holds the caches.
    cache: PathBuf,
    /// An empty directory for what is installed.
    work: PathBuf,
    /// What the tools work on.
    given: PathBuf,
    index: Index,
}

impl Scene {
    fn run(&self, program: PathBuf) -> Run {
        Run::new(program)
            .clean_environment(&self.work)
            .directory(&self.work)
            .env("UV_CACHE_DIR", self.cache.join("uv"))
            .env("UV_DEFAULT_INDEX", self.index.url())
            .env("UV_LINK_MODE", "copy")
            .env("UV_NO_CONFIG", "1")
            .env("UV_PYTHON", "/usr/bin/python3")
            .env("PIP_CACHE_DIR", self.cache.join("pip"))
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_INDEX_URL", self.index.url())
            .env("PIP_TRUSTED_HOST", "127.0.0.1")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .env("RUFF_CACHE_DIR", self.cache.join("ruff"))
            .env("NPM_CONFIG_CACHE", self.cache.join("npm"))
            .env("NPM_CONFIG_UPDATE_NOTIFIER", "false")
            .env("CARGO_HOME", self.cache.join("cargo"))
            .timeout(Duration::from_secs(110))
    }
}

/// What a run did and said.
type Outcome = (Option<i32>, String);

/// A scenario: what is run, with a cache that is warm or not.
type Scenario = fn(&Scene, bool) -> Run;

fn outcome(scene: &Scene, scenario: Scenario, warm: bool) -> Outcome {
    let _ = fs::remove_dir_all(&scene.work);
    fs::create_dir(&scene.work).unwrap();
    let finished = scenario(scene, warm).finish();
    (finished.status.code(), timeless(&finished.all_output()))
}

/// A text without what is different each time: how long something took, and the port of the index.
fn timeless(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_end_matches([',', ')', '.', '\n']);
        let number = bare.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let is_time = number != bare && !number.is_empty() && number.parse::<f64>().is_ok();
        if is_time || word.contains("127.0.0.1:") || word.ends_with("/s") {
            "#".to_owned()
        } else {
            word.to_owned()
        }
    };
    let lines = text.lines().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" "));
    let mut lines: Vec<String> = lines.collect();
    // Which of several downloads is done first is a matter of luck.
    lines.sort();
    lines.join("\n")
}

fn works_without_writing(scenario: Scenario) {
    needs_root();
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let scene =
        Scene { cache: at("cache"), work: at("work"), given: at("given"), index: Index::new() };
    furnish(&scene.given);
    fs::create_dir(&scene.cache).unwrap();
    let cold = outcome(&scene, scenario, false);
    assert_eq!(cold.0, Some(0), "{}", cold.1);
    let warm = outcome(&scene, scenario, true);
    assert_eq!(warm.0, Some(0), "{}", warm.1);
    fs::rename(&scene.cache, at("filled")).unwrap();
    fs::create_dir(&scene.cache).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("shown")).unwrap();

    for (store, warmth, expected) in [("empty", false, &cold), ("filled", true, &warm)] {
        let before = Tree::of(at(store));
        let shown = at("shown");
        Run::new("mount").arg("--bind").args([&at(store), &shown]).succeeds();
        Run::new("mount").args(["-o", "remount,bind,ro"]).arg(&shown).succeeds();
        let bound = Bound(shown.clone());
        let mut mount = Mount::builder().store(&shown).mountpoint(&scene.cache).mount();
        for _ in 0..2 {
            assert_eq!(&outcome(&scene, scenario, warmth), expected, "{store}, read-only");
            if !warmth {
                // Its own cache is there as long as the mount is.
                assert_eq!(outcome(&scene, scenario, true), warm, "{store}, read-only, once more");
                break;
            }
        }
        assert!(mount.status()["degraded"]["reason"].is_string());
        mount.unmount();
        drop(bound);
        before.assert_same(&Tree::of(at(store)));
    }

    let image = Image::with(Filesystem::Ext4, 24, &["-m", "0"]);
    let store = image.directory("store");
    let mut mount = Mount::builder().store(&store).mountpoint(&scene.cache).mount();
    let mut ballast = File::create(image.path().join("ballast")).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
    ballast.sync_all().unwrap();
    assert_eq!(outcome(&scene, scenario, false), cold, "full");
    assert_eq!(outcome(&scene, scenario, true), warm, "full, once more");
    assert!(mount.status()["degraded"]["reason"].is_string(), "{}", mount.log());
    mount.unmount();
    for (path, entry) in Tree::of(&store).entries {
        let whole = fs::symlink_metadata(store.join(&path)).unwrap();
        assert!(
            !whole.is_file() || whole.len() > 0 || is_marker(&path),
            "{path:?} {:?}",
            entry.kind
        );
    }
}

/// Files that are meant to be empty.
fn is_marker(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    ["lock", ".git", ".gitignore", "package-cache", "global-cache"]
        .iter()
        .any(|part| name.contains(part))
}

struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A Python project, an npm package, and a crate that needs another one from a git repository.
fn furnish(given: &Path) {
    let write = |name: &str, text: &str| {
        let path = given.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for number in 0..50 {
        write(&format!("python/m{number}.py"), &format!("X = {number}\n"));
    }
    write("npm/package.json", r#"{"name": "given", "version": "1.2.3"}"#);
    write("npm/index.js", "module.exports = 42\n");
    let manifest = "[package]\nname = \"needed\"\nversion = \"1.2.3\"\nedition = \"2021\"\n";
    write("needed/Cargo.toml", manifest);
    write("needed/src/lib.rs", "");
    let git = |words: &[&str]| {
        Run::new(needs("git"))
            .clean_environment(given)
            .directory(given.join("needed"))
            .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
            .args(words)
            .succeeds();
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "x"]);
    let dependency =
        format!("needed = {{ git = \"file://{}\" }}\n", given.join("needed").display());
    let manifest =
        "[package]\nname = \"crate\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\n";
    write("crate/Cargo.toml", &format!("{manifest}{dependency}"));
    write("crate/src/lib.rs", "");
}

/// Pure wheels, wheels with compiled code, and a source distribution that is built.
const PACKAGES: [&str; 4] = ["markupsafe", "requests", "rich", "toolz"];

fn uv(scene: &Scene, warm: bool) -> Run {
    let run = scene.run(tool("uv")).args(["pip", "install", "--no-progress", "--target"]);
    let run = run.arg(scene.work.join("target")).args(PACKAGES);
    if warm { run.arg("--offline") } else { run }
}

fn pip(scene: &Scene, _: bool) -> Run {
    scene
        .run(tool("pip"))
        .args(["install", "--no-compile", "--progress-bar", "off", "--target"])
        .arg(scene.work.join("target"))
        .args(["markupsafe", "requests", "rich"])
}

fn ruff(scene: &Scene, _: bool) -> Run {
    scene.run(tool("ruff")).args(["check", "--isolated"]).arg(scene.given.join("python"))
}

fn npm(scene: &Scene, _: bool) -> Run {
    let packed = scene.work.join("given-1.2.3.tgz");
    Run::new("tar")
        .args(["--sort=name", "--mtime=@0", "--transform=s,^npm,package,", "-czf"])
        .arg(&packed)
        .arg("-C")
        .arg(&scene.given)
        .arg("npm")
        .succeeds();
    scene.run(needs("npm")).args(["install", "--no-audit", "--no-fund", "--offline"]).arg(packed)
}

fn cargo(scene: &Scene, warm: bool) -> Run {
    let project = scene.work.join("crate");
    fs::create_dir_all(project.join("src")).unwrap();
    for name in ["Cargo.toml", "src/lib.rs"] {
        fs::copy(scene.given.join("crate").join(name), project.join(name)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let home = std::env::var("HOME").unwrap();
    let toolchains = std::env::var("RUSTUP_HOME").unwrap_or(format!("{home}/.rustup"));
    let run = scene.run(needs("cargo")).env("PATH", path).env("RUSTUP_HOME", toolchains);
    let run = run.directory(project).args(["fetch", "--color=never"]);
    if warm { run.arg("--offline") } else { run }
}

#[test]
fn with_uv() {
    works_without_writing(uv);
}

#[test]
fn with_pip() {
    works_without_writing(pip);
}

#[test]
fn with_ruff() {
    works_without_writing(ruff);
}

#[test]
fn with_npm() {
    works_without_writing(npm);
}

#[test]
fn with_cargo() {
    works_without_writing(cargo);
}
