//! uv, in five releases whose caches differ.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cachefs::prune;

use crate::common::{Index, Run, tool, tools_directory, wheelhouse};
use crate::scene::{Scene, proved, soak};

struct Uv {
    scene: Scene,
    index: Index,
    program: PathBuf,
}

/// From an index: wheels, pure and compiled, and a source distribution.
const FROM_INDEX: [&str; 3] = ["toolz", "markupsafe", "rich"];

impl Uv {
    fn new(release: &str) -> Uv {
        let other = tools_directory().join("uv-releases").join(release).join("bin/uv");
        // The one in use is not there twice.
        let program = if other.exists() { other } else { tool("uv") };
        let uv = Uv { scene: Scene::new(), index: Index::new(), program };
        uv.run().arg("--version").succeeds().says(&format!("uv {release}"));
        uv.package("local");
        uv.package("versioned");
        let script = "git init --quiet . && git add . && git -c user.name=t -c user.email=t@t commit \
                      --quiet --message first";
        uv.scene.run("sh").args(["-ec", script]).directory(uv.at("versioned")).succeeds();
        fs::write(
            uv.at("script.py"),
            "# /// script\n# dependencies = [\"iniconfig\"]\n# ///\nimport iniconfig\n",
        )
        .unwrap();
        uv
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scene.work.join(name)
    }

    fn package(&self, name: &str) {
        let at = self.at(name);
        fs::create_dir_all(at.join("src").join(name)).unwrap();
        fs::write(at.join("src").join(name).join("__init__.py"), "").unwrap();
        let project = format!(
            "[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \
             \"setuptools.build_meta\"\n[project]\nname = \"{name}\"\nversion = \"1.0\"\n"
        );
        fs::write(at.join("pyproject.toml"), project).unwrap();
    }

    fn run(&self) -> Run {
        self.scene
            .run(&self.program)
            .env("UV_CACHE_DIR", self.scene.cache.join("uv"))
            .env("UV_INDEX_URL", self.index.url())
            .env("UV_NO_CONFIG", "1")
            .env("UV_PYTHON", "/usr/bin/python3")
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("UV_LINK_MODE", "copy")
            .timeout(Duration::from_secs(110))
    }

    /// All that is installed, in an environment of its own.
    fn sources(&self) -> Vec<String> {
        let url = self.index.url().replace("/simple", "/files/click-8.5.1-py3-none-any.whl");
        let file = wheelhouse().join("pluggy-1.7.0-py3-none-any.whl");
        let mut sources: Vec<String> = FROM_INDEX.map(str::to_owned).into();
        sources.extend([
            format!("git+file://{}", self.at("versioned").display()),
            self.at("local").display().to_string(),
            format!("click @ {url}"),
            file.display().to_string(),
        ]);
        sources
    }

    /// Installs everything into a new environment and proves it whole; none if uv can't without the index.
    fn install(&self, offline: bool) -> Option<()> {
        let environment = self.at("environment");
        self.scene.remove(&environment);
        let offline = ["--offline"].into_iter().filter(|_| offline);
        self.run().args(["venv", "--quiet"]).args(offline.clone()).arg(&environment).succeeds();
        let finished = self
            .run()
            .env("VIRTUAL_ENV", &environment)
            .env_remove("UV_PYTHON")
            .args(["pip", "install", "--quiet"])
            .args(offline.clone())
            .args(self.sources())
            .finish();
        if !finished.status.success() {
            assert!(offline.count() > 0, "{finished}");
            return None;
        }
        records_are_right(&environment);
        Some(())
    }

    /// Uses each kind of thing that is cached.
    fn everything(&self) {
        self.install(false).unwrap();
        let tool = ["tool", "run", "--quiet", "--from", "pygments", "pygmentize", "-V"];
        self.run().args(tool).succeeds();
        self.run().args(["run", "--quiet", "script.py"]).succeeds();
        let with = ["run", "--quiet", "--no-project", "--with", "packaging", "python", "-c"];
        self.run().args(with).arg("import packaging").succeeds();
        let page = self.index.url() + "/pluggy";
        self.run()
            .args(["pip", "compile", "--quiet", "--no-index", "--find-links", &page, "-"])
            .input("pluggy")
            .succeeds();
    }
}

/// Every installed file is what its package says.
fn records_are_right(environment: &Path) {
    assert_eq!(wrong_records(environment), "");
}

fn wrong_records(environment: &Path) -> String {
    let script = r#"
import base64, hashlib, importlib.metadata, sys
for package in importlib.metadata.distributions():
    for file in package.files or []:
        path = file.locate()
        if not path.exists():
            print("missing", file)
        elif file.hash:
            digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                print("wrong", file)
"#;
    let python = environment.join("bin/python");
    Run::new(python).args(["-I", "-c", script]).succeeds().stdout
}

fn kept(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap();
    let tag = ["uv/CACHEDIR.TAG", "uv/.gitignore"].contains(&name);
    let within = |bucket: &str| name.strip_prefix("uv/").is_some_and(|n| n.starts_with(bucket));
    let of_builds =
        within("sdists-v") && name.matches('/').count() == 2 && file.starts_with(".git");
    // A lock in a unit that goes as a whole goes along; any other stays.
    let in_unit = ["archive-v", "builds-v"].into_iter().any(within)
        || (within("environments-v") && (file == ".lock" || name.matches('/').count() > 3))
        || (within("sdists-v") && file != ".lock" && !name.contains("/git/"));
    let lock = file.ends_with(".lock") && !in_unit || within("git-v") && name.contains("/locks/");
    tag || of_builds || lock
}

fn survives(release: &str, one_in: usize) {
    let uv = Uv::new(release);
    uv.everything();
    uv.scene.survives(kept, one_in, |units, plan| {
        let names: Vec<_> = plan.chosen.iter().map(|c| units.units[c.unit].name()).collect();
        println!("{release} without {names:?}");
        // With what is there: whole, or not at all.
        uv.install(true);
        // One unit alone is missed by what is installed, or by nothing that a test waits for each time.
        if plan.chosen.len() > 1 || soak() {
            uv.everything();
        }
        uv.install(false).unwrap();
        // All of it is there again.
        uv.install(true).unwrap_or_else(|| panic!("{release} can't do without {names:?}"));
    });
}

#[test]
fn release_0_4_20_gets_along() {
    survives("0.4.20", 20);
}

#[test]
fn release_0_8_19_gets_along() {
    survives("0.8.19", 20);
}

#[test]
fn release_0_9_30_gets_along() {
    survives("0.9.30", 60);
}

#[test]
fn release_0_12_5_gets_along() {
    survives("0.12.5", 60);
}

#[test]
fn release_0_13_8_gets_along() {
    survives("0.13.8", 8);
}

/// What makes a file alone no unit, and shows that the proof above proves something.
#[test]
fn a_file_that_goes_alone_breaks_what_is_installed() {
    let uv = Uv::new("0.13.8");
    uv.install(false).unwrap();
    let units = uv.scene.units();
    let markupsafe = units.units.iter().find(|unit| unit.name().starts_with("markupsafe")).unwrap();
    let archive = markupsafe.paths.iter().find(|path| path.starts_with("uv/archive-v0")).unwrap();
    fs::remove_file(uv.scene.cache.join(archive).join("markupsafe/_native.py")).unwrap();
    uv.scene.remove(&uv.at("environment"));
    uv.run().args(["venv", "--quiet"]).arg(uv.at("environment")).succeeds();
    uv.run()
        .env("VIRTUAL_ENV", uv.at("environment"))
        .env_remove("UV_PYTHON")
        .args(["pip", "install", "--quiet", "markupsafe"])
        .succeeds();
    assert_eq!(wrong_records(&uv.at("environment")), "missing markupsafe/_native.py\n");
}

/// An environment that is full of links into archives goes with each of them, and no other does.
#[test]
fn an_environment_of_links_goes_with_what_it_links_to() {
    for release in ["0.8.19", "0.13.8"] {
        let uv = Uv::new(release);
        let with = |packages: &str| {
            uv.run()
                .env("UV_LINK_MODE", "symlink")
                .args(["run", "--quiet", "--no-project", "--with", packages, "python", "-c"])
                .arg(format!("import {packages}"))
                .succeeds();
        };
        with("packaging");
        with("click");
        let units = proved(&uv.scene.cache, &kept);
        uv.scene.save();
        let of = |name: &str| {
            let found = units.units.iter().position(|unit| unit.name().starts_with(name));
            found.unwrap_or_else(|| panic!("{name} in {units:?}"))
        };
        let plan = uv.scene.take(&units, of("packaging "));
        let gone: BTreeSet<_> = plan.chosen.iter().map(|c| units.units[c.unit].name()).collect();
        let environments = gone.iter().filter(|name| name.starts_with("environments-v2")).count();
        assert_eq!((gone.len(), environments), (2, 1), "{gone:?}");
        with("click");
        with("packaging");
    }
}

/// Releases whose buckets have different numbers use one cache, each its own part of it.
#[test]
fn releases_use_one_cache_side_by_side() {
    let mut uv = Uv::new("0.4.20");
    uv.install(false).unwrap();
    uv.program = tool("uv");
    uv.install(false).unwrap();
    let of_rich = |unit: &prune::Unit| unit.name().starts_with("rich 15.0.0");
    let units = proved(&uv.scene.cache, &kept);
    assert_eq!(units.units.iter().filter(|unit| of_rich(unit)).count(), 2);
    uv.scene.survives(kept, 100, |_, _| {
        uv.install(true);
        uv.install(false).unwrap();
        uv.install(true).unwrap();
    });
}
