//! What something is like. NTFS has no permission bits and no owners in the sense of Unix: everything may be read,
//! written and run, and belongs to the one user that there is.

use std::time::{Duration, SystemTime};

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_BASIC_INFORMATION, FILE_INTERNAL_INFORMATION, FILE_STANDARD_INFORMATION,
    FILE_STANDARD_LINK_INFORMATION, FileBasicInformation, FileIdInformation,
    FileInternalInformation, FileStandardInformation, FileStandardLinkInformation,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT, FILE_ID_INFO, FILE_READ_ATTRIBUTES,
    FILE_WRITE_ATTRIBUTES,
};

use super::errno::{Errno, Result};
use super::fd::{AsFd, BorrowedFd, OwnedFd};
use super::flags::{AtFlags, FileType, Gid, Mode, StatxFlags, Uid};
use super::graves;
use super::names::Arg;
use super::nt::{CWD, Place, Status, Way, patiently, query, set};

/// A device number: the volume's serial number.
pub type Dev = u64;

/// All that may be done with anything.
const PERMISSIONS: u32 = 0o777;

/// What is told as the preferred size of reads and writes, in bytes: NTFS's usual cluster.
const BLOCK: u32 = 4096;

/// `struct stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of stat(3type)")]
pub struct Stat {
    pub st_dev: Dev,
    pub st_mode: u32,
    pub st_uid: u32,
}

/// `struct statx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statx(2)")]
pub struct Statx {
    pub stx_blksize: u32,
    pub stx_nlink: u32,
    pub stx_uid: u32,
    pub stx_gid: u32,
    pub stx_mode: u16,
    pub stx_ino: u64,
    pub stx_size: u64,
    pub stx_blocks: u64,
    pub stx_atime: StatxTimestamp,
    pub stx_ctime: StatxTimestamp,
    pub stx_mtime: StatxTimestamp,
    pub stx_dev_major: u32,
    pub stx_dev_minor: u32,
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statx(2)")]
pub struct StatxTimestamp {
    pub tv_sec: i64,
    pub tv_nsec: u32,
}

/// `struct timespec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of timespec(3type)")]
pub struct Timespec {
    pub tv_sec: i64,
    pub tv_nsec: i64,
}

/// For `utimensat(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Timestamps {
    pub last_access: Timespec,
    pub last_modification: Timespec,
}

/// In `tv_nsec`: now.
pub const UTIME_NOW: i64 = 0x3fff_ffff;
/// In `tv_nsec`: not at all.
pub const UTIME_OMIT: i64 = 0x3fff_fffe;

/// A device number from its two halves.
pub fn makedev(major: u32, minor: u32) -> Dev {
    u64::from(major) << 32 | u64::from(minor)
}

/// From 1601, where NT's time begins, to 1970, in seconds.
const EPOCH: i64 = 11_644_473_600;
/// NT counts time in steps of 100 nanoseconds.
const STEPS: i64 = 10_000_000;

fn from_nt(time: i64) -> StatxTimestamp {
    let nanoseconds = time.rem_euclid(STEPS) * 100;
    StatxTimestamp {
        tv_sec: time.div_euclid(STEPS) - EPOCH,
        tv_nsec: u32::try_from(nanoseconds).unwrap_or(0),
    }
}

/// 0 for what is to stay as it is.
fn to_nt(time: Timespec) -> i64 {
    let (seconds, nanoseconds) = match time.tv_nsec {
        UTIME_OMIT => return 0,
        UTIME_NOW => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.unwrap_or(Duration::ZERO);
            (now.as_secs().cast_signed(), i64::from(now.subsec_nanos()))
        }
        nanoseconds => (time.tv_sec, nanoseconds),
    };
    let steps = seconds.saturating_add(EPOCH).saturating_mul(STEPS);
    // What would mean something else is the first moment that there is.
    steps.saturating_add(nanoseconds / 100).max(1)
}

fn kind_by(attributes: u32) -> FileType {
    // Of whatever kind it is: nothing leads out of the store.
    if attributes & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        FileType::Symlink
    } else if attributes & FILE_ATTRIBUTE_DIRECTORY != 0 {
        FileType::Directory
    } else {
        FileType::RegularFile
    }
}

/// What a listing says that something is.
pub(super) fn listed_kind(attributes: u32) -> FileType {
    kind_by(attributes)
}

fn basic(of: BorrowedFd<'_>) -> Result<FILE_BASIC_INFORMATION> {
    // SAFETY: that is the structure of that class, of integers.
    Ok(unsafe { query(of, FileBasicInformation) }?)
}

pub(super) fn kind_of(of: impl AsFd) -> Result<FileType> {
    Ok(kind_by(basic(of.as_fd())?.FileAttributes))
}

/// The volume, if it is known for certain, and the number of a file in it.
pub(super) fn id_of(of: impl AsFd) -> Result<(Dev, u64)> {
    // SAFETY: that is the structure of that class, of integers.
    let found: std::result::Result<FILE_ID_INFO, Status> = unsafe { query(&of, FileIdInformation) };
    let id = match found {
        // FAT has numbers of 64 bits only.
        Err(status) if status.is_unknown() => {
            // SAFETY: as above.
            let id: FILE_INTERNAL_INFORMATION = unsafe { query(of, FileInternalInformation) }?;
            return Ok((0, id.IndexNumber.cast_unsigned()));
        }
        found => found?,
    };
    let [low, high] = [0, 8].map(|at| {
        let half: [u8; 8] = std::array::from_fn(|byte| id.FileId.Identifier[at + byte]);
        u64::from_le_bytes(half)
    });
    // NTFS uses 64 bits. ReFS numbers a file in its directory by the lower ones, and that by the others.
    // Under Wine they have but 32 bits, and what has lost its name has none.
    let is_certain = id.VolumeSerialNumber >> 32 != 0;
    let device = if is_certain { id.VolumeSerialNumber } else { 0 };
    Ok((device, low ^ high.rotate_left(32)))
}

fn status_of(of: BorrowedFd<'_>) -> Result<Statx> {
    let basic = basic(of)?;
    // SAFETY: that is the structure of that class, of integers and of booleans, which are 0 or 1 there.
    let standard: FILE_STANDARD_INFORMATION = unsafe { query(of, FileStandardInformation) }?;
    let (device, inode) = id_of(of)?;
    let kind = kind_by(basic.FileAttributes);
    let links = match kind {
        FileType::Directory => u32::from(!standard.DeletePending),
        _ => links_of(of, &standard),
    };
    Ok(Statx {
        stx_blksize: BLOCK,
        stx_nlink: links.saturating_sub(graves::names_of((device, inode))),
        stx_uid: 0,
        stx_gid: 0,
        stx_mode: (kind.raw_mode() | PERMISSIONS) as u16,
        stx_ino: inode,
        stx_size: if kind == FileType::Directory { 0 } else { standard.EndOfFile.cast_unsigned() },
        stx_blocks: standard.AllocationSize.cast_unsigned().div_ceil(512),
        stx_atime: from_nt(basic.LastAccessTime),
        stx_ctime: from_nt(basic.ChangeTime),
        stx_mtime: from_nt(basic.LastWriteTime),
        stx_dev_major: (device >> 32) as u32,
        stx_dev_minor: device as u32,
    })
}

/// The names that a file has, without those that were taken away while it was open.
fn links_of(of: BorrowedFd<'_>, standard: &FILE_STANDARD_INFORMATION) -> u32 {
    // SAFETY: as in `status_of`.
    let links: std::result::Result<FILE_STANDARD_LINK_INFORMATION, _> =
        unsafe { query(of, FileStandardLinkInformation) };
    links.map_or(standard.NumberOfLinks, |links| links.NumberOfAccessibleLinks)
}

fn open(directory: impl AsFd, name: impl Arg, follow: bool, access: u32) -> Result<OwnedFd> {
    let place = Place::new(directory.as_fd(), name.as_path())?;
    Ok(place.open(Way::existing(access, follow))?)
}

/// `statx(2)`.
pub fn statx(directory: impl AsFd, name: impl Arg, flags: AtFlags, _: StatxFlags) -> Result<Statx> {
    if flags.contains(AtFlags::EMPTY_PATH) && name.as_path().as_os_str().is_empty() {
        return status_of(directory.as_fd());
    }
    let follow = !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
    status_of(open(directory, name, follow, FILE_READ_ATTRIBUTES)?.as_fd())
}

/// `fstat(2)`.
pub fn fstat(of: impl AsFd) -> Result<Stat> {
    let found = status_of(of.as_fd())?;
    let st_dev = makedev(found.stx_dev_major, found.stx_dev_minor);
    Ok(Stat { st_dev, st_mode: u32::from(found.stx_mode), st_uid: found.stx_uid })
}

/// `fstatat(2)`.
pub fn statat(directory: impl AsFd, name: impl Arg, flags: AtFlags) -> Result<Stat> {
    let follow = !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
    fstat(open(directory, name, follow, FILE_READ_ATTRIBUTES)?)
}

/// `stat(2)`.
pub fn stat(path: impl Arg) -> Result<Stat> {
    statat(CWD, path, AtFlags::empty())
}

/// `futimens(3)`.
pub fn futimens(of: impl AsFd, times: &Timestamps) -> Result<()> {
    let what = FILE_BASIC_INFORMATION {
        CreationTime: 0,
        LastAccessTime: to_nt(times.last_access),
        LastWriteTime: to_nt(times.last_modification),
        ChangeTime: 0,
        FileAttributes: 0,
    };
    let length = size_of_val(&what);
    // SAFETY: that is the structure of that class, and that long.
    Ok(patiently("set the times of a file", Status::is_in_use, || unsafe {
        set(of.as_fd(), FileBasicInformation, &raw const what, length)
    })?)
}

/// `utimensat(2)`.
pub fn utimensat(
    directory: impl AsFd,
    name: impl Arg,
    times: &Timestamps,
    flags: AtFlags,
) -> Result<()> {
    if flags.contains(AtFlags::EMPTY_PATH) && name.as_path().as_os_str().is_empty() {
        return futimens(directory, times);
    }
    let follow = !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
    futimens(open(directory, name, follow, FILE_WRITE_ATTRIBUTES)?, times)
}

/// `chmod(2)`: there are no bits to change, and whoever sets them gets what there is.
pub fn chmod(_: impl Arg, _: Mode) -> Result<()> {
    Ok(())
}

/// As [`chmod`].
pub fn fchmod(_: impl AsFd, _: Mode) -> Result<()> {
    Ok(())
}

/// As [`chmod`].
pub fn chmodat(_: impl AsFd, _: impl Arg, _: Mode, _: AtFlags) -> Result<()> {
    Ok(())
}

/// `chown(2)`: nothing can be given to anybody but the one user who has it.
pub fn fchown(_: impl AsFd, owner: Option<Uid>, group: Option<Gid>) -> Result<()> {
    let stays = owner.is_none_or(|owner| owner.as_raw() == 0)
        && group.is_none_or(|group| group.as_raw() == 0);
    if stays { Ok(()) } else { Err(Errno::PERM) }
}

/// As [`fchown`].
pub fn chownat(
    directory: impl AsFd,
    _: impl Arg,
    owner: Option<Uid>,
    group: Option<Gid>,
    _: AtFlags,
) -> Result<()> {
    fchown(directory, owner, group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_there_and_back_the_same() {
        for (tv_sec, tv_nsec) in [(0, 0), (0, 999_999_900), (-1, 100), (1 << 33, 700)] {
            let found = from_nt(to_nt(Timespec { tv_sec, tv_nsec }));
            assert_eq!((found.tv_sec, i64::from(found.tv_nsec)), (tv_sec, tv_nsec));
        }
        assert_eq!(to_nt(Timespec { tv_sec: 5, tv_nsec: UTIME_OMIT }), 0);
        assert_eq!(to_nt(Timespec { tv_sec: i64::MIN, tv_nsec: 0 }), 1);
    }
}
