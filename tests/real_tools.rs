//! Real tools with their caches in a mount: they succeed, their second run is served from the cache, and
//! what they leave in the store is what the same runs leave in a plain directory.
//!
//! The plain directory and the mount stand, one after the other, at the same path, and both runs use the
//! same loopback index, so that nothing differs but what a tool makes up itself. What that is, and so is
//! left out of the comparison, is said at each tool.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Index, Kind, Mount, Run, Tree, tool};

/// What a scenario has to do with.
struct Scene {
    /// The directory that holds the caches.
    cache: PathBuf,
    /// An empty directory for everything else.
    work: PathBuf,
    index: Index,
}

impl Scene {
    /// A tool of `tests/setup`, with all caches in the one directory and packages from the loopback only.
    fn run(&self, program: &str) -> Run {
        Run::new(tool(program))
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
            // pip keeps nothing that came over plain http from a host that wasn't said to be trusted.
            .env("PIP_TRUSTED_HOST", "127.0.0.1")
            .env("RUFF_CACHE_DIR", self.cache.join("ruff"))
            // Compiled modules carry the times of their sources, and built archives that of the build.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .timeout(Duration::from_secs(110))
    }

    /// A project that needs a build back end and, for its tests, pytest.
    fn project(&self, at: &Path) {
        fs::create_dir_all(at.join("src/example")).unwrap();
        fs::create_dir_all(at.join("tests")).unwrap();
        let files = [
            (
                "pyproject.toml",
                "[build-system]\nrequires = [\"hatchling\"]\nbuild-backend = \"hatchling.build\"\n\
                 [project]\nname = \"example\"\nversion = \"1.2.3\"\n\
                 requires-python = \">=3.11\"\n",
            ),
            ("src/example/__init__.py", "VALUE = 42\n"),
            (
                "tests/test_example.py",
                "import example\n\ndef test_value():\n    assert example.VALUE == 42\n",
            ),
            (
                "tox.ini",
                "[tox]\nenv_list = check\n[testenv]\ndeps = pytest\ncommands = pytest -q -p no:cacheprovider\n",
            ),
        ];
        for (name, text) in files {
            fs::write(at.join(name), text).unwrap();
        }
    }
}

/// Runs the scenario on a plain directory and on a mount, and compares what they hold afterwards.
fn compare(options: &[&str], scenario: fn(&Scene), told: fn(&Path) -> Tree) {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let scene = Scene { cache: at("cache"), work: at("work"), index: Index::new() };
    fs::create_dir(&scene.cache).unwrap();
    fs::create_dir(&scene.work).unwrap();
    scenario(&scene);

    fs::rename(&scene.cache, at("plain")).unwrap();
    fs::create_dir(&scene.cache).unwrap();
    fs::remove_dir_all(&scene.work).unwrap();
    fs::create_dir(&scene.work).unwrap();
    let expected = told(&at("plain"));
    assert!(expected.files() > 0, "the tool left nothing in a plain directory");

    let mut mount =
        Mount::builder().store(at("store")).mountpoint(&scene.cache).options(options).mount();
    scenario(&scene);
    expected.assert_same(&told(mount.path()));
    mount.unmount();
    expected.assert_same(&told(mount.store()));
}

macro_rules! through_a_mount {
    ($($name:ident: $scenario:path, $told:path;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn read_by_the_kernel() {
                compare(&[], $scenario, $told);
            }

            #[test]
            fn read_through_the_daemon() {
                compare(&["--no-passthrough"], $scenario, $told);
            }

            #[test]
            fn with_owners_and_modes_of_their_own() {
                compare(&["--access", "posix"], $scenario, $told);
            }
        }
    )*};
}

through_a_mount! {
    uv: install_with_uv, uv_cache;
    ruff: check_with_ruff, ruff_cache;
    pip: install_with_pip, pip_cache;
    build: build_a_package, build_cache;
    tox: test_with_tox, uv_cache;
}

/// Pure wheels, wheels with compiled code, and two source distributions that are built in isolation.
const PACKAGES: [&str; 7] = ["idna", "markupsafe", "pytest", "pyyaml", "requests", "rich", "toolz"];

fn imports_work(scene: &Scene, environment: &Path) {
    let python = environment.join("bin/python");
    let script =
        "import idna, markupsafe._speedups, pytest, requests, rich.table, toolz, yaml._yaml";
    Run::new(python).clean_environment(&scene.work).args(["-c", script]).succeeds();
}

fn install_with_uv(scene: &Scene) {
    let install = |offline: bool| {
        let environment = scene.work.join("environment");
        scene.run("uv").args(["venv", "--clear"]).arg(&environment).succeeds();
        let run = scene.run("uv").args(["pip", "install", "--python"]).arg(&environment);
        let run = if offline { run.arg("--offline") } else { run };
        let finished = run.args(PACKAGES).succeeds();
        imports_work(scene, &environment);
        finished
    };
    install(false).says("Prepared 16 packages").says("Built toolz==1.0.0");
    let requests = scene.index.requests();
    install(true).says("Installed 16 packages").does_not_say("Prepared").does_not_say("Built");
    assert_eq!(scene.index.requests(), requests, "the second install asked the index");
}

fn check_with_ruff(scene: &Scene) {
    let project = scene.work.join("project");
    fs::create_dir(&project).unwrap();
    for number in 0..200 {
        fs::write(project.join(format!("m{number}.py")), format!("X = {number:09}.0\n")).unwrap();
    }
    let check = || scene.run("ruff").args(["check", "--isolated"]).arg(&project);
    check().succeeds();
    let before = Tree::of(&scene.cache);

    // Ruff goes by a file's time. A fault with the old time shows that the answer comes from the cache.
    let module = project.join("m7.py");
    let time = fs::metadata(&module).unwrap().modified().unwrap();
    fs::write(&module, "import os # unused\n").unwrap();
    fs::File::options().write(true).open(&module).unwrap().set_modified(time).unwrap();
    check().succeeds();
    before.assert_same(&Tree::of(&scene.cache));

    let file = fs::File::options().write(true).open(&module).unwrap();
    file.set_modified(time + Duration::from_secs(1)).unwrap();
    check().exits_with(1).says("F401");
}

fn install_with_pip(scene: &Scene) {
    let install = || {
        let target = scene.work.join("target");
        let _ = fs::remove_dir_all(&target);
        let finished = scene
            .run("pip")
            .args(["install", "--no-compile", "--target"])
            .arg(&target)
            .args(PACKAGES)
            .succeeds();
        let script = "import markupsafe._speedups, requests, toolz";
        Run::new("/usr/bin/python3")
            .clean_environment(&scene.work)
            .env("PYTHONPATH", &target)
            .args(["-B", "-c", script])
            .succeeds();
        finished
    };
    install().says("Created wheel for toolz").says("Created wheel for idna");
    let downloads = scene.index.downloads();
    assert!(downloads >= 16, "the first install downloaded {downloads} files");
    install().says("Using cached toolz").says("Using cached rich").does_not_say("Created wheel");
    assert_eq!(scene.index.downloads(), downloads, "the second install downloaded");
}

fn build_a_package(scene: &Scene) {
    // The project lies in the mount as well: what is built there goes through it too.
    let project = scene.cache.join("project");
    scene.project(&project);
    let build = |installer: &str| {
        scene.run("pyproject-build").args(["--installer", installer]).arg(&project).succeeds()
    };
    for installer in ["uv", "pip"] {
        build(installer)
            .says("Successfully built example-1.2.3.tar.gz and example-1.2.3-py3-none-any.whl");
        let first = Tree::of(project.join("dist"));
        assert_eq!(first.files(), 2);
        let downloads = scene.index.downloads();
        build(installer);
        assert_eq!(
            scene.index.downloads(),
            downloads,
            "the second build by {installer} downloaded"
        );
        first.assert_same(&Tree::of(project.join("dist")));
    }
}

fn test_with_tox(scene: &Scene) {
    let project = scene.work.join("project");
    scene.project(&project);
    let tox = || scene.run("tox").args(["run", "--recreate"]).directory(&project);
    tox().succeeds().says("1 passed").says("check: OK");
    let requests = scene.index.requests();
    assert!(requests > 0, "the first run asked the index for nothing");
    tox().env("UV_OFFLINE", "1").succeeds().says("1 passed").says("check: OK");
    assert_eq!(scene.index.requests(), requests, "the second run asked the index");
}

/// uv makes up a name of sixteen letters for each archive that it unpacks and each source distribution that
/// it builds, and refers to it in symlinks and in files: it is replaced by the name of what lies there.
/// Answers of an index are kept with the time at which they came, and what is known of an interpreter or a
/// local file with that file's time: those are compared by name, size and mode.
fn uv_cache(cache: &Path) -> Tree {
    let names = names_that_uv_made_up(&cache.join("uv"));
    let known =
        |text: &str| names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let tree = Tree::of_normalised(cache, |path, mut bytes| {
        let timed = ["http", "msgpack", "rev", "rkyv"].map(OsStr::new);
        if path.extension().is_some_and(|kind| timed.contains(&kind)) {
            bytes.fill(0);
        }
        for (from, to) in &names {
            let places: Vec<usize> = bytes
                .windows(from.len())
                .enumerate()
                .filter(|(_, window)| *window == from.as_bytes())
                .map(|(place, _)| place)
                .collect();
            for place in places {
                bytes[place..place + from.len()].copy_from_slice(to.as_bytes());
            }
        }
        bytes
    });
    let mut tree = tree.renamed(|path| Some(known(path.to_str()?).into()));
    for entry in tree.entries.values_mut() {
        if let Kind::Symlink { target } = &mut entry.kind {
            *target = known(target.to_str().unwrap()).into();
        }
    }
    tree
}

/// Each name that uv made up, with one as long that says what lies there.
fn names_that_uv_made_up(uv: &Path) -> BTreeMap<String, String> {
    let tree = Tree::of(uv);
    // Where a name stands tells apart two with the same meaning; none, for an archive that isn't referred to.
    let place = |path: &Path| path.ancestors().nth(2).map(Path::to_owned);
    let mut referred_to: BTreeMap<&OsStr, Option<PathBuf>> = BTreeMap::new();
    for (path, entry) in &tree.entries {
        if let Kind::Symlink { target } = &entry.kind {
            referred_to.insert(target.file_name().unwrap(), place(path));
        }
    }
    let mut found: Vec<(&str, Option<PathBuf>, &str)> = Vec::new();
    for path in tree.entries.keys() {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
        match parts[..] {
            // An unpacked wheel is known by its description.
            ["archive-v0", name, within] if within.ends_with(".dist-info") => {
                found.push((within, referred_to.get(OsStr::new(name)).cloned().flatten(), name));
            }
            // A built source distribution has the wheel beside its sources.
            ["sdists-v10", .., name, within] if within.ends_with(".whl") => {
                found.push((within, place(path), name));
            }
            _ => {}
        }
    }
    found.sort();
    let mut names = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (meaning, _, name) in found {
        assert_eq!(name.len(), 16, "{name} isn't a name that uv makes up");
        let label = (0..)
            .map(|number| format!("{:_<14.14}{number:02}", meaning))
            .find(|label| !taken.contains(label))
            .unwrap();
        taken.insert(label.clone());
        names.insert(name.to_owned(), label);
    }
    names
}

/// `build` makes its isolated environments in places with random names, from which uv's names for what it
/// knows of their interpreters are derived: those are numbered.
fn build_cache(cache: &Path) -> Tree {
    let tree = uv_cache(cache);
    let interpreters: Vec<PathBuf> = tree
        .entries
        .keys()
        .filter(|path| path.starts_with("uv/interpreter-v5") && path.extension().is_some())
        .cloned()
        .collect();
    tree.renamed(|path| match interpreters.binary_search_by(|known| known.as_path().cmp(path)) {
        Ok(number) => Some(format!("uv/interpreter-v5/{number}").into()),
        Err(_) => Some(path.to_owned()),
    })
}

/// Ruff's cache keeps when it was last used.
fn ruff_cache(cache: &Path) -> Tree {
    Tree::of_normalised(cache, |path, mut bytes| {
        if path.starts_with("ruff/0.17.5") {
            bytes.fill(0);
        }
        bytes
    })
}

/// Nothing in pip's cache is made up.
fn pip_cache(cache: &Path) -> Tree {
    Tree::of(cache)
}
