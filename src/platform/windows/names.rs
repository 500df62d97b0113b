//! Names: bytes to the engine, UTF-16 to NT. The bytes are those that the standard library gives of names, UTF-8 but
//! for what is no Unicode (WTF-8).

use std::ffi::{OsStr, OsString};
use std::os::windows::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::errno::{Errno, Result};

/// The bytes of names.
pub trait OsStrExt {
    /// By its bytes. Those that are not of a name are taken for one that nothing can have.
    fn from_bytes(bytes: &[u8]) -> &Self;
    /// The bytes.
    fn as_bytes(&self) -> &[u8];
}

/// The bytes of names that are owned.
pub trait OsStringExt {
    /// By its bytes, as [`OsStrExt::from_bytes`].
    fn from_vec(bytes: Vec<u8>) -> Self;
    /// The bytes.
    fn into_vec(self) -> Vec<u8>;
}

impl OsStrExt for OsStr {
    fn from_bytes(bytes: &[u8]) -> &OsStr {
        match is_a_name(bytes) {
            // SAFETY: they are well-formed WTF-8, which the encoded bytes of an `OsStr` on Windows are.
            true => unsafe { OsStr::from_encoded_bytes_unchecked(bytes) },
            false => OsStr::new("?"),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.as_encoded_bytes()
    }
}

impl OsStringExt for OsString {
    fn from_vec(bytes: Vec<u8>) -> OsString {
        <OsStr as OsStrExt>::from_bytes(&bytes).to_owned()
    }

    fn into_vec(self) -> Vec<u8> {
        self.into_encoded_bytes()
    }
}

/// Whether these are well-formed WTF-8: UTF-8, and surrogates that are not in pairs.
fn is_a_name(mut bytes: &[u8]) -> bool {
    let mut after_leading = false;
    loop {
        let Err(error) = std::str::from_utf8(bytes) else { return true };
        let valid = error.valid_up_to();
        let [0xed, second @ 0xa0..=0xbf, 0x80..=0xbf, rest @ ..] = &bytes[valid..] else {
            return false;
        };
        let leading = *second < 0xb0;
        if after_leading && valid == 0 && !leading {
            return false;
        }
        (after_leading, bytes) = (leading, rest);
    }
}

/// What may be given for a name or a path.
pub trait Arg {
    /// It, as a path.
    fn as_path(&self) -> &Path;
}

macro_rules! args {
    ($($type:ty),+) => {
        $(impl Arg for $type {
            fn as_path(&self) -> &Path {
                Path::new(self)
            }
        })+
    };
}
args!(str, String, OsStr, OsString, Path, PathBuf);

impl Arg for [u8] {
    fn as_path(&self) -> &Path {
        Path::new(<OsStr as OsStrExt>::from_bytes(self))
    }
}

impl<T: Arg + ?Sized> Arg for &T {
    fn as_path(&self) -> &Path {
        (**self).as_path()
    }
}

/// What no name contains: it would lead elsewhere, or name a stream of a file.
const NEVER: &[char] = &['\\', ':', '\0'];

/// A name below a directory, or several, each in the one before; empty for the directory itself. For NT, of which
/// no name is special: `.` and `..` would be.
pub(super) fn relative(path: &Path) -> Result<Vec<u16>> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut wide = Vec::with_capacity(bytes.len());
    for name in bytes.split(|&byte| byte == b'/') {
        match name {
            b"." if bytes == b"." => {}
            b"" if bytes.is_empty() => {}
            b"" | b"." | b".." => return Err(Errno::INVAL),
            name if name.iter().any(|&byte| NEVER.contains(&char::from(byte))) => {
                return Err(Errno::INVAL);
            }
            name => {
                if !wide.is_empty() {
                    wide.push(u16::from(b'\\'));
                }
                wide.extend(<OsStr as OsStrExt>::from_bytes(name).encode_wide());
            }
        }
    }
    Ok(wide)
}

/// A path as it begins with the root of all that NT has names for.
pub(super) fn absolute(path: &Path) -> Result<Vec<u16>> {
    let path = std::path::absolute(path).map_err(Errno::of)?;
    let wide: Vec<u16> = path.as_os_str().encode_wide().collect();
    let slashes = |text: &str| text.encode_utf16().collect::<Vec<_>>();
    let after = |prefix: &str| wide.strip_prefix(&*slashes(prefix)).map(<[u16]>::to_vec);
    let rest = match (after(r"\\?\").or_else(|| after(r"\\.\")), after(r"\\")) {
        (Some(verbatim), _) => verbatim,
        (None, Some(share)) => [slashes(r"UNC\"), share].concat(),
        (None, None) => wide,
    };
    Ok([slashes(r"\??\"), rest].concat())
}

#[cfg(test)]
mod tests {
    use std::os::windows::ffi::OsStringExt as _;

    use super::*;

    fn text(wide: &[u16]) -> String {
        String::from_utf16(wide).unwrap()
    }

    #[test]
    fn bytes_and_names_are_the_same() {
        for name in ["a", "ä🦀", ""] {
            assert_eq!(<OsStr as OsStrExt>::from_bytes(name.as_bytes()), name);
        }
        let half = OsString::from_wide(&[0x61, 0xd800, 0x62, 0xdc00]);
        assert_eq!(<OsStr as OsStrExt>::from_bytes(half.as_encoded_bytes()), half);
        // A pair is written as the one character that it is.
        let pair = b"\xed\xa0\x80\xed\xb0\x80";
        for wrong in [&b"\xff"[..], b"a\xc3", pair] {
            assert_eq!(<OsStr as OsStrExt>::from_bytes(wrong), "?");
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(text(&relative(Path::new("nul.txt ")).unwrap()), "nul.txt ");
        assert_eq!(text(&relative(Path::new("a/b")).unwrap()), r"a\b");
        assert!(relative(Path::new("")).unwrap().is_empty());
        assert!(relative(Path::new(".")).unwrap().is_empty());
        for wrong in ["..", "a/..", "/a", r"a\b", "a:b", "C:", "a\0"] {
            assert_eq!(relative(Path::new(wrong)), Err(Errno::INVAL), "{wrong:?}");
        }
    }

    #[test]
    fn paths_begin_with_the_root() {
        for (path, expected) in [
            (r"C:\a\b", r"\??\C:\a\b"),
            ("C:/a", r"\??\C:\a"),
            (r"\\?\C:\a", r"\??\C:\a"),
            (r"\\server\share\a", r"\??\UNC\server\share\a"),
        ] {
            assert_eq!(text(&absolute(Path::new(path)).unwrap()), expected);
        }
    }
}
