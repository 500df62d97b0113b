//! Who made a file, written on it as an extended attribute, which no mount shows.

use std::path::PathBuf;
use std::sync::Once;

use crate::platform;
use crate::platform::fd::AsFd;
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::XattrFlags;

/// The attribute; its value is the user's number in decimal digits.
pub(in crate::cache) const MARK: &[u8] = b"user.cachefs.uid";

/// Says once that there can be no marks.
static TOLD: Once = Once::new();

/// A path to a name in a directory, or to a descriptor itself when `name` is empty.
fn path((at, name): (impl AsFd, &[u8])) -> PathBuf {
    let itself = platform::fs::self_path(at);
    if name.is_empty() { itself } else { itself.join(std::ffi::OsStr::from_bytes(name)) }
}

/// Marks a file or a directory.
pub(super) fn write((at, name): (impl AsFd, &[u8]), user: u32) {
    let value = user.to_string();
    let path = path((at, name));
    let flags = XattrFlags::empty();
    let marked = match name.is_empty() {
        // The descriptor's own entry is a link.
        true => platform::fs::setxattr(path, MARK, value.as_bytes(), flags),
        false => platform::fs::lsetxattr(path, MARK, value.as_bytes(), flags),
    };
    if let Err(error) = marked {
        TOLD.call_once(|| {
            tracing::warn!(
                "can't write on a file of the store who made it ({error}): the next mount does not \
                 count for the quotas what is written now"
            );
        });
    }
}

/// Who made a file, if it says so.
pub(super) fn read((at, name): (impl AsFd, &[u8])) -> Option<u32> {
    let mut value = [0; 16];
    let path = path((at, name));
    let length = match name.is_empty() {
        true => platform::fs::getxattr(path, MARK, &mut value[..]),
        false => platform::fs::lgetxattr(path, MARK, &mut value[..]),
    };
    std::str::from_utf8(&value[..length.ok()?]).ok()?.parse().ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        // Not every filesystem for temporary files has attributes; that of the sources has.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
        let at = std::fs::File::open(folder.path()).unwrap();
        assert_eq!(read((&at, b"file")), None);
        write((&at, b"file"), u32::MAX);
        write((&at, b""), 0);
        // A link is not followed, and bears none.
        write((&at, b"link"), 5);
        assert_eq!(read((&at, b"file")), Some(u32::MAX));
        assert_eq!(read((&at, b"")), Some(0));
        assert_eq!(read((&at, b"link")), None);
        let name = std::ffi::OsStr::from_bytes(MARK);
        platform::fs::setxattr(folder.path(), name, b"-1", XattrFlags::empty()).unwrap();
        assert_eq!(read((&at, b"")), None);
    }
}
