//! Attributes, access and dispositions as Windows has them, and what they are for a volume.

use crate::{Attributes, Kind, OpenFlags};

/// The bits of `FILE_ATTRIBUTE_*` that a volume knows.
pub(super) const READ_ONLY: u32 = 0x1;
pub(super) const DIRECTORY: u32 = 0x10;
pub(super) const NORMAL: u32 = 0x80;

/// Says that attributes stay as they are.
pub(super) const UNCHANGED: u32 = u32::MAX;

/// Bits of `FILE_*` access rights.
pub(super) const READ_DATA: u32 = 0x1;
pub(super) const WRITE_DATA: u32 = 0x2;
pub(super) const APPEND_DATA: u32 = 0x4;
pub(super) const EXECUTE: u32 = 0x20;

/// Bits of the options of `NtCreateFile`.
pub(super) const DIRECTORY_FILE: u32 = 0x1;
pub(super) const WRITE_THROUGH: u32 = 0x2;
pub(super) const NON_DIRECTORY_FILE: u32 = 0x40;

/// Bits of a mode that let somebody write.
const WRITABLE: u16 = 0o222;

/// What a file takes is a multiple of this.
pub(super) const UNIT: u64 = 4096;

/// What is to be done with a file that is there, and with one that is not: the upper byte of the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    /// `CREATE_NEW`: it must not be there.
    Create,
    /// `OPEN_EXISTING` and `OPEN_ALWAYS`: what is there stays as it is.
    Open,
    /// `CREATE_ALWAYS` and `TRUNCATE_EXISTING`: what is there is replaced.
    Replace,
}

impl Disposition {
    pub(super) fn of(options: u32) -> Disposition {
        match options >> 24 {
            1 | 3 => Disposition::Open,
            2 => Disposition::Create,
            _ => Disposition::Replace,
        }
    }
}

/// The attributes' bits.
pub(super) fn bits(of: &Attributes) -> u32 {
    match of.kind {
        Kind::Directory => DIRECTORY,
        _ if of.permissions & WRITABLE == 0 => READ_ONLY,
        _ => NORMAL,
    }
}

/// The permissions that a file with `now` gets by bits which somebody sets; none when they stay.
pub(super) fn permissions(now: &Attributes, bits: u32) -> Option<u16> {
    // Nothing at all means the same as `UNCHANGED`; directories can't be read-only on Windows.
    if bits == UNCHANGED || bits == 0 || now.kind == Kind::Directory {
        return None;
    }
    let is = now.permissions & WRITABLE == 0;
    match (is, bits & READ_ONLY != 0) {
        (false, true) => Some(now.permissions & !WRITABLE),
        // Whoever may read may write again: who could before is not known any more.
        (true, false) => Some(now.permissions | (now.permissions & 0o444) >> 1),
        _ => None,
    }
}

/// What a file that is new with those bits gets of `permissions`.
pub(super) fn new_permissions(permissions: u16, bits: u32, directory: bool) -> u16 {
    let read_only = bits != UNCHANGED && bits & READ_ONLY != 0 && !directory;
    if read_only { permissions & !WRITABLE } else { permissions }
}

/// What is wanted of the data of a file that is opened with that access and those options; empty when
/// nothing is.
pub(super) fn open_flags(access: u32, options: u32) -> OpenFlags {
    let mut flags = OpenFlags::empty();
    flags.set(OpenFlags::READ, access & (READ_DATA | EXECUTE) != 0);
    if access & (WRITE_DATA | APPEND_DATA) != 0 {
        // The system reads what is around a part of a page that is written.
        flags |= OpenFlags::WRITE | OpenFlags::READ;
        flags.set(OpenFlags::APPEND, access & WRITE_DATA == 0);
        flags.set(OpenFlags::SYNC, options & WRITE_THROUGH != 0);
    }
    flags
}

/// What `size` bytes take. The system wants it to be no less than the size, holes or not.
pub(super) fn allocated(size: u64) -> u64 {
    size.checked_next_multiple_of(UNIT).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::NodeId;

    fn file(permissions: u16) -> Attributes {
        Attributes {
            node: NodeId(2),
            kind: Kind::File,
            permissions,
            links: 1,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            device: 0,
            accessed: UNIX_EPOCH,
            modified: UNIX_EPOCH,
            changed: UNIX_EPOCH,
        }
    }

    #[test]
    fn what_nobody_may_write_is_read_only() {
        let directory = Attributes { kind: Kind::Directory, ..file(0o555) };
        assert_eq!(bits(&file(0o644)), NORMAL);
        assert_eq!(bits(&file(0o444)), READ_ONLY);
        assert_eq!(bits(&directory), DIRECTORY);

        assert_eq!(permissions(&file(0o640), READ_ONLY), Some(0o440));
        assert_eq!(permissions(&file(0o440), NORMAL), Some(0o660));
        assert_eq!(permissions(&file(0o440), READ_ONLY | 0x20), None);
        assert_eq!(permissions(&file(0o644), UNCHANGED), None);
        assert_eq!(permissions(&file(0o444), 0), None);
        assert_eq!(permissions(&directory, NORMAL), None);
        assert_eq!(new_permissions(0o666, READ_ONLY, false), 0o444);
        assert_eq!(new_permissions(0o666, NORMAL, false), 0o666);
        assert_eq!(new_permissions(0o777, READ_ONLY, true), 0o777);
    }

    #[test]
    fn access_becomes_flags() {
        const READ_ATTRIBUTES: u32 = 0x80;
        const DELETE: u32 = 0x10000;
        assert_eq!(open_flags(READ_ATTRIBUTES | DELETE, 0), OpenFlags::empty());
        assert_eq!(open_flags(EXECUTE, WRITE_THROUGH), OpenFlags::READ);
        let both = OpenFlags::READ | OpenFlags::WRITE;
        assert_eq!(open_flags(WRITE_DATA | APPEND_DATA, 0), both);
        assert_eq!(open_flags(APPEND_DATA, 0), both | OpenFlags::APPEND);
        assert_eq!(open_flags(WRITE_DATA, WRITE_THROUGH), both | OpenFlags::SYNC);
    }

    #[test]
    fn dispositions_are_those_of_nt_create_file() {
        let of = |number: u32| Disposition::of(number << 24 | NON_DIRECTORY_FILE);
        assert_eq!([0, 4, 5].map(of), [Disposition::Replace; 3]);
        assert_eq!([1, 3].map(of), [Disposition::Open; 2]);
        assert_eq!(of(2), Disposition::Create);
    }

    #[test]
    fn space_is_taken_in_units() {
        assert_eq!([0, 1, 4096, 4097, u64::MAX].map(allocated), [0, 4096, 4096, 8192, u64::MAX]);
    }
}
