//! pre-commit, with a hook from a repository on this machine.

use std::fs;

use crate::common::Run;
use crate::scene::{Scene, proved};

fn kept(name: &str) -> bool {
    ["README", ".lock", "pre-commit.log"]
        .map(|file| format!("pre-commit/{file}"))
        .contains(&name.into())
        || name.starts_with("pre-commit/patch")
}

struct Hooks {
    scene: Scene,
}

impl Hooks {
    fn new() -> Hooks {
        let hooks = Hooks { scene: Scene::new() };
        let work = &hooks.scene.work;
        for name in ["one", "two"] {
            let at = work.join(name);
            fs::create_dir(&at).unwrap();
            let hook =
                format!("- id: {name}\n  name: {name}\n  entry: hook.sh\n  language: script\n");
            fs::write(at.join(".pre-commit-hooks.yaml"), hook).unwrap();
            fs::write(at.join("hook.sh"), format!("#!/bin/sh\necho {name} ran\n")).unwrap();
            let script = "chmod +x hook.sh; git init --quiet . && git add . && git -c user.name=t -c \
                          user.email=t@t commit --quiet --message first && git tag v1";
            hooks.scene.run("sh").args(["-ec", script]).directory(&at).succeeds();
        }
        let project = work.join("project");
        fs::create_dir(&project).unwrap();
        let hook = |name: &str| {
            let at = work.join(name);
            let at = at.display();
            format!("- repo: file://{at}\n  rev: v1\n  hooks: [{{id: {name}, verbose: true}}]\n")
        };
        let config = format!("repos:\n{}{}", hook("one"), hook("two"));
        fs::write(project.join(".pre-commit-config.yaml"), config).unwrap();
        hooks.scene.run("git").args(["init", "--quiet"]).arg(&project).succeeds();
        hooks.scene.run("git").args(["add", "."]).directory(&project).succeeds();
        hooks
    }

    fn run(&self) -> Run {
        self.scene
            .tool("pre-commit")
            .args(["run", "--all-files"])
            .env("PRE_COMMIT_HOME", self.scene.cache.join("pre-commit"))
            .directory(self.scene.work.join("project"))
    }
}

#[test]
fn pre_commit_gets_along() {
    let hooks = Hooks::new();
    hooks.run().succeeds().says("one ran").says("two ran");
    // Not by the test itself: all that it runs would be one job with it.
    let script =
        "printf work >patch1700000000-1; mkdir repoabcdefgh; printf cloned >repoabcdefgh/half";
    let at = hooks.scene.cache.join("pre-commit");
    hooks.scene.run("sh").args(["-ec", script]).directory(at).succeeds();
    let units = proved(&hooks.scene.cache, &kept);
    // The database with both environments, and the one that broke off.
    let mut parts: Vec<_> = units.units.iter().map(|unit| unit.paths.len()).collect();
    parts.sort_unstable();
    assert_eq!(parts, [1, 3]);
    hooks.scene.survives(kept, 1, |_, _| {
        hooks.run().succeeds().says("one ran").says("two ran");
    });
}

/// Why an environment alone is no unit.
#[test]
fn an_environment_that_goes_alone_is_missed_for_ever() {
    let hooks = Hooks::new();
    hooks.run().succeeds();
    let units = hooks.scene.units();
    let environment = units.units[0].paths.iter().find(|path| !path.ends_with("db.db")).unwrap();
    hooks.scene.remove(&hooks.scene.cache.join(environment));
    for _ in 0..2 {
        let failed = hooks.run().finish();
        assert!(!failed.status.success(), "{failed}");
    }
}
