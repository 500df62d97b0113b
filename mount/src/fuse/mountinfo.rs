//! `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`): which mounts there are, without asking any of
//! them, so that a mount that does not answer can't keep anybody waiting.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The device's major and minor number; a FUSE connection's number is the minor.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The filesystem's type.
    pub fs_type: OsString,
    /// What was mounted.
    pub source: OsString,
}

/// All mounts of this process's mount namespace, in the order in which they were made.
pub fn read() -> io::Result<Vec<MountInfo>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

fn parse(text: &[u8]) -> Vec<MountInfo> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let mut words = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(words.nth(1)?);
    let mut words = words.skip_while(|&word| word != b"-").skip(1);
    Some(MountInfo {
        device: (major.parse().ok()?, minor.parse().ok()?),
        mountpoint: PathBuf::from(OsString::from_vec(mountpoint)),
        fs_type: OsString::from_vec(unescape(words.next()?)),
        source: OsString::from_vec(unescape(words.next()?)),
    })
}

/// Undoes `\040`-like octal escapes.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes() {
        let line = b"98 12 0:41 / /srv/my\\040cache rw,nosuid shared:7 master:1 - fuse.cachefs \
                     /var/st\\134ore rw,user_id=0";
        assert_eq!(
            parse_line(line),
            Some(MountInfo {
                device: (0, 41),
                mountpoint: PathBuf::from("/srv/my cache"),
                fs_type: "fuse.cachefs".into(),
                source: "/var/st\\ore".into(),
            })
        );
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        assert!(parse(b"\nnonsense\n1 2 x:y / / rw - a b c\n1 2 0:1 / /a rw\n").is_empty());
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        assert_eq!(unescape(b"a\\9\\04"), b"a\\9\\04");
    }
}
