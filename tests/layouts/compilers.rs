//! ccache, in two releases, and sccache.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::common::{Run, needs, tools_directory};
use crate::scene::Scene;

/// Sources of which two include the same header.
fn sources(scene: &Scene) -> Vec<PathBuf> {
    fs::write(scene.work.join("common.h"), "int common(void);\n").unwrap();
    ["one", "two", "three", "four"]
        .into_iter()
        .map(|name| {
            let file = scene.work.join(name).with_extension("c");
            let text = format!("#include \"common.h\"\nint {name}(void) {{ return common(); }}\n");
            fs::write(&file, text).unwrap();
            file
        })
        .collect()
}

/// Compiles by `compiler`, and compares what comes out with what comes out without a cache.
fn compile(scene: &Scene, compiler: impl Fn() -> Run, file: &Path) {
    let (cached, plain) = (scene.work.join("cached.o"), file.with_extension("o"));
    let _ = fs::remove_file(&cached);
    compiler().args(["gcc", "-c", "-o"]).args([&cached, file]).succeeds();
    if !plain.exists() {
        scene.run("gcc").args(["-c", "-o"]).args([&plain, file]).succeeds();
    }
    assert_eq!(fs::read(&cached).unwrap(), fs::read(&plain).unwrap(), "{}", file.display());
}

fn ccache_gets_along(program: &Path, release: &str, linked: bool) {
    let scene = Scene::new();
    let files = sources(&scene);
    let ccache = || {
        let run = scene.run(program).env("CCACHE_DIR", scene.cache.join("ccache"));
        if linked { run.env("CCACHE_HARDLINK", "1").env("CCACHE_NOCOMPRESS", "1") } else { run }
    };
    ccache().arg("--version").succeeds().says(&format!("ccache version {release}"));
    let compile_all = || files.iter().for_each(|file| compile(&scene, ccache, file));
    compile_all();
    compile_all();
    let statistics = |wanted: &str| -> u64 {
        let all = ccache().arg("--print-stats").succeeds().stdout;
        let line = all.lines().find_map(|line| line.strip_prefix(wanted)).unwrap();
        line.trim().parse().unwrap()
    };
    let hits = || statistics("direct_cache_hit") + statistics("preprocessed_cache_hit");
    assert_eq!((hits(), statistics("cache_miss")), (4, 4));

    let kept = |name: &str| {
        let file = name.rsplit('/').next().unwrap();
        name.starts_with("ccache/tmp/") || ["stats", "CACHEDIR.TAG"].contains(&file)
    };
    scene.survives(kept, 3, |_, plan| {
        ccache().arg("--zero-stats").succeeds();
        compile_all();
        let misses = statistics("cache_miss");
        assert_eq!(hits() + misses, 4);
        assert!(misses <= plan.chosen.len() as u64, "{misses} misses for {plan:?}");
        compile_all();
        assert_eq!((hits(), statistics("cache_miss")), (8 - misses, misses));
        ccache().arg("--cleanup").succeeds();
        ccache().arg("--show-stats").succeeds();
    });
}

#[test]
fn ccache_4_7_gets_along() {
    ccache_gets_along(&needs("ccache"), "4.7", false);
}

#[test]
fn ccache_4_7_with_files_as_they_are_gets_along() {
    ccache_gets_along(&needs("ccache"), "4.7", true);
}

#[test]
fn ccache_4_14_gets_along() {
    ccache_gets_along(&tools_directory().join("caches/bin/ccache"), "4.14", false);
}

#[test]
fn ccache_4_14_with_files_as_they_are_gets_along() {
    ccache_gets_along(&tools_directory().join("caches/bin/ccache"), "4.14", true);
}

/// Ends the server that the first compilation started.
struct Server<'s>(&'s dyn Fn() -> Run);

impl Drop for Server<'_> {
    fn drop(&mut self) {
        (self.0)().arg("--stop-server").finish();
    }
}

#[test]
fn sccache_gets_along() {
    let scene = Scene::new();
    let files = sources(&scene);
    // Free now; whoever takes it meanwhile makes the test fail, not pass.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let sccache = || {
        let server = scene.run(needs("sccache")).env("SCCACHE_DIR", scene.cache.join("sccache"));
        server.env("SCCACHE_SERVER_PORT", port.to_string()).env("SCCACHE_IDLE_TIMEOUT", "100")
    };
    // A server is a daemon, and so outlives its starter.
    let _server = Server(&sccache);
    let compile_all = || files.iter().for_each(|file| compile(&scene, sccache, file));
    compile_all();
    compile_all();
    let counted = |what: &str| -> u64 {
        let all = sccache().arg("--show-stats").succeeds().stdout;
        let line = all.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().parse().unwrap()
    };
    assert_eq!((counted("Cache hits  "), counted("Cache misses  ")), (4, 4));
    // The server runs on, and remembers what was there.
    scene.survives(
        |_| false,
        1,
        |_, plan| {
            sccache().arg("--zero-stats").succeeds();
            compile_all();
            let missed = if Scene::GOES_ON { 0 } else { plan.chosen.len() as u64 };
            assert_eq!(counted("Cache misses  "), missed);
            compile_all();
            assert_eq!(counted("Cache misses  "), missed);
        },
    );
}
