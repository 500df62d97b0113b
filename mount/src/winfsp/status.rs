//! NTSTATUS, in which Windows answers: one place says which error becomes which.

use crate::Errno;

/// An NTSTATUS other than success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) i32);

macro_rules! statuses {
    ($($name:ident = $number:literal,)+) => {
        impl Status {
            $(pub(super) const $name: Status = Status(($number as u32).cast_signed());)+
        }

        impl std::fmt::Debug for Status {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match *self {
                    $(Status::$name => f.write_str(stringify!($name)),)+
                    Status(other) => write!(f, "{other:#010x}"),
                }
            }
        }
    };
}
statuses! {
    UNSUCCESSFUL = 0xc000_0001,
    INVALID_HANDLE = 0xc000_0008,
    INVALID_PARAMETER = 0xc000_000d,
    NO_SUCH_DEVICE = 0xc000_000e,
    INVALID_DEVICE_REQUEST = 0xc000_0010,
    END_OF_FILE = 0xc000_0011,
    ACCESS_DENIED = 0xc000_0022,
    BUFFER_TOO_SMALL = 0xc000_0023,
    OBJECT_NAME_INVALID = 0xc000_0033,
    OBJECT_NAME_NOT_FOUND = 0xc000_0034,
    OBJECT_NAME_COLLISION = 0xc000_0035,
    OBJECT_PATH_NOT_FOUND = 0xc000_003a,
    SHARING_VIOLATION = 0xc000_0043,
    DISK_FULL = 0xc000_007f,
    FILE_INVALID = 0xc000_0098,
    INSUFFICIENT_RESOURCES = 0xc000_009a,
    MEDIA_WRITE_PROTECTED = 0xc000_00a2,
    FILE_IS_A_DIRECTORY = 0xc000_00ba,
    NOT_SUPPORTED = 0xc000_00bb,
    NOT_SAME_DEVICE = 0xc000_00d4,
    INTERNAL_ERROR = 0xc000_00e5,
    DIRECTORY_NOT_EMPTY = 0xc000_0101,
    NOT_A_DIRECTORY = 0xc000_0103,
    TOO_MANY_OPENED_FILES = 0xc000_011f,
    CANNOT_DELETE = 0xc000_0121,
    FILE_DELETED = 0xc000_0123,
    IO_DEVICE_ERROR = 0xc000_0185,
    NOT_FOUND = 0xc000_0225,
    REPARSE_POINT_NOT_RESOLVED = 0xc000_0280,
    DISK_QUOTA_EXCEEDED = 0xc000_0802,
    BUFFER_OVERFLOW = 0x8000_0005,
}

impl From<Errno> for Status {
    fn from(errno: Errno) -> Status {
        match errno {
            Errno::EACCES | Errno::EPERM => Status::ACCESS_DENIED,
            Errno::EBADF => Status::INVALID_HANDLE,
            Errno::EBUSY => Status::SHARING_VIOLATION,
            Errno::EDQUOT => Status::DISK_QUOTA_EXCEEDED,
            Errno::EEXIST => Status::OBJECT_NAME_COLLISION,
            Errno::E2BIG | Errno::EINVAL => Status::INVALID_PARAMETER,
            Errno::EIO => Status::IO_DEVICE_ERROR,
            Errno::EISDIR => Status::FILE_IS_A_DIRECTORY,
            Errno::ELOOP => Status::REPARSE_POINT_NOT_RESOLVED,
            Errno::EMFILE => Status::TOO_MANY_OPENED_FILES,
            Errno::ENAMETOOLONG => Status::OBJECT_NAME_INVALID,
            Errno::ENODATA => Status::NOT_FOUND,
            Errno::ENODEV | Errno::ENXIO => Status::NO_SUCH_DEVICE,
            Errno::ENOENT => Status::OBJECT_NAME_NOT_FOUND,
            Errno::ENOMEM => Status::INSUFFICIENT_RESOURCES,
            Errno::ENOSPC => Status::DISK_FULL,
            Errno::ENOSYS => Status::INVALID_DEVICE_REQUEST,
            Errno::ENOTDIR => Status::NOT_A_DIRECTORY,
            Errno::ENOTEMPTY => Status::DIRECTORY_NOT_EMPTY,
            Errno::EOPNOTSUPP => Status::NOT_SUPPORTED,
            Errno::ERANGE => Status::BUFFER_TOO_SMALL,
            Errno::EROFS => Status::MEDIA_WRITE_PROTECTED,
            // The file is another one by now, and asking again did not help.
            Errno::ESTALE => Status::FILE_INVALID,
            Errno::EXDEV => Status::NOT_SAME_DEVICE,
            _ => Status::UNSUCCESSFUL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_what_windows_programs_look_for() {
        // As programs see them: ERROR_ACCESS_DENIED (5), FILE_NOT_FOUND (2), ALREADY_EXISTS (183).
        assert_eq!(Status::from(Errno::EACCES).0.cast_unsigned(), 0xc000_0022);
        assert_eq!(Status::from(Errno::ENOENT).0.cast_unsigned(), 0xc000_0034);
        assert_eq!(Status::from(Errno::EEXIST).0.cast_unsigned(), 0xc000_0035);
        assert_eq!(Status::from(Errno::new(9999)), Status::UNSUCCESSFUL);
    }

    #[test]
    fn a_status_says_its_name() {
        assert_eq!(format!("{:?}", Status::DISK_FULL), "DISK_FULL");
        assert_eq!(format!("{:?}", Status(7)), "0x00000007");
    }
}
