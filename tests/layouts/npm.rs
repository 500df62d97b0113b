//! npm, with a registry of two packages.

use std::fs;

use crate::common::{Finished, Run};
use crate::scene::Scene;
use crate::serve::{Answer, Server};

/// Packs a package and says what the registry has to know of it.
fn pack(scene: &Scene, name: &str, needs: &str) -> Vec<u8> {
    let at = scene.work.join(name);
    fs::create_dir_all(&at).unwrap();
    let package = format!(
        "{{\"name\":\"{name}\",\"version\":\"1.0.0\",\"main\":\"index.js\",\"dependencies\":{needs}}}"
    );
    fs::write(at.join("package.json"), package).unwrap();
    fs::write(at.join("index.js"), format!("module.exports = '{name} works'\n")).unwrap();
    let cache = scene.work.join("other-cache");
    scene
        .tool("npm")
        .args(["pack", "--silent"])
        .env("npm_config_cache", cache)
        .directory(&at)
        .succeeds();
    fs::read(at.join(format!("{name}-1.0.0.tgz"))).unwrap()
}

fn registry(packages: Vec<(&'static str, &'static str, Vec<u8>, String)>) -> Server {
    Server::new(move |address, path| {
        let path = path.trim_matches('/');
        let (name, needs, tarball, integrity) =
            packages.iter().find(|(name, ..)| path.split('/').next() == Some(name))?;
        let headers = |kind: &str| {
            vec![("Content-Type", kind.to_owned()), ("Cache-Control", "max-age=100000".into())]
        };
        if path.ends_with(".tgz") {
            let headers = headers("application/octet-stream");
            return Some(Answer { headers, body: tarball.clone() });
        }
        let body = format!(
            "{{\"name\":\"{name}\",\"dist-tags\":{{\"latest\":\"1.0.0\"}},\"versions\":{{\"1.0.0\":{{\
             \"name\":\"{name}\",\"version\":\"1.0.0\",\"main\":\"index.js\",\"dependencies\":{needs},\
             \"dist\":{{\"tarball\":\"http://{address}/{name}/-/{name}-1.0.0.tgz\",\
             \"integrity\":\"{integrity}\"}}}}}}}}"
        );
        Some(Answer { headers: headers("application/json"), body: body.into_bytes() })
    })
}

fn integrity(scene: &Scene, name: &str) -> String {
    let script = "import base64, hashlib, sys\nprint('sha512-' + base64.b64encode(hashlib.sha512(\
                  open(sys.argv[1], 'rb').read()).digest()).decode())";
    let file = scene.work.join(name).join(format!("{name}-1.0.0.tgz"));
    let said = scene.run("/usr/bin/python3").args(["-c", script]).arg(file).succeeds();
    said.stdout.trim().to_owned()
}

#[test]
fn npm_gets_along() {
    let scene = Scene::new();
    let packages = [("first", "{\"second\":\"1\"}"), ("second", "{}"), ("third", "{}")];
    let known = packages.map(|(name, needs)| {
        let tarball = pack(&scene, name, needs);
        (name, needs, tarball, integrity(&scene, name))
    });
    let server = registry(known.into());
    let npm = || -> Run {
        scene
            .tool("npm")
            .env("npm_config_cache", scene.cache.join("npm"))
            .env("npm_config_registry", format!("http://{}", server.address()))
            .env("npm_config_audit", "false")
            .env("npm_config_update_notifier", "false")
    };
    let app = scene.work.join("app");
    let install = |offline: bool| -> Finished {
        scene.remove(&app);
        fs::create_dir(&app).unwrap();
        fs::write(app.join("package.json"), "{\"name\":\"app\",\"version\":\"1.0.0\"}").unwrap();
        let npm = npm().args(["install", "--silent", "first", "third"]).directory(&app);
        if offline { npm.arg("--offline").finish() } else { npm.finish() }
    };
    let works = |finished: &Finished| {
        assert!(finished.status.success(), "{finished}");
        let script = "for (const name of ['first', 'second', 'third']) console.log(require(name))";
        let said = scene.tool("node").args(["-e", script]).directory(&app).succeeds();
        assert_eq!(said.stdout, "first works\nsecond works\nthird works\n");
    };
    works(&install(false));
    works(&install(true));
    let kept = |name: &str| {
        name.starts_with("npm/_logs/") || ["npm/_cacache/_lastverified"].contains(&name)
    };
    let units = scene.units();
    // For each package what is known of it, and its tarball.
    assert_eq!(units.units.len(), 6);
    assert!(units.units.iter().all(|unit| unit.paths.len() == 2), "{units:?}");
    scene.survives(kept, 1, |_, _| {
        let offline = install(true);
        if offline.status.success() {
            works(&offline);
        }
        works(&install(false));
        works(&install(true));
        npm().args(["cache", "verify"]).succeeds().does_not_say("garbage").does_not_say("Missing");
    });
}
