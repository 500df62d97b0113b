//! How requests and answers lie in memory: the structs of `linux/fuse.h`, whose fields are taken and put
//! by their offsets. Nothing here trusts what it reads: what does not fit is answered `EIO`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::operations::Told;
use crate::{
    Attributes, Caller, Entry, Errno, HandleId, Kind, Listed, ListingSink, Lookup, NodeId, Result,
    SetAttributes, SetTime, Space,
};

/// The operations' numbers in `linux/fuse.h`. Those that are not here are not known here, which the kernel
/// understands.
pub(super) mod opcode {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const FLUSH: u32 = 25;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const ACCESS: u32 = 34;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
}

/// `struct fuse_uring_req_header`: the request's header, or the answer's; what is peculiar to its
/// operation; and what the ring says of it.
pub(super) const HEADER: usize = 288;

/// Where the part that is peculiar to the operation begins.
const OPERATION: usize = 128;

/// `struct fuse_uring_ent_in_out`.
const RING: usize = 256;

/// `struct fuse_in_header`.
const IN_HEADER: usize = 40;

/// `struct fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;

/// How long the struct is that comes before names and data, in bytes, where requests come in one piece
/// (`struct fuse_*_in`, as of protocol 7.31 without extensions).
fn peculiar(operation: u32) -> usize {
    match operation {
        opcode::FORGET
        | opcode::MKDIR
        | opcode::RENAME
        | opcode::LINK
        | opcode::OPEN
        | opcode::SETXATTR
        | opcode::GETXATTR
        | opcode::LISTXATTR
        | opcode::OPENDIR
        | opcode::ACCESS
        | opcode::INTERRUPT
        | opcode::BATCH_FORGET => 8,
        opcode::GETATTR
        | opcode::MKNOD
        | opcode::FSYNC
        | opcode::FSYNCDIR
        | opcode::CREATE
        | opcode::RENAME2 => 16,
        opcode::RELEASE | opcode::FLUSH | opcode::RELEASEDIR | opcode::LSEEK => 24,
        opcode::IOCTL | opcode::FALLOCATE => 32,
        opcode::READ | opcode::WRITE | opcode::READDIR | opcode::READDIRPLUS => 40,
        opcode::COPY_FILE_RANGE => 56,
        opcode::SETATTR => 88,
        _ => 0,
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    if let Some(found) = at.checked_add(N).and_then(|end| from.get(at..end)) {
        taken.copy_from_slice(found);
    }
    taken
}

fn u32_at(from: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(from, at))
}

fn u64_at(from: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes(from, at))
}

/// What the headers of a request say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    /// The node that it is about: a name's parent.
    pub(super) node: NodeId,
    pub(super) caller: Caller,
    /// What the answer is to be committed by.
    pub(super) commit: u64,
    /// How many bytes follow: names and data.
    pub(super) payload: usize,
    operation: [u8; 128],
}

impl Request {
    /// One that came over io_uring.
    pub(super) fn of_ring(header: &[u8; HEADER]) -> Request {
        Request {
            commit: u64_at(header, RING + 8),
            payload: u32_at(header, RING + 16) as usize,
            operation: bytes(header, OPERATION),
            ..Request::begun(header)
        }
    }

    /// One that came through the device, whole, and where in `message` its names and data begin; none if it
    /// is too short to be one.
    pub(super) fn of_device(message: &[u8]) -> Option<(Request, usize)> {
        let mut request = Request::begun(message.get(..IN_HEADER)?);
        let begin = IN_HEADER + peculiar(request.opcode);
        let peculiar = message.get(IN_HEADER..begin)?;
        request.operation[..peculiar.len()].copy_from_slice(peculiar);
        request.payload = message.len() - begin;
        Some((request, begin))
    }

    /// What `struct fuse_in_header` says.
    fn begun(header: &[u8]) -> Request {
        Request {
            opcode: u32_at(header, 4),
            unique: u64_at(header, 8),
            node: NodeId(u64_at(header, 16)),
            caller: Caller {
                uid: u32_at(header, 24),
                gid: u32_at(header, 28),
                thread: u32_at(header, 32),
            },
            commit: 0,
            payload: 0,
            operation: [0; 128],
        }
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32_at(&self.operation, at)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64_at(&self.operation, at)
    }

    pub(super) fn handle(&self) -> HandleId {
        HandleId(self.u64(0))
    }

    /// `struct fuse_setattr_in`.
    pub(super) fn changes(&self) -> Result<(Option<HandleId>, SetAttributes)> {
        let valid = self.u32(0);
        let has = |bit: u32| valid & (1 << bit) != 0;
        let time = |given: u32, now: u32, seconds: usize, nanoseconds: usize| {
            if has(now) {
                return Ok(Some(SetTime::Now));
            }
            let at = || time(self.u64(seconds) as i64, self.u32(nanoseconds)).map(SetTime::At);
            has(given).then(at).transpose()
        };
        let changes = SetAttributes {
            permissions: has(0).then(|| (self.u32(68) & 0o7777) as u16),
            uid: has(1).then(|| self.u32(76)),
            gid: has(2).then(|| self.u32(80)),
            size: has(3).then(|| self.u64(16)),
            accessed: time(4, 7, 32, 56)?,
            modified: time(5, 8, 40, 60)?,
        };
        Ok((has(6).then(|| HandleId(self.u64(8))), changes))
    }
}

/// A time, from what the kernel says: nanoseconds count forward, also before 1970.
fn time(seconds: i64, nanoseconds: u32) -> Result<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let rest = Duration::from_nanos(nanoseconds.into());
    at.and_then(|at| at.checked_add(rest)).ok_or(Errno::EINVAL)
}

/// The opposite of [`time`].
fn seconds_and_nanoseconds(at: SystemTime) -> (i64, u32) {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                part => (seconds.saturating_sub(1), 1_000_000_000 - part),
            }
        }
    }
}

/// The name that `payload` begins with, up to its NUL, and what follows.
pub(super) fn name(payload: &[u8]) -> Result<(&OsStr, &[u8])> {
    let end = payload.iter().position(|byte| *byte == 0).ok_or(Errno::EIO)?;
    Ok((OsStr::from_bytes(&payload[..end]), &payload[end + 1..]))
}

/// Both names that `payload` consists of.
pub(super) fn two_names(payload: &[u8]) -> Result<(&OsStr, &OsStr)> {
    let (first, rest) = name(payload)?;
    Ok((first, name(rest)?.0))
}

/// Nodes that are forgotten, and how many lookups of each: `struct fuse_forget_one`s.
pub(super) fn forgotten(payload: &[u8]) -> impl Iterator<Item = (NodeId, u64)> {
    payload.chunks_exact(16).map(|one| (NodeId(u64_at(one, 0)), u64_at(one, 8)))
}

/// `struct fuse_out_header`, for an answer of so many bytes.
pub(super) fn out_header(unique: u64, result: Result<usize>) -> [u8; OUT_HEADER] {
    let (length, error) = match result {
        Ok(length) => (u32::try_from(length).unwrap_or(u32::MAX), 0),
        Err(errno) => (0, -errno.raw()),
    };
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&length.saturating_add(16).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// The same in an entry of a ring, which says once more how long the answer is.
pub(super) fn answer(header: &mut [u8; HEADER], unique: u64, result: Result<usize>) {
    let length = result.map_or(0, |length| u32::try_from(length).unwrap_or(u32::MAX));
    header[..OUT_HEADER].copy_from_slice(&out_header(unique, result));
    header[RING + 16..RING + 20].copy_from_slice(&length.to_ne_bytes());
}

/// Puts the fields of an answer one after the other.
pub(super) struct Writer<'a> {
    into: &'a mut [u8],
    /// How far it got, or would have got with more room.
    at: usize,
}

impl Writer<'_> {
    pub(super) fn new(into: &mut [u8]) -> Writer<'_> {
        Writer { into, at: 0 }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(place) = self.into.get_mut(self.at..self.at.saturating_add(bytes.len())) {
            place.copy_from_slice(bytes);
        }
        self.at = self.at.saturating_add(bytes.len());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// How long the answer is; `EIO` if it did not fit.
    pub(super) fn done(&self) -> Result<usize> {
        if self.at <= self.into.len() { Ok(self.at) } else { Err(Errno::EIO) }
    }

    /// `struct fuse_attr`.
    fn attributes(&mut self, of: &Attributes) -> &mut Self {
        let times = [of.accessed, of.modified, of.changed].map(seconds_and_nanoseconds);
        self.u64(of.node.0).u64(of.size).u64(of.blocks);
        for (seconds, _) in times {
            self.u64(seconds as u64);
        }
        for (_, nanoseconds) in times {
            self.u32(nanoseconds);
        }
        self.u32(file_type(of.kind) | u32::from(of.permissions));
        self.u32(of.links).u32(of.uid).u32(of.gid).u32(of.device).u32(of.block_size).u32(0)
    }

    /// `struct fuse_entry_out`. No node id is used twice within a mount, so that every generation is the
    /// first.
    pub(super) fn entry(&mut self, entry: &Entry) -> &mut Self {
        let (name, attributes) = (entry.name_valid, entry.attributes_valid);
        self.u64(entry.attributes.node.0).u64(0).u64(name.as_secs()).u64(attributes.as_secs());
        self.u32(name.subsec_nanos()).u32(attributes.subsec_nanos());
        self.attributes(&entry.attributes)
    }

    pub(super) fn found(&mut self, found: &Lookup) -> &mut Self {
        match found {
            Lookup::Found(entry) => self.entry(entry),
            // Node 0: the kernel is to remember that the name stands for nothing.
            Lookup::Absent { valid } => {
                self.u64(0).u64(0).u64(valid.as_secs()).u64(0);
                self.u32(valid.subsec_nanos()).u32(0).bytes(&[0; 88])
            }
        }
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attr(&mut self, (attributes, valid): &(Attributes, Duration)) -> &mut Self {
        self.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0).attributes(attributes)
    }

    /// `struct fuse_open_out`.
    pub(super) fn opened(&mut self, told: &Told) -> &mut Self {
        let backing = told.backing.as_ref().map_or(0, |backing| backing.id());
        self.u64(told.handle.0).u32(told.flags.bits()).u32(backing)
    }

    /// `struct fuse_statfs_out`.
    pub(super) fn space(&mut self, of: &Space) -> &mut Self {
        self.u64(of.blocks).u64(of.blocks_free).u64(of.blocks_available);
        self.u64(of.files).u64(of.files_free);
        self.u32(of.block_size).u32(of.name_max).u32(of.fragment_size).bytes(&[0; 28])
    }
}

/// The type bits of `st_mode`.
fn file_type(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

/// Takes a listing: `struct fuse_dirent`, or `struct fuse_direntplus` with attributes.
pub(super) struct Sink<'a> {
    writer: Writer<'a>,
    attributes: bool,
}

impl Sink<'_> {
    /// Of as many bytes as `into` has.
    pub(super) fn new(into: &mut [u8], attributes: bool) -> Sink<'_> {
        Sink { writer: Writer::new(into), attributes }
    }

    pub(super) fn done(&self) -> Result<usize> {
        self.writer.done()
    }
}

impl ListingSink for Sink<'_> {
    fn wants_attributes(&self) -> bool {
        self.attributes
    }

    fn take(&mut self, listed: &Listed<'_>) -> bool {
        const ENTRY: usize = 128;
        const FIXED: usize = 24;
        let name = listed.name.as_bytes();
        let length = (FIXED + name.len()).next_multiple_of(8);
        let all = if self.attributes { ENTRY + length } else { length };
        let writer = &mut self.writer;
        if all > writer.into.len() - writer.at {
            return false;
        }
        if self.attributes {
            match &listed.entry {
                Some(entry) => writer.entry(entry),
                // Only `.` and `..`: the kernel makes nothing of theirs.
                None => writer.bytes(&[0; ENTRY]),
            };
        }
        writer.u64(listed.node.0).u64(listed.next).u32(name.len() as u32);
        writer.u32(file_type(listed.kind) >> 12).bytes(name);
        writer.bytes(&[0; 7][..length - FIXED - name.len()]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_forward() {
        for (seconds, nanoseconds) in
            [(0, 0), (5, 7), (-1, 500_000_000), (-3, 0), (-3, 1), (i64::MIN, 0)]
        {
            let at = time(seconds, nanoseconds).unwrap();
            assert_eq!(seconds_and_nanoseconds(at), (seconds, nanoseconds));
        }
        assert_eq!(time(-1, 500_000_000).unwrap(), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(time(i64::MAX, u32::MAX), Err(Errno::EINVAL));
    }

    #[test]
    fn names_end_with_a_nul_or_are_refused() {
        assert_eq!(name(b"ab\0rest").unwrap(), (OsStr::new("ab"), &b"rest"[..]));
        assert_eq!(name(b"ab"), Err(Errno::EIO));
        assert_eq!(name(b""), Err(Errno::EIO));
        assert_eq!(two_names(b"a\0b\0").unwrap(), (OsStr::new("a"), OsStr::new("b")));
        assert_eq!(two_names(b"a\0b"), Err(Errno::EIO));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_none() {
        let mut small = [0; 11];
        assert_eq!(Writer::new(&mut small).u64(1).done(), Ok(8));
        assert_eq!(Writer::new(&mut small).u64(1).u32(2).done(), Err(Errno::EIO));
        assert_eq!(Writer::new(&mut small).u64(1).u32(2).u32(3).done(), Err(Errno::EIO));
        let found = Lookup::Absent { valid: Duration::from_secs(1) };
        assert_eq!(Writer::new(&mut [0; 200]).found(&found).done(), Ok(128));
        let space = Space::default();
        assert_eq!(Writer::new(&mut [0; 200]).space(&space).done(), Ok(80));
    }

    #[test]
    fn a_listing_ends_where_the_room_does() {
        let mut room = [0xff; 64];
        let mut sink = Sink::new(&mut room, false);
        let listed = |name| Listed {
            name: OsStr::new(name),
            node: NodeId(7),
            kind: Kind::Directory,
            next: 3,
            entry: None,
        };
        assert!(sink.take(&listed("abc")));
        assert!(sink.take(&listed("12345678")));
        assert!(!sink.take(&listed("x")));
        assert_eq!(sink.done(), Ok(64));
        assert_eq!(room[..8], 7u64.to_ne_bytes());
        assert_eq!(room[8..16], 3u64.to_ne_bytes());
        assert_eq!(room[16..24], [3u32.to_ne_bytes(), 4u32.to_ne_bytes()].concat());
        assert_eq!(room[24..32], *b"abc\0\0\0\0\0");
        assert_eq!(room[56..], *b"12345678");
        let mut room = [0; 159];
        assert!(!Sink::new(&mut room, true).take(&listed("x")));
    }

    #[test]
    fn headers_are_as_the_kernel_has_them() {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&15u32.to_ne_bytes());
        header[8..16].copy_from_slice(&2u64.to_ne_bytes());
        header[16..24].copy_from_slice(&9u64.to_ne_bytes());
        header[264..272].copy_from_slice(&2u64.to_ne_bytes());
        header[272..276].copy_from_slice(&70u32.to_ne_bytes());
        let request = Request::of_ring(&header);
        assert_eq!((request.opcode, request.unique, request.commit), (15, 2, 2));
        assert_eq!((request.node, request.payload), (NodeId(9), 70));
        // Beyond what there is lies nothing.
        assert_eq!((request.u32(126), request.u64(usize::MAX)), (0, 0));
        answer(&mut header, 2, Ok(5));
        assert_eq!(header[..16], [&[21, 0, 0, 0, 0, 0, 0, 0][..], &2u64.to_ne_bytes()].concat());
        assert_eq!(u32_at(&header, 272), 5);
        answer(&mut header, 2, Err(Errno::ENOENT));
        assert_eq!((u32_at(&header, 0), u32_at(&header, 4) as i32), (16, -libc::ENOENT));
        assert_eq!(u32_at(&header, 272), 0);
    }
    fn message(opcode: u32, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![0; IN_HEADER];
        message[4..8].copy_from_slice(&opcode.to_ne_bytes());
        message[16..24].copy_from_slice(&9u64.to_ne_bytes());
        message[32..36].copy_from_slice(&77u32.to_ne_bytes());
        message.extend_from_slice(rest);
        message
    }

    #[test]
    fn a_message_is_its_header_its_struct_and_names() {
        let read = |opcode, rest: &[u8]| Request::of_device(&message(opcode, rest));
        let (request, begin) = read(opcode::LOOKUP, b"name\0").unwrap();
        assert_eq!((request.node, request.caller.thread), (NodeId(9), 77));
        assert_eq!((begin, request.payload), (40, 5));
        let (request, begin) = read(opcode::MKDIR, b"\xed\x01\0\0\0\0\0\0name\0").unwrap();
        assert_eq!((request.u32(0), begin, request.payload), (0o755, 48, 5));
        assert!(read(opcode::MKDIR, b"\xed\x01\0\0").is_none(), "half of its struct");
        assert!(Request::of_device(&message(opcode::LOOKUP, b"")[..39]).is_none());
    }

    #[test]
    fn many_are_forgotten_at_once() {
        let all: Vec<u8> = [5u64, 1, 6, 3].iter().flat_map(|number| number.to_ne_bytes()).collect();
        let forgotten: Vec<_> = forgotten(&all[..31]).chain(forgotten(&all)).collect();
        assert_eq!(forgotten, [(NodeId(5), 1), (NodeId(5), 1), (NodeId(6), 3)]);
    }
}
