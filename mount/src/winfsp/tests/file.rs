//! An open file, and what programs do with it.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;

use winfsp_wrs_sys::{
    FSP_FILE_SYSTEM, FSP_FILE_SYSTEM_INTERFACE, FSP_FSCTL_DIR_INFO, FSP_FSCTL_FILE_INFO,
};

use super::{Machine, OPEN_EXISTING, done, parent, wide};
use crate::winfsp::attributes::{DIRECTORY_FILE, READ_ONLY};
use crate::winfsp::security::{CREATE, SET_INFORMATION};
use crate::winfsp::status::Status;

/// A handle, and the driver's part of it.
pub(super) struct File<'a> {
    pub(super) machine: &'a Machine,
    pub(super) context: Cell<*mut c_void>,
    pub(super) name: RefCell<String>,
    pub(super) doomed: Cell<bool>,
    /// As the last callback that says so had it.
    pub(super) info: Cell<FSP_FSCTL_FILE_INFO>,
}

impl File<'_> {
    pub(super) fn fs(&self) -> *mut FSP_FILE_SYSTEM {
        self.machine.fs
    }

    pub(super) fn table(&self) -> &FSP_FILE_SYSTEM_INTERFACE {
        self.machine.table()
    }

    /// Calls back what answers with what the file is like then.
    pub(super) fn told(
        &self,
        call: impl FnOnce(*mut FSP_FSCTL_FILE_INFO) -> i32,
    ) -> Result<FSP_FSCTL_FILE_INFO, Status> {
        let mut info = FSP_FSCTL_FILE_INFO::default();
        done(call(&mut info))?;
        self.info.set(info);
        Ok(info)
    }

    pub(super) fn overwrite(&self, supersede: bool) -> Result<(), Status> {
        let overwrite = self.table().Overwrite.unwrap();
        let told = self.told(|info| {
            // SAFETY: the context is the adapter's, here and below.
            unsafe { overwrite(self.fs(), self.context.get(), 0x80, supersede.into(), 0, info) }
        });
        if told.is_err() {
            // Without a cleanup.
            self.close();
        }
        told.map(drop)
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Status> {
        let (mut buffer, mut read) = (vec![0u8; length], 0);
        let call = self.table().Read.unwrap();
        let into = buffer.as_mut_ptr().cast();
        // SAFETY: as above, and there is room for as much as is asked for.
        done(unsafe {
            call(self.fs(), self.context.get(), into, offset, length as u32, &mut read)
        })?;
        buffer.truncate(read as usize);
        Ok(buffer)
    }

    pub(super) fn content(&self) -> String {
        match self.read(0, 1 << 16) {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(Status::END_OF_FILE) => String::new(),
            Err(status) => panic!("{status:?}"),
        }
    }

    pub(super) fn put(
        &self,
        offset: u64,
        data: &[u8],
        end: bool,
        constrained: bool,
    ) -> Result<usize, Status> {
        let mut written = 0;
        let call = self.table().Write.unwrap();
        let from = data.as_ptr().cast_mut().cast();
        let length = data.len() as u32;
        let (end, constrained) = (end.into(), constrained.into());
        self.told(|info| {
            let context = self.context.get();
            let written = &mut written;
            // SAFETY: as above; data is only read.
            unsafe {
                call(self.fs(), context, from, offset, length, end, constrained, written, info)
            }
        })?;
        Ok(written as usize)
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<usize, Status> {
        self.put(offset, data, false, false)
    }

    /// Deletes it when it is closed: `FileDispositionInformation`.
    pub(super) fn set_delete(&self) -> Result<(), Status> {
        if self.info()?.FileAttributes & READ_ONLY != 0 {
            return Err(Status::CANNOT_DELETE);
        }
        let name = wide(&self.name.borrow());
        let ask = self.table().CanDelete.unwrap();
        self.machine.guarded(false, || {
            // SAFETY: as above.
            done(unsafe { ask(self.fs(), self.context.get(), name.as_ptr().cast_mut()) })
        })?;
        self.doomed.set(true);
        Ok(())
    }

    pub(super) fn info(&self) -> Result<FSP_FSCTL_FILE_INFO, Status> {
        let ask = self.table().GetFileInfo.unwrap();
        // SAFETY: as above.
        self.told(|info| unsafe { ask(self.fs(), self.context.get(), info) })
    }

    /// Renames it: `FileRenameInformation`. The system opens the directory that it goes to, which looks for what
    /// is there, and keeps it open meanwhile.
    pub(super) fn rename(&self, to: &str, replace: bool) -> Result<(), Status> {
        let machine = self.machine;
        let options = OPEN_EXISTING << 24 | DIRECTORY_FILE;
        let target = machine.guarded(false, || {
            machine.asked(CREATE, || {
                machine.look_at_parent(to)?;
                let target = machine.open_callback(parent(to), options, 0x2)?;
                machine.is_there(to);
                Ok::<_, Status>(target)
            })
        })?;
        let (name, new) = (wide(&self.name.borrow()), wide(to));
        let rename = self.table().Rename.unwrap();
        let status = machine.guarded(true, || {
            let (name, new) = (name.as_ptr().cast_mut(), new.as_ptr().cast_mut());
            if replace {
                // Only then does the request say who asks, for whether he may.
                machine.asked(SET_INFORMATION, || machine.look(to)).ok();
            }
            // SAFETY: as above.
            unsafe { rename(self.fs(), self.context.get(), name, new, replace.into()) }
        });
        target.end();
        done(status)?;
        *self.name.borrow_mut() = to.to_owned();
        Ok(())
    }

    /// Calls back for all entries of a directory, in pieces of `length` bytes.
    pub(super) fn list(
        &self,
        pattern: Option<&str>,
        length: usize,
    ) -> Vec<(String, FSP_FSCTL_FILE_INFO)> {
        let (mut found, mut marker) = (Vec::new(), None);
        loop {
            let (entries, more) = self.list_piece(pattern, marker.as_deref(), length).unwrap();
            assert!(!more || !entries.is_empty(), "no room for a single entry");
            marker = entries.last().map(|(name, _): &(String, _)| name.clone());
            found.extend(entries);
            if !more {
                return found;
            }
        }
    }

    /// One piece, and whether there may be more.
    pub(super) fn list_piece(
        &self,
        pattern: Option<&str>,
        marker: Option<&str>,
        length: usize,
    ) -> Result<(Vec<(String, FSP_FSCTL_FILE_INFO)>, bool), Status> {
        let (pattern, marker) = (pattern.map(wide), marker.map(wide));
        let (mut buffer, mut used) = (vec![0u64; length / 8], 0);
        let list = self.table().ReadDirectory.unwrap();
        let text = |text: &Option<Vec<u16>>| {
            text.as_ref().map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut())
        };
        let into = buffer.as_mut_ptr().cast();
        let context = self.context.get();
        // SAFETY: as above.
        let call = || unsafe {
            let (pattern, marker) = (text(&pattern), text(&marker));
            list(self.fs(), context, pattern, marker, into, length as u32, &mut used)
        };
        done(self.machine.guarded(false, call))?;
        let (mut found, mut at) = (Vec::new(), 0);
        while at < used as usize {
            // SAFETY: within the buffer, each entry begins with its size, and is aligned.
            let entry = unsafe { buffer.as_ptr().cast::<u8>().add(at) };
            // SAFETY: as above.
            let size = usize::from(unsafe { entry.cast::<u16>().read() });
            if size == 0 {
                return Ok((found, false));
            }
            // SAFETY: as above.
            found.push(unsafe { read_entry(entry.cast()) });
            at += size.next_multiple_of(8);
        }
        Ok((found, true))
    }

    /// Asks a directory for one name.
    pub(super) fn find(&self, name: &str) -> Result<(String, FSP_FSCTL_FILE_INFO), Status> {
        let (name, mut space) = (wide(name), [0u64; 100]);
        let find = self.table().GetDirInfoByName.unwrap();
        let into = space.as_mut_ptr().cast();
        // SAFETY: there is room for the longest name.
        unsafe {
            done(find(self.fs(), self.context.get(), name.as_ptr().cast_mut(), into))?;
            Ok(read_entry(into))
        }
    }

    /// The last handle is closed. With what is mapped, reading and writing may go on.
    pub(super) fn cleanup(&self) {
        let name = self.doomed.get().then(|| wide(&self.name.borrow()));
        let name = name.as_ref().map_or(ptr::null_mut(), |name| name.as_ptr().cast_mut());
        let cleanup = self.table().Cleanup.unwrap();
        self.machine.guarded(self.doomed.get(), || {
            // SAFETY: as above.
            unsafe { cleanup(self.fs(), self.context.get(), name, self.doomed.get().into()) }
        });
    }

    pub(super) fn close(&self) {
        let context = self.context.replace(ptr::null_mut());
        // SAFETY: as above, for the last time.
        unsafe { (self.table().Close.unwrap())(self.fs(), context) };
    }

    /// `CloseHandle`, when nothing is mapped.
    pub(super) fn end(self) {
        self.cleanup();
        self.close();
    }
}

/// Name and info of an entry.
///
/// # Safety
///
/// An entry of a listing, as long as it says.
unsafe fn read_entry(entry: *const FSP_FSCTL_DIR_INFO) -> (String, FSP_FSCTL_FILE_INFO) {
    let begin = offset_of!(FSP_FSCTL_DIR_INFO, FileNameBuf);
    // SAFETY: by the caller's word.
    unsafe {
        let length = (usize::from((*entry).Size) - begin) / 2;
        let name = entry.cast::<u8>().add(begin).cast::<u16>();
        let name = String::from_utf16(std::slice::from_raw_parts(name, length)).unwrap();
        (name, (*entry).FileInfo)
    }
}
