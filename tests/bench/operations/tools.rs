//! Real tools with their caches there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Operation, Timed};
use crate::Result;
use crate::kernel_cache::Cold;
use crate::options::tools_directory;
use crate::place::Place;

pub(super) fn operations() -> Vec<Operation> {
    let lacks = Uv::find().is_none().then_some("uv or its wheels are missing: run tests/setup");
    let install = |name: &str, arm: fn(&Place) -> Result<Timed>| {
        Operation::new(name, "install", arm).lacking(lacks).long()
    };
    vec![
        install("uv install warm", |place| with_filled_cache(place, 1)).goal(1.25, 1.08),
        install("uv install cold", |place| with_filled_cache(place, 1))
            .cold(Cold::Contents)
            .thaw(warm_programs)
            .goal(1.25, 1.08),
        install("uv install, four at once", |place| with_filled_cache(place, 4)).goal(1.25, 1.08),
        install("uv install into an empty cache", with_empty_cache).goal(1.6, 1.2),
        Operation::new("rm -rf of uv's cache", "cache", remove_cache).lacking(lacks).goal(2.0, 1.2),
    ]
}

/// The program, and the wheels it installs: all that `tests/setup` has fetched for it.
struct Uv {
    program: PathBuf,
    wheels: PathBuf,
}

impl Uv {
    fn find() -> Option<Uv> {
        let tools = tools_directory();
        let wheels = [tools.join("bench-wheels"), tools.join("wheelhouse")];
        let wheels = wheels.into_iter().find(|directory| directory.is_dir())?;
        let programs = [tools.join("uv"), tools.join("bin/uv")];
        let program = programs.into_iter().find(|program| program.is_file())?;
        Some(Uv { program, wheels })
    }

    /// What is installed: every wheel that fits this machine was fetched for it, so all of them.
    fn requirements(&self) -> Result<Vec<PathBuf>> {
        let mut wheels = Vec::new();
        for entry in fs::read_dir(&self.wheels)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                wheels.push(path);
            }
        }
        wheels.sort();
        Ok(wheels)
    }

    fn install(&self, cache: &Path, target: &Path) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(["pip", "install", "--quiet", "--offline", "--no-index", "--no-deps"]);
        command.args(["--no-config", "--link-mode", "copy", "--python", "python3", "--target"]);
        command.arg(target).arg("--cache-dir").arg(cache).args(self.requirements()?);
        command.env_remove("UV_CACHE_DIR").stdin(Stdio::null()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }
}

fn uv() -> Result<Uv> {
    Uv::find().ok_or_else(|| "uv is missing".into())
}

fn finish(installs: Vec<Child>) -> Result<u64> {
    let number = installs.len() as u64;
    for install in installs {
        let output = install.wait_with_output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
    }
    Ok(number)
}

/// Several installs at once, each to a directory of its own, from a cache that has everything.
fn with_filled_cache(place: &Place, at_once: usize) -> Result<Timed> {
    let uv = uv()?;
    let outside = place.empty_outside("installed")?;
    let cache = place.fixture("uv", |cache| {
        finish(vec![uv.install(cache, &outside.join("first"))?])?;
        Ok(())
    })?;
    Ok(Box::new(move || {
        let targets = (0..at_once).map(|number| outside.join(number.to_string()));
        let installs = targets.map(|target| uv.install(&cache, &target));
        finish(installs.collect::<Result<_>>()?)
    }))
}

fn with_empty_cache(place: &Place) -> Result<Timed> {
    let uv = uv()?;
    let cache = place.empty("uv-empty")?;
    let target = place.empty_outside("installed")?.join("0");
    Ok(Box::new(move || finish(vec![uv.install(&cache, &target)?])))
}

fn remove_cache(place: &Place) -> Result<Timed> {
    let fill = with_empty_cache(place)?;
    fill()?;
    let cache = place.root.join("uv-empty");
    Ok(Box::new(move || {
        let status = Command::new("rm").arg("-rf").arg(cache).status()?;
        if !status.success() {
            return Err(format!("rm: {status}").into());
        }
        Ok(1)
    }))
}

/// Only the cache shall be cold, not the programs that use it.
fn warm_programs() -> Result<()> {
    for command in [&mut Command::new(uv()?.program), &mut Command::new("python3")] {
        command.arg("--version").stdout(Stdio::null()).status()?;
    }
    Command::new("python3").args(["-c", "import sysconfig, json, platform"]).status()?;
    Ok(())
}
