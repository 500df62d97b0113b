//! What people call a process.

use super::proc;

/// The name of the program that a process runs, as the kernel keeps it: at most 15 bytes. None if
/// the process is gone.
pub fn command(pid: u32) -> Option<String> {
    // Not its command line: that is in the memory of the process, which may itself be waiting for
    // the mount to bring in a page of it.
    let name = proc::read(pid, "comm")?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// The path of a process's cgroup below the root of its hierarchy, such as
/// `/system.slice/docker-3f9a.scope`. None if the process is gone or cgroups are unknown here.
pub fn cgroup_path(pid: u32) -> Option<String> {
    proc::cgroup_path(&proc::read(pid, "cgroup")?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_a_name() {
        let name = super::command(std::process::id()).unwrap();
        assert!(!name.is_empty() && !name.ends_with('\n'), "{name:?}");
        assert_eq!(super::command(u32::MAX), None);
    }
}
