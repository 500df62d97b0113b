//! What a process is called and where it runs, for people.
//!
//! Only `comm`, `cmdline` and `cgroup` are read: other files in `/proc` wait for a process that may
//! itself be waiting for the mount.

use std::fs::File;
use std::io::Read;

/// A longer command line is cut off, in bytes.
const LONGEST: u64 = 4096;

/// The command line, or at least the name, of a process; none if it is gone.
pub fn command(pid: u32) -> Option<String> {
    let line = read(pid, "cmdline").unwrap_or_default();
    // Empty once it has exited, and while others have not taken note.
    match words(&line) {
        Some(words) => Some(words),
        None => words(&read(pid, "comm")?),
    }
}

/// The cgroup of a process, as this process's cgroup namespace has it; none if it is gone.
pub fn cgroup(pid: u32) -> Option<String> {
    let text = read(pid, "cgroup")?;
    let text = String::from_utf8_lossy(&text);
    // `number:controllers:path`. The second version's only line has no controllers; before it, systemd
    // had a tree of its own.
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (controllers == wanted).then(|| path.to_owned())
        })
    };
    of("").filter(|path| path != "/").or_else(|| of("name=systemd")).or_else(|| of(""))
}

fn read(pid: u32, file: &str) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/{file}")).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Words that end in NUL or a line end, in one line; none if there is nothing. What could confuse a
/// terminal is not passed on.
fn words(raw: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(raw.trim_ascii_end());
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let me = std::process::id();
        assert!(command(me).unwrap().contains("cachefs"), "{:?}", command(me));
        assert!(cgroup(me).is_some_and(|path| path.starts_with('/')));
        assert_eq!(command(0), None);
        assert_eq!(cgroup(u32::MAX), None);
    }

    #[test]
    fn a_command_is_one_clean_line() {
        assert_eq!(words(b"a\0b c\0\x1b[2J\n\xff\0").as_deref(), Some("a b c  [2J \u{fffd}"));
        assert_eq!(words(b"\0\0"), None);
    }
}
