//! What is said of errors and names on Windows, which has numbers of its own for errors.

use std::ffi::OsStr;
use std::io;

macro_rules! errors {
    ($($name:ident = $number:literal, $meaning:literal;)+) => {
        /// The numbers that [`crate::Errno`] has: Linux's, as nobody but this program sees them.
        pub(crate) mod errno {
            $(pub(crate) const $name: i32 = $number;)+
        }

        /// What the number means.
        pub(crate) fn meaning(number: i32) -> &'static str {
            match number {
                $($number => $meaning,)+
                _ => "unknown error",
            }
        }
    };
}
errors! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too long";
    EBADF = 9, "bad handle";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "access is denied";
    EBUSY = 16, "in use";
    EEXIST = 17, "file exists";
    EXDEV = 18, "on another volume";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    EMFILE = 24, "too many open files";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only filesystem";
    ERANGE = 34, "out of range";
    ENAMETOOLONG = 36, "name too long";
    ENOSYS = 38, "not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many symbolic links";
    ENODATA = 61, "no data available";
    EOPNOTSUPP = 95, "not supported";
    ESTALE = 116, "stale file handle";
    EDQUOT = 122, "quota exceeded";
}

/// The number of `error`, if Windows gave it one (`winerror.h`).
pub(crate) fn number(error: &io::Error) -> Option<i32> {
    error.raw_os_error().map(from_windows)
}

fn from_windows(code: i32) -> i32 {
    match code {
        2 | 3 => errno::ENOENT,
        4 => errno::EMFILE,
        5 => errno::EACCES,
        6 => errno::EBADF,
        8 | 14 => errno::ENOMEM,
        17 => errno::EXDEV,
        19 => errno::EROFS,
        // Somebody has it open, locked, mapped, or is about to remove it.
        32 | 33 | 303 | 1224 => errno::EBUSY,
        39 | 112 => errno::ENOSPC,
        50 => errno::EOPNOTSUPP,
        80 | 183 => errno::EEXIST,
        87 | 123 => errno::EINVAL,
        145 => errno::ENOTEMPTY,
        206 => errno::ENAMETOOLONG,
        267 => errno::ENOTDIR,
        1295 => errno::EDQUOT,
        1314 => errno::EPERM,
        1921 => errno::ELOOP,
        _ => errno::EIO,
    }
}

/// How long a name is for the system: in UTF-16 units.
pub(crate) fn length(name: &OsStr) -> usize {
    // Each byte that does not continue a character begins one; those of four bytes are two units.
    let units = |byte: &u8| match byte {
        0x80..=0xbf => 0,
        0xf0..=0xff => 2,
        _ => 1,
    };
    name.as_encoded_bytes().iter().map(units).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_windows_gives_mean_what_they_say() {
        for (windows, ours) in [
            (2, errno::ENOENT),
            (5, errno::EACCES),
            (32, errno::EBUSY),
            (112, errno::ENOSPC),
            (183, errno::EEXIST),
            (145, errno::ENOTEMPTY),
            (9999, errno::EIO),
        ] {
            let error = io::Error::from_raw_os_error(windows);
            assert_eq!(number(&error), Some(ours), "{error}");
        }
        assert_eq!(number(&io::ErrorKind::NotFound.into()), None);
        assert_eq!(meaning(errno::ENOTEMPTY), "directory not empty");
        assert_eq!(meaning(-1), "unknown error");
    }

    #[test]
    fn names_are_as_long_as_windows_finds_them() {
        for name in ["", "abc", "äöü", "日本語", "🦀", "a🦀ü"] {
            assert_eq!(length(OsStr::new(name)), name.encode_utf16().count(), "{name}");
        }
    }
}
