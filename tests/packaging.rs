//! The files in `packaging/` for containers: what a Compose file describes is run, and Kubernetes manifests
//! have the form that Kubernetes wants.

mod common;
mod docker;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Finished, Run, binary, needs, tool, wheelhouse};
use docker::Engine;
use serde_json::Value;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

#[test]
fn kubernetes_takes_the_manifests() {
    let place = tempfile::tempdir().unwrap();
    let validate = |file: &Path| {
        let run = Run::new(tool("kubernetes-validate")).args(["--strict", "--no-warn"]).arg(file);
        run.finish()
    };
    let mut checked = 0;
    for file in fs::read_dir(packaging("kubernetes")).unwrap() {
        let file = file.unwrap().path();
        let passed = validate(&file);
        assert!(passed.status.success(), "{passed}");
        // It does look: a word that isn't known there is refused.
        let spoiled = place.path().join(file.file_name().unwrap());
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&spoiled, text.replace("mountPropagation", "propagation")).unwrap();
        let refused = validate(&spoiled);
        assert!(!refused.status.success(), "{refused}");
        refused.says("propagation");
        checked += 1;
    }
    assert_eq!(checked, 2);
}

/// `docker-compose` with our file, and with what stands in for images that would have to be fetched.
struct Compose<'a> {
    engine: &'a Engine,
    settings: [(&'static str, PathBuf); 5],
    stand_in: PathBuf,
}

impl<'a> Compose<'a> {
    fn new(engine: &'a Engine) -> Self {
        let programs = engine.directory();
        for (name, from) in [("cachefs", binary()), ("uv", tool("uv"))] {
            Run::new("cp").args([from, programs.join(name)]).succeeds();
        }
        let binds = [("/usr".into(), "/usr"), (programs, "/programs"), (wheelhouse(), "/wheels")];
        let binds = binds.map(|(from, to)| format!("'{}:{to}:ro'", from.display())).join(", ");
        let path = "PATH: /programs:/usr/bin:/bin";
        let stand_in = engine.directory().join("stand-in.yaml");
        let text = format!(
            "services:\n  cachefs:\n    environment: {{ {path} }}\n    volumes: [{binds}]\n  \
             job:\n    environment: {{ {path} }}\n    volumes: [{binds}]\n    network_mode: none\n    \
             command: [uv, pip, install, --python, /usr/bin/python3, --target, /tmp/packages, --no-index, \
             --find-links, /wheels, requests, toolz]\n"
        );
        fs::write(&stand_in, text).unwrap();
        let image = || PathBuf::from(engine.image());
        let settings = [
            ("CACHEFS_IMAGE", image()),
            ("JOB_IMAGE", image()),
            ("CACHEFS_STORE", engine.directory()),
            ("CACHEFS_AT", engine.shared("")),
            ("COMPOSE_PROJECT_NAME", "cachefs-test".into()),
        ];
        Self { engine, settings, stand_in }
    }

    fn store(&self) -> &Path {
        &self.settings[2].1
    }

    fn run(&self, words: &[&str]) -> Run {
        Run::new(needs("docker-compose"))
            .envs(&self.engine.variables())
            .envs(&self.settings)
            .args(["--ansi", "never", "--file"])
            .args([&packaging("compose/compose.yaml"), Path::new("--file"), &self.stand_in])
            .args(words)
            .timeout(Duration::from_secs(180))
    }

    /// Runs the job to its end, as a container of its own. It waits until the mount is there.
    #[track_caller]
    fn job(&self) -> Finished {
        self.run(&["up", "--detach", "--force-recreate", "--no-deps", "job"]).succeeds();
        let id = self.run(&["ps", "--quiet", "job"]).succeeds().stdout.trim().to_owned();
        let code = self.engine.docker(["wait", &id]).succeeds();
        let said = self.engine.docker(["logs", &id]).succeeds();
        assert_eq!(code.stdout, "0\n", "{said}");
        said
    }
}

#[test]
fn a_cache_that_is_mounted_by_compose_serves_containers() {
    let engine = Engine::start();
    let compose = Compose::new(&engine);
    // Older than the mount.
    let other = engine
        .container()
        .user(1000)
        .bind(&engine.shared(""), "/shared", "rslave")
        .start(["sleep", "1000"]);
    let seen = "stat --file-system --format %T /shared/cache; ls /shared/cache";

    compose.run(&["up", "--detach"]).succeeds();
    compose.job().says("Installed 6 packages");
    other.shell(seen).succeeds().says("fuse").says("uv");
    compose.job().says("Installed 6 packages").does_not_say("Prepared");

    // The daemon, itself in a container, knows who in another one uses the mount.
    let script = "exec 3>/shared/cache/held; touch /tmp/ready; sleep 1000";
    let holder = engine.container().bind(&engine.shared(""), "/shared", "rslave");
    let holder = holder.start(["sh", "-ec", script]);
    holder.shell("until [ -e /tmp/ready ]; do sleep 0.02; done").succeeds();
    let words = ["exec", "-T", "cachefs", "cachefs", "readers", "--json", "/shared/cache"];
    let said = compose.run(&words).succeeds();
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    let mut readers = told["readers"].as_array().unwrap().iter();
    let in_holder = |reader: &&Value| reader["cgroup"].as_str().unwrap().contains(holder.id());
    let reader = readers.find(in_holder).unwrap_or_else(|| panic!("{}: {said}", holder.id()));
    assert!(reader["pid"] != 0 && reader["open_files"] == 1, "{reader:#}");
    holder.remove();

    // It comes back when it has died, and when it is taken down nothing of it is left.
    compose.run(&["kill", "cachefs"]).succeeds();
    other.shell("ls /shared/cache").exits_with(2).says("not connected");
    compose.run(&["up", "--detach", "cachefs"]).succeeds();
    compose.job().says("Installed 6 packages").does_not_say("Prepared");
    other.shell(seen).succeeds().says("fuse").says("uv");
    compose.run(&["down"]).succeeds();
    other.shell(seen).succeeds().does_not_say("fuse").does_not_say("uv");
    assert!(compose.store().join("uv/archive-v0").is_dir());
    assert!(!compose.store().join(".cachefs/control.sock").exists());
}
