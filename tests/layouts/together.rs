//! The caches of several tools in one store, each in a folder of its own.

use std::fs;
use std::path::Path;

use cachefs::prune::layout::{self, Found, Layout};
use cachefs::prune::{self, Now, Only, Policy};

use crate::common::{Index, tool};
use crate::scene::{Scene, proved_as, units};

#[test]
fn tools_in_folders_of_one_store() {
    let (scene, index) = (Scene::new(), Index::new());
    let at = |name: &str| scene.cache.join(name);
    for (program, variable, folder) in [
        ("uv", "UV_CACHE_DIR", "uv"),
        ("uv", "UV_CACHE_DIR", "team/deep/uv"),
        ("pip", "PIP_CACHE_DIR", "pip"),
    ] {
        let environment = scene.work.join("environment");
        scene.remove(&environment);
        scene.run("/usr/bin/python3").args(["-m", "venv"]).arg(&environment).succeeds();
        let install: &[&str] = if program == "uv" { &["pip", "install"] } else { &["install"] };
        let run = scene.run(tool(program)).args(install).arg("rich").env(variable, at(folder));
        let run = if program == "pip" {
            run.args(["--target"]).arg(scene.work.join("target")).arg("--upgrade")
        } else {
            run
        };
        run.env("VIRTUAL_ENV", &environment)
            .env("UV_NO_CONFIG", "1")
            .env("UV_DEFAULT_INDEX", index.url())
            .env("PIP_INDEX_URL", index.url())
            .env("PIP_TRUSTED_HOST", "127.0.0.1")
            .succeeds();
    }
    fs::write(scene.work.join("x.py"), "X = 1\n").unwrap();
    let ruff = scene.run(tool("ruff")).args(["check", "--isolated", "x.py"]);
    ruff.env("RUFF_CACHE_DIR", at("ruff")).succeeds();
    // What no layout knows.
    fs::create_dir_all(at("notes/archive")).unwrap();
    fs::write(at("notes/archive/file"), "mine").unwrap();
    fs::write(at("README"), "ours").unwrap();

    let (found, all) = units(&scene.cache);
    let places: Vec<_> = found
        .iter()
        .map(|found| (str::from_utf8(found.prefix()).unwrap(), found.layout().name()))
        .collect();
    let expected = [("pip", "pip"), ("ruff", "ruff"), ("team/deep/uv", "uv"), ("uv", "uv")];
    assert_eq!(places, expected.map(|(prefix, name)| (prefix, name.to_owned())));
    let kept = |name: &str| {
        let file = name.rsplit('/').next().unwrap();
        name == "README"
            || name.starts_with("notes/")
            || file.starts_with(".git")
            || file == "CACHEDIR.TAG"
            || file.ends_with(".lock")
    };
    let all = proved_as(&scene.cache, &found, all, &kept);

    // By tool, and by path.
    let everything = |only: Only| {
        let policy = Policy { max_files: Some(0), only, ..Policy::default() };
        let plan = prune::plan(&all, &policy, &Now::default());
        let units = plan.chosen.iter().map(|chosen| &all.units[chosen.unit]);
        units.map(|unit| (unit.layout.tool(), unit.paths[0].clone())).collect::<Vec<_>>()
    };
    let of_pip = everything(Only { tools: vec!["pip".into()], ..Only::default() });
    assert!(!of_pip.is_empty() && of_pip.iter().all(|(tool, _)| *tool == "pip"));
    let of_team = everything(Only { paths: vec!["team".into()], ..Only::default() });
    assert!(
        !of_team.is_empty() && of_team.iter().all(|(_, path)| path.starts_with("team/deep/uv"))
    );
    let of_uv = everything(Only { tools: vec!["uv".into()], ..Only::default() });
    assert_eq!(of_uv.len(), 2 * of_team.len());
    assert_eq!(everything(Only::default()).len(), all.units.len());
    assert!(everything(Only { tools: vec!["npm".into()], ..Only::default() }).is_empty());

    // One who knows what the folders are may say so.
    let named = [Found::new(b"notes", "generic:1".parse::<Layout>().unwrap())];
    assert_eq!(
        layout::mark(&named, Path::new("notes/archive/file")),
        Some(Path::new("notes/archive"))
    );
}
