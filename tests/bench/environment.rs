//! On what machine the numbers were taken.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::systems::System;

#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) root: bool,
    /// FUSE over io_uring is allowed by the kernel.
    pub(crate) fuse_uring: bool,
    /// How busy the machine was when the run ended.
    pub(crate) load_average: String,
    /// What each system says of itself.
    pub(crate) systems: Vec<serde_json::Value>,
}

impl Environment {
    pub(crate) fn look(directory: &Path, systems: &[Box<dyn System>]) -> Environment {
        Environment {
            kernel: read("/proc/sys/kernel/osrelease"),
            filesystem: filesystem_of(directory),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: processor(),
            root: rustix::process::geteuid().is_root(),
            fuse_uring: read("/sys/module/fuse/parameters/enable_uring") == "Y",
            load_average: read("/proc/loadavg"),
            systems: systems
                .iter()
                .map(|system| serde_json::json!({ "name": system.name(), "about": system.about() }))
                .collect(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn processor() -> String {
    read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_default()
}

/// The type of the filesystem that holds `directory`: that of the longest mountpoint above it.
fn filesystem_of(directory: &Path) -> String {
    let mounts = read("/proc/self/mountinfo");
    mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mountpoint = Path::new(before.split(' ').nth(4)?);
            let kind = after.split(' ').next()?;
            directory
                .starts_with(mountpoint)
                .then(|| (mountpoint.as_os_str().len(), kind.to_owned()))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
        .unwrap_or_default()
}

/// Has the kernel end the child when this process ends, however that comes about.
pub(crate) fn dies_with_us(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
            Ok(())
        });
    }
}
