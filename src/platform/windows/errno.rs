//! What can go wrong, by the numbers of `errno(3)` that the mount has, too.

use std::io;

/// An error by its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// What the functions here answer.
pub type Result<T> = std::result::Result<T, Errno>;

macro_rules! errors {
    ($($name:ident = $number:literal, $code:literal, [$($status:literal)*];)+) => {
        #[allow(missing_docs, reason = "each is what errno(3) says it is")]
        impl Errno { $(pub const $name: Errno = Errno($number);)+ }

        impl Errno {
            /// What it is called in `winerror.h`, by number.
            fn code(self) -> i32 {
                match self.0 {
                    $($number => $code,)+
                    _ => 31,
                }
            }

            /// By what NT answers (`ntstatus.h`).
            pub(super) fn from_status(status: i32) -> Errno {
                match status.cast_unsigned() {
                    $($($status)|* => Errno::$name,)+
                    _ => Errno::IO,
                }
            }
        }

        impl std::fmt::Debug for Errno {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.0 {
                    $($number => f.write_str(stringify!($name)),)+
                    other => write!(f, "{other}"),
                }
            }
        }
    };
}
errors! {
    PERM = 1, 1314, [0xc000_0061];
    NOENT = 2, 2, [0xc000_000f 0xc000_0034 0xc000_003a 0xc000_003b 0xc000_0056 0xc000_0123];
    INTR = 4, 995, [0xc000_0120];
    IO = 5, 31, [0xc000_0185];
    NXIO = 6, 55, [0xc000_000e];
    BADF = 9, 6, [0xc000_0008];
    AGAIN = 11, 33, [0xc000_0054 0xc000_0055];
    NOMEM = 12, 8, [0xc000_0017 0xc000_009a];
    ACCESS = 13, 5, [0xc000_0022 0xc000_0121];
    BUSY = 16, 32, [0xc000_0043 0xc000_0243];
    EXIST = 17, 183, [0xc000_0035];
    XDEV = 18, 17, [0xc000_00d4];
    NOTDIR = 20, 267, [0xc000_0103];
    ISDIR = 21, 5, [0xc000_00ba];
    INVAL = 22, 87, [0xc000_000d 0xc000_0033 0xc000_0039];
    MFILE = 24, 4, [0xc000_011f];
    NOSPC = 28, 112, [0xc000_007f 0xc000_0188];
    ROFS = 30, 19, [0xc000_00a2];
    NAMETOOLONG = 36, 206, [0xc000_0106];
    NOLCK = 37, 167, [0xc000_00a1];
    NOSYS = 38, 50, [0xc000_0002];
    NOTEMPTY = 39, 145, [0xc000_0101];
    LOOP = 40, 1921, [0xc000_0280];
    OPNOTSUPP = 95, 50, [0xc000_0003 0xc000_0010 0xc000_00bb];
    DQUOT = 122, 1295, [0xc000_0044 0xc000_0802];
}

impl Errno {
    /// What `AGAIN` is called for locks.
    pub const WOULDBLOCK: Errno = Errno::AGAIN;

    /// The number.
    pub const fn raw_os_error(self) -> i32 {
        self.0
    }

    /// By what Windows said; none if it did not say it.
    pub fn from_io_error(error: &io::Error) -> Option<Errno> {
        let code = error.raw_os_error()?;
        Some(Errno(cachefs_mount::Errno::from(io::Error::from_raw_os_error(code)).raw()))
    }

    /// As [`Errno::from_io_error`], of an error that Windows has said.
    pub(super) fn of(error: io::Error) -> Errno {
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        match errno {
            // Windows has one number for this and for what is not permitted.
            Errno::ISDIR => io::ErrorKind::IsADirectory.into(),
            errno => io::Error::from_raw_os_error(errno.code()),
        }
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", cachefs_mount::Errno::new(self.0))
    }
}

impl std::error::Error for Errno {}
