//! Reading, writing, sizes, times and what is mapped into memory.

use std::time::{Duration, SystemTime};

use winfsp_wrs_sys::FSP_FSCTL_VOLUME_INFO;

use super::*;
use crate::winfsp::times::to_windows;

impl File<'_> {
    /// `FileBasicInformation`.
    pub(super) fn set_basic(
        &self,
        bits: u32,
        accessed: u64,
        modified: u64,
    ) -> Result<FSP_FSCTL_FILE_INFO, Status> {
        let set = self.table().SetBasicInfo.unwrap();
        // SAFETY: the context is the adapter's.
        self.told(|info| unsafe {
            set(self.fs(), self.context.get(), bits, 0, accessed, modified, 0, info)
        })
    }

    /// `FileEndOfFileInformation` and `FileAllocationInformation`.
    fn set_size(&self, size: u64, reserved: bool) -> Result<u64, Status> {
        let set = self.table().SetFileSize.unwrap();
        // SAFETY: as above.
        let told = self.told(|info| unsafe {
            set(self.fs(), self.context.get(), size, reserved.into(), info)
        })?;
        Ok(told.FileSize)
    }

    /// `FlushFileBuffers`.
    fn flush(&self) -> Result<u64, Status> {
        let flush = self.table().Flush.unwrap();
        // SAFETY: as above.
        let told = self.told(|info| unsafe { flush(self.fs(), self.context.get(), info) })?;
        Ok(told.FileSize)
    }
}

#[test]
fn data_is_read_and_written_anywhere() {
    let machine = Machine::new();
    let file = machine.create_file("\\a", READ | WRITE, CREATE_NEW, 0).unwrap();
    assert_eq!(file.read(0, 4), Err(Status::END_OF_FILE));
    assert_eq!(file.read(0, 0).unwrap(), b"");
    assert_eq!(file.write(4, b"data"), Ok(4));
    assert_eq!(file.info.get().FileSize, 8);
    assert_eq!(file.info.get().AllocationSize, 4096);
    assert_eq!(file.read(0, 100).unwrap(), b"\0\0\0\0data");
    assert_eq!(file.read(6, 1).unwrap(), b"t");
    assert_eq!(file.read(8, 1), Err(Status::END_OF_FILE));
    assert_eq!(file.write(0, b"").unwrap(), 0);
    assert_eq!(file.flush(), Ok(8));
    file.end();
    machine.end();
}

#[test]
fn who_appends_writes_at_the_end() {
    let machine = Machine::new();
    machine.write_file("\\log", "0\n");
    let log = || machine.create_file("\\log", 0x4, OPEN_ALWAYS, 0).unwrap();
    let (one, other) = (log(), log());
    for file in [&one, &other, &one] {
        file.put(u64::MAX, b"line\n", true, false).unwrap();
    }
    one.end();
    other.end();
    assert_eq!(machine.read_file("\\log").unwrap(), "0\nline\nline\nline\n");
    machine.end();
}

#[test]
fn sizes_change() {
    let machine = Machine::new();
    machine.write_file("\\a", "12345");
    let file = machine.create_file("\\a", READ | WRITE, OPEN_EXISTING, 0).unwrap();
    assert_eq!(file.set_size(3, false), Ok(3));
    assert_eq!(file.set_size(1 << 20, true), Ok(3));
    assert_eq!(file.set_size(2, true), Ok(2));
    assert_eq!(file.set_size(4, false), Ok(4));
    assert_eq!(file.read(0, 9).unwrap(), b"12\0\0");
    file.end();
    machine.end();
}

#[test]
fn times_are_kept() {
    let machine = Machine::new();
    machine.write_file("\\a", "");
    let at = |seconds| to_windows(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let file = machine.create_file("\\a", LOOK, OPEN_EXISTING, 0).unwrap();
    let now = file.info().unwrap();
    assert!(now.LastWriteTime > at(1_000_000_000));
    let info = file.set_basic(u32::MAX, at(1_000), at(2_000)).unwrap();
    assert_eq!((info.LastAccessTime, info.LastWriteTime), (at(1_000), at(2_000)));
    let info = file.set_basic(0, 0, u64::MAX).unwrap();
    assert_eq!((info.LastAccessTime, info.LastWriteTime), (at(1_000), at(2_000)));
    file.end();
    machine.end();
}

#[test]
fn mapped_pages_are_read_and_written_until_the_mapping_ends() {
    let machine = Machine::new();
    machine.write_file("\\a", "0123456789");
    let file = machine.create_file("\\a", READ | WRITE, OPEN_EXISTING, 0).unwrap();
    // The handle is closed, the view is not: whole pages come, of which the file takes what is within it.
    file.cleanup();
    let mut page = file.read(0, 4096).unwrap();
    assert_eq!(page, b"0123456789");
    page.resize(4096, 0);
    page[2] = b'x';
    assert_eq!(file.put(0, &page, false, true), Ok(10));
    assert_eq!(file.put(4096, &page, false, true), Ok(0));
    file.close();
    assert_eq!(machine.read_file("\\a").unwrap(), "01x3456789");

    // Who only writes parts of pages makes the system read what is around them; and whoever maps a program
    // may do so by a handle that reads nothing by itself.
    for access in [WRITE, LOOK] {
        let file = machine.create_file("\\a", access, OPEN_EXISTING, 0).unwrap();
        assert_eq!(file.read(0, 4096).unwrap(), b"01x3456789");
        file.end();
    }
    machine.end();
}

#[test]
fn the_volume_has_a_name_and_sizes() {
    let machine = Machine::new();
    let mut info = FSP_FSCTL_VOLUME_INFO::default();
    // SAFETY: the filesystem is there.
    done(unsafe { (machine.table().GetVolumeInfo.unwrap())(machine.fs, &mut info) }).unwrap();
    assert_eq!((info.TotalSize, info.FreeSize), (1 << 30, 1 << 28));
    let label = &info.VolumeLabel[..usize::from(info.VolumeLabelLength) / 2];
    assert_eq!(String::from_utf16(label).unwrap(), "A cache with a name that is much");

    let mut info = FSP_FSCTL_FILE_INFO::default();
    let flush = machine.table().Flush.unwrap();
    let files = ["\\a", "\\b"].map(|path| machine.create_file(path, WRITE, CREATE_NEW, 0).unwrap());
    let before = machine.volume.synced();
    // SAFETY: as above; without a context it is the volume, with all that is open there.
    done(unsafe { flush(machine.fs, ptr::null_mut(), &mut info) }).unwrap();
    assert_eq!(machine.volume.synced(), before + 2);
    files.into_iter().for_each(File::end);
    machine.end();
}

/// Not for the volume's sake: whoever tries out mounting asks for more than there is, too.
#[test]
fn what_has_no_room_in_memory_is_refused() {
    let machine = Machine::new();
    let file = machine.create_file("\\a", READ | WRITE, CREATE_NEW, 0).unwrap();
    for size in [1 << 31, 1 << 50, u64::MAX] {
        assert_eq!(file.set_size(size, false), Err(Status::DISK_FULL));
        assert_eq!(file.write(size - 1, b"x"), Err(Status::DISK_FULL));
    }
    file.end();
    machine.end();
}
