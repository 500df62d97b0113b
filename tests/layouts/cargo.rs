//! cargo, with a registry of two crates and a crate from git.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Finished, Run};
use crate::scene::Scene;
use crate::serve::{Answer, Server};

/// Makes a crate as the registry has it.
fn package(scene: &Scene, name: &str, needs: &str) -> Vec<u8> {
    let at = scene.work.join("crates").join(format!("{name}-1.0.0"));
    fs::create_dir_all(at.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\n{needs}"
    );
    fs::write(at.join("Cargo.toml"), manifest).unwrap();
    fs::write(at.join("src/lib.rs"), format!("pub fn {name}() -> u32 {{ 7 }}\n")).unwrap();
    let file = scene.work.join("crates").join(format!("{name}.crate"));
    let tar = scene.run("tar").arg("-czf").arg(&file).arg(format!("{name}-1.0.0"));
    tar.directory(scene.work.join("crates")).succeeds();
    fs::read(file).unwrap()
}

/// One line of a registry's index.
fn entry(scene: &Scene, name: &str, needs: &str) -> String {
    let file = scene.work.join("crates").join(format!("{name}.crate"));
    let sum = scene.run("sha256sum").arg(file).succeeds().stdout;
    let sum = sum.split(' ').next().unwrap();
    format!(
        "{{\"name\":\"{name}\",\"vers\":\"1.0.0\",\"deps\":[{needs}],\"cksum\":\"{sum}\",\
         \"features\":{{}},\"yanked\":false}}\n"
    )
}

/// The toolchain that runs these tests.
fn toolchain() -> PathBuf {
    Path::new(env!("CARGO")).parent().unwrap().to_owned()
}

#[test]
fn cargo_gets_along() {
    let scene = Scene::new();
    let alpha = package(&scene, "alpha", "beta = \"1\"\n");
    let beta = package(&scene, "beta", "");
    let need = "{\"name\":\"beta\",\"req\":\"^1\",\"features\":[],\"optional\":false,\
                \"default_features\":true,\"target\":null,\"kind\":\"normal\"}";
    let index = [entry(&scene, "alpha", need), entry(&scene, "beta", "")];
    let server = Server::new(move |address, path| {
        let body = match path {
            "/index/config.json" => {
                format!("{{\"dl\":\"http://{address}/crates\",\"api\":null}}").into_bytes()
            }
            "/index/al/ph/alpha" => index[0].clone().into_bytes(),
            "/index/be/ta/beta" => index[1].clone().into_bytes(),
            "/crates/alpha/1.0.0/download" => alpha.clone(),
            "/crates/beta/1.0.0/download" => beta.clone(),
            _ => return None,
        };
        Some(Answer { headers: vec![("ETag", "\"1\"".into())], body })
    });
    let repository = scene.work.join("gamma");
    package(&scene, "gamma", "");
    fs::rename(scene.work.join("crates/gamma-1.0.0"), &repository).unwrap();
    let script = "git init --quiet . && git add . && git -c user.name=t -c user.email=t@t commit --quiet \
                  --message first";
    scene.run("sh").args(["-ec", script]).directory(&repository).succeeds();

    let app = scene.work.join("app");
    fs::create_dir_all(app.join("src")).unwrap();
    fs::create_dir_all(app.join(".cargo")).unwrap();
    let needs = format!("alpha = \"1\"\ngamma = {{ git = \"file://{}\" }}\n", repository.display());
    let manifest = format!(
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n{needs}"
    );
    fs::write(app.join("Cargo.toml"), manifest).unwrap();
    let text = "pub fn all() -> u32 { alpha::alpha() + gamma::gamma() }\n";
    fs::write(app.join("src/lib.rs"), text).unwrap();
    let config = format!(
        "[source.crates-io]\nreplace-with = \"local\"\n[source.local]\nregistry = \
         \"sparse+http://{}/index/\"\n",
        server.address()
    );
    fs::write(app.join(".cargo/config.toml"), config).unwrap();

    let cargo = |words: &[&str]| -> Run {
        let path = format!("{}:/usr/bin:/bin", toolchain().display());
        let run = scene.run(toolchain().join("cargo")).args(words).env("PATH", path);
        run.env("CARGO_HOME", scene.cache.join("cargo")).directory(&app)
    };
    let build = |offline: bool| -> Finished {
        scene.remove(&app.join("target"));
        let words: &[&str] = if offline { &["build", "--offline"] } else { &["build"] };
        cargo(words).finish()
    };
    let works = |offline: bool| {
        let finished = build(offline);
        assert!(finished.status.success(), "{finished}");
    };
    works(false);
    works(true);

    let kept = |name: &str| {
        let file = name.rsplit('/').next().unwrap();
        let at_top = name.matches('/').count() == 1 && file.starts_with('.');
        at_top || ["cargo/registry/CACHEDIR.TAG", "cargo/git/CACHEDIR.TAG"].contains(&name)
    };
    let units = scene.units();
    // Two crates and their sources, the index, a repository and a commit.
    assert_eq!(units.units.len(), 7, "{units:?}");
    scene.survives(kept, 1, |units, plan| {
        let names: Vec<_> = plan.chosen.iter().map(|c| units.units[c.unit].name()).collect();
        let fetched =
            names.iter().any(|name| !name.ends_with("(sources)") && !name.contains("gamma"));
        let offline = build(true);
        // Unpacked anew, where that is all that is missing.
        assert!(offline.status.success() || fetched || names.len() > 1, "{names:?}: {offline}");
        works(false);
        works(true);
    });

    // All that needs the registry's index goes with it.
    let index = units.units.iter().position(|unit| unit.name().starts_with("index of")).unwrap();
    assert_eq!(scene.take(&units, index).chosen.len(), 5);
    works(false);
}
