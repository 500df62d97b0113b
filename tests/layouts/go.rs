//! Go: the build cache and the module cache.

use std::fs;
use std::path::Path;

use crate::common::Run;
use crate::scene::Scene;

/// A module proxy in a directory, with two versions of one module and a module that needs it.
fn proxy(scene: &Scene) {
    let script = r#"
import os, zipfile
def module(path, escaped, version, requires):
    at = f"proxy/{escaped}/@v"
    os.makedirs(at, exist_ok=True)
    gomod = f"module {path}\n\ngo 1.20\n{requires}"
    name = path.rsplit("/", 1)[1]
    text = f'package {name}\n\nconst Name = "{name} {version}"\n'
    with open(f"{at}/list", "a") as list:
        list.write(version + "\n")
    with open(f"{at}/{version}.info", "w") as info:
        info.write(f'{{"Version":"{version}","Time":"2024-01-01T00:00:00Z"}}')
    with open(f"{at}/{version}.mod", "w") as mod:
        mod.write(gomod)
    with zipfile.ZipFile(f"{at}/{version}.zip", "w") as archive:
        archive.writestr(f"{path}@{version}/go.mod", gomod)
        archive.writestr(f"{path}@{version}/{name}.go", text)
module("example.com/Up/greet", "example.com/!up/greet", "v1.0.0", "")
module("example.com/Up/greet", "example.com/!up/greet", "v1.1.0", "")
module("example.com/other", "example.com/other", "v0.1.0",
       "\nrequire example.com/Up/greet v1.0.0\n")
"#;
    scene.run("/usr/bin/python3").args(["-c", script]).succeeds();
    let main = "package main\n\nimport (\n\t\"example.com/Up/greet\"\n\t\"example.com/other\"\n)\n\n\
                func main() { println(greet.Name, other.Name) }\n";
    let module = "module app\n\ngo 1.20\n\nrequire example.com/other v0.1.0\n";
    for (file, text) in [("main.go", main), ("go.mod", module)] {
        fs::create_dir_all(scene.work.join("app")).unwrap();
        fs::write(scene.work.join("app").join(file), text).unwrap();
    }
}

fn go(scene: &Scene, proxy: &Path) -> Run {
    scene
        .tool("go")
        .env("GOCACHE", scene.cache.join("go-build"))
        .env("GOMODCACHE", scene.cache.join("go-mod"))
        .env("GOPROXY", format!("file://{}", proxy.display()))
        .env("GOSUMDB", "off")
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .env("GOTELEMETRY", "off")
        .env("CGO_ENABLED", "0")
        .directory(scene.work.join("app"))
}

#[test]
fn go_gets_along() {
    let scene = Scene::new();
    proxy(&scene);
    let (there, none) = (scene.work.join("proxy"), scene.work.join("none"));
    let run = |proxy: &Path| go(&scene, proxy).args(["run", "."]).finish();
    let works = || {
        let finished = run(&there);
        assert!(finished.status.success(), "{finished}");
        finished.says("greet v1.0.0 other v0.1.0");
    };
    works();
    go(&scene, &there).args(["vet", "."]).succeeds();
    go(&scene, &there).args(["mod", "download", "example.com/Up/greet@v1.1.0"]).succeeds();
    let kept = |name: &str| {
        ["go-build/README", "go-build/trim.txt", "go-mod/cache/lock"].contains(&name)
            || name.starts_with("go-mod/cache/download") && name.ends_with(".lock")
    };
    // Most of these are packages of the standard library.
    scene.survives(kept, 29, |_, _| {
        // Without the proxy: right, or not at all.
        let offline = run(&none);
        assert!(!offline.status.success() || offline.all_output().contains("other v0.1.0"));
        works();
        go(&scene, &there).args(["mod", "verify"]).succeeds().says("all modules verified");
        let offline = run(&none);
        assert!(offline.status.success(), "{offline}");
    });

    // Each of the few modules.
    let units = scene.units();
    let modules = units.units.iter().enumerate().filter(|(_, unit)| unit.layout.name() == "go-mod");
    let names: Vec<_> = modules.clone().map(|(_, unit)| unit.name()).collect();
    for name in
        ["example.com/Up/greet@v1.0.0", "example.com/Up/greet@v1.1.0", "example.com/other@v0.1.0"]
    {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    for (unit, _) in modules {
        scene.take(&units, unit);
        works();
        go(&scene, &there).args(["mod", "verify"]).succeeds();
        scene.restore();
    }
}
