//! pip and ruff.

use std::fs;
use std::path::Path;

use crate::common::{Index, Run, tool};
use crate::scene::Scene;

fn pip(scene: &Scene, index: &Index) -> Run {
    scene
        .run(tool("pip"))
        .env("PIP_CACHE_DIR", scene.cache.join("pip"))
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_INDEX_URL", index.url())
        // pip keeps nothing that came over plain http from a host that wasn't said to be trusted.
        .env("PIP_TRUSTED_HOST", "127.0.0.1")
}

#[test]
fn pip_gets_along() {
    let (scene, index) = (Scene::new(), Index::new());
    let install = || {
        let target = scene.work.join("target");
        scene.remove(&target);
        pip(&scene, &index)
            .args(["install", "--quiet", "--no-compile", "--target"])
            .arg(&target)
            .args(["rich", "toolz", "markupsafe"])
            .succeeds();
        Run::new("/usr/bin/python3")
            .clean_environment(&scene.work)
            .env("PYTHONPATH", &target)
            .args(["-B", "-c", "import rich.table, toolz, markupsafe._speedups"])
            .succeeds();
    };
    install();
    let downloads = index.downloads();
    scene.survives(
        |_| false,
        4,
        |units, plan| {
            let before = index.downloads();
            install();
            // No more than what went is fetched again.
            let fetched = index.downloads() - before;
            let gone: usize = plan.chosen.iter().map(|c| units.units[c.unit].paths.len()).sum();
            assert!(fetched <= gone.min(downloads), "{fetched} downloads for {gone} paths");
            let before = index.downloads();
            install();
            assert_eq!(index.downloads(), before, "not everything is there again");
        },
    );
}

#[test]
fn ruff_gets_along() {
    let scene = Scene::new();
    let check = |of: &Path| {
        let ruff = scene.run(tool("ruff")).env("RUFF_CACHE_DIR", scene.cache.join("ruff"));
        ruff.args(["check", "--quiet", "--isolated"]).arg(of)
    };
    let projects = ["one", "two", "three"].map(|name| scene.work.join(name));
    for project in &projects {
        fs::create_dir_all(project).unwrap();
        fs::write(project.join("fine.py"), "X = 1\n").unwrap();
        fs::write(project.join("wrong.py"), "import os\n").unwrap();
        check(project).exits_with(1).says("F401");
    }
    let kept = |name: &str| ["ruff/CACHEDIR.TAG", "ruff/.gitignore"].contains(&name);
    scene.survives(kept, 1, |_, _| {
        for project in &projects {
            check(project).exits_with(1).says("F401").does_not_say("fine.py");
        }
    });
}
