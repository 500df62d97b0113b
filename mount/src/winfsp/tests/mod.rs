//! Drives the callbacks as WinFsp's library does: through the interface table, in the order in which its requests
//! come from the driver when a program calls `CreateFile` and the like.

mod crowd;
mod data;
mod file;
mod library;
mod listing;
mod model;
mod mounting;
mod names;
mod opening;
mod security;
// The example's volume, which says `cachefs_mount` where it means this crate.
#[path = "../../../examples/memory/volume.rs"]
mod volume;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use winfsp_wrs_sys::{
    FSP_FILE_SYSTEM, FSP_FILE_SYSTEM_INTERFACE, FSP_FSCTL_FILE_INFO, FSP_FSCTL_OPEN_FILE_INFO,
};

use self::file::File;
use self::volume::Memory;
use super::attributes::{DIRECTORY, DIRECTORY_FILE, NON_DIRECTORY_FILE, READ_ONLY};
use super::security::CREATE;
use super::status::Status;
use super::{Mount, Options};

/// Rights.
const READ: u32 = 0x12_0089;
const WRITE: u32 = 0x12_0116;
const DELETE: u32 = 0x1_0000;
const LOOK: u32 = 0x80;

/// Dispositions.
const CREATE_NEW: u32 = 2;
const OPEN_EXISTING: u32 = 1;
const OPEN_ALWAYS: u32 = 3;
const TRUNCATE_EXISTING: u32 = 4;
const CREATE_ALWAYS: u32 = 5;
const SUPERSEDE: u32 = 0;

/// A process whose pid is not another's.
const PROCESS: u32 = 77;

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

fn done(status: i32) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

fn options(check_permissions: bool) -> Options {
    Options {
        label: "A cache with a name that is much too long".into(),
        check_permissions,
        attributes_valid: Duration::ZERO,
        read_only: false,
        threads: 0,
    }
}

/// A mounted volume, and the driver's part.
struct Machine {
    volume: Arc<Memory>,
    mount: Mount,
    fs: *mut FSP_FILE_SYSTEM,
    guard: RwLock<()>,
}

impl Machine {
    fn new() -> Machine {
        Machine::with(false)
    }

    fn with(check_permissions: bool) -> Machine {
        let volume = Arc::new(Memory::default());
        let options = options(check_permissions);
        let mount = Mount::with(library::library(), Path::new("X:"), volume.clone(), &options);
        let mount = mount.unwrap();
        library::told();
        Machine { volume, mount, fs: library::CREATED.get(), guard: RwLock::default() }
    }

    fn table(&self) -> &FSP_FILE_SYSTEM_INTERFACE {
        // SAFETY: the mount keeps it.
        unsafe { &*(*self.fs).Interface }
    }

    /// Does what a request of that kind is for, which says that it comes from [`PROCESS`].
    fn asked<T>(&self, kind: u32, call: impl FnOnce() -> T) -> T {
        library::REQUEST.set((kind, PROCESS));
        let answer = call();
        library::REQUEST.set((0, 0));
        answer
    }

    /// As WinFsp does: who changes names is alone, who only looks is not.
    fn guarded<T>(&self, changes: bool, call: impl FnOnce() -> T) -> T {
        let _alone = changes.then(|| self.guard.write());
        let _shared = (!changes).then(|| self.guard.read());
        call()
    }

    /// Attributes and descriptor, as access checks ask for them: again, with more room, if there was too little.
    fn look(&self, path: &str) -> Result<(u32, Vec<u8>), Status> {
        let (path, mut bits, mut descriptor) = (wide(path), 0, vec![0u8; 8]);
        loop {
            let mut size = descriptor.len() as _;
            let ask = self.table().GetSecurityByName.unwrap();
            // SAFETY: pointers to what is there, and the path ends with a NUL.
            let status = unsafe {
                let into = descriptor.as_mut_ptr().cast();
                ask(self.fs, path.as_ptr().cast_mut(), &mut bits, into, &mut size)
            };
            match done(status) {
                Err(Status::BUFFER_OVERFLOW) => descriptor = vec![0; size as usize],
                answer => return answer.map(|()| (bits, descriptor)),
            }
            assert!(!descriptor.is_empty());
        }
    }

    /// As nobody creates something, or renames to a name, without a look at the directory. Its descriptor.
    fn look_at_parent(&self, path: &str) -> Result<Vec<u8>, Status> {
        match self.look(parent(path)) {
            Ok((bits, descriptor)) if bits & DIRECTORY != 0 => Ok(descriptor),
            Ok(_) => Err(Status::NOT_A_DIRECTORY),
            Err(Status::OBJECT_NAME_NOT_FOUND) => Err(Status::OBJECT_PATH_NOT_FOUND),
            Err(status) => Err(status),
        }
    }

    /// Whether something is there, as it is asked when nothing more is wanted.
    fn is_there(&self, path: &str) -> bool {
        let (path, ask) = (wide(path), self.table().GetSecurityByName.unwrap());
        // SAFETY: as above; what is null is not wanted.
        let status = unsafe {
            ask(
                self.fs,
                path.as_ptr().cast_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        status == 0
    }

    fn open_callback(&self, path: &str, options: u32, access: u32) -> Result<File<'_>, Status> {
        self.opened(path, options, |name, context, info| {
            // SAFETY: as above.
            unsafe { (self.table().Open.unwrap())(self.fs, name, options, access, context, info) }
        })
    }

    fn create_callback(&self, path: &str, options: u32, access: u32) -> Result<File<'_>, Status> {
        let mut descriptor = self.look_at_parent(path)?;
        let descriptor = descriptor.as_mut_ptr().cast();
        let created = self.opened(path, options, |name, context, info| {
            let create = self.table().Create.unwrap();
            // SAFETY: as above.
            unsafe { create(self.fs, name, options, access, 0x80, descriptor, 0, context, info) }
        });
        match created {
            Err(Status::OBJECT_NAME_COLLISION) if options & DIRECTORY_FILE == 0 => {
                // What it collides with is looked at.
                match self.look(path) {
                    Ok((bits, _)) if bits & DIRECTORY != 0 => Err(Status::FILE_IS_A_DIRECTORY),
                    _ => Err(Status::OBJECT_NAME_COLLISION),
                }
            }
            other => other,
        }
    }

    fn opened(
        &self,
        path: &str,
        options: u32,
        call: impl FnOnce(*mut u16, *mut *mut c_void, *mut FSP_FSCTL_FILE_INFO) -> i32,
    ) -> Result<File<'_>, Status> {
        let (name, mut context, mut spelled) = (wide(path), ptr::null_mut(), vec![0u16; 8000]);
        // SAFETY: numbers and pointers may be zero.
        let mut answer: FSP_FSCTL_OPEN_FILE_INFO = unsafe { std::mem::zeroed() };
        answer.NormalizedName = spelled.as_mut_ptr();
        answer.NormalizedNameSize = size_of_val(&spelled[..]) as u16;
        done(call(name.as_ptr().cast_mut(), &mut context, (&raw mut answer).cast()))?;
        spelled.truncate(usize::from(answer.NormalizedNameSize) / 2);
        let spelled = String::from_utf16(&spelled).unwrap();
        // The driver refuses one that differs by more than case.
        assert_eq!(
            spelled.to_uppercase(),
            path.trim_end_matches('\\').to_uppercase().to_string()
                + if path == "\\" { "\\" } else { "" }
        );
        let file = File {
            machine: self,
            context: Cell::new(context),
            name: RefCell::new(spelled),
            doomed: Cell::new(options & DELETE_ON_CLOSE != 0),
            info: Cell::new(answer.FileInfo),
        };
        Ok(file)
    }

    /// `CreateFile` (and with `DIRECTORY_FILE` among the options, `CreateDirectory`), by process [`PROCESS`].
    fn create_file(
        &self,
        path: &str,
        access: u32,
        disposition: u32,
        options: u32,
    ) -> Result<File<'_>, Status> {
        let all = disposition << 24 | options;
        let opened = self.guarded(disposition != OPEN_EXISTING, || {
            self.asked(CREATE, || self.create_request(path, access, disposition, all))
        })?;
        if let (file, true) = &opened {
            self.guarded(true, || file.overwrite(disposition == SUPERSEDE))?;
        }
        Ok(opened.0)
    }

    /// What the driver asks for first, and whether it has to ask for overwriting next.
    fn create_request(
        &self,
        path: &str,
        access: u32,
        disposition: u32,
        all: u32,
    ) -> Result<(File<'_>, bool), Status> {
        let created = || Ok((self.create_callback(path, all, access)?, false));
        if disposition == CREATE_NEW {
            return created();
        }
        let found = self.look(path);
        if let Ok((bits, _)) = found
            && bits & READ_ONLY != 0
            && access & 0x6 != 0
        {
            return Err(Status::ACCESS_DENIED);
        }
        let opened = found.and_then(|_| self.open_callback(path, all, access));
        match (disposition, opened) {
            (OPEN_ALWAYS | CREATE_ALWAYS | SUPERSEDE, Err(Status::OBJECT_NAME_NOT_FOUND)) => {
                created()
            }
            (OPEN_EXISTING | OPEN_ALWAYS, opened) => Ok((opened?, false)),
            (_, opened) => Ok((opened?, true)),
        }
    }

    /// A file with that content.
    fn write_file(&self, path: &str, content: &str) {
        let file = self.create_file(path, WRITE, CREATE_ALWAYS, NON_DIRECTORY_FILE).unwrap();
        file.write(0, content.as_bytes()).unwrap();
        file.end();
    }

    fn read_file(&self, path: &str) -> Result<String, Status> {
        let file = self.create_file(path, READ, OPEN_EXISTING, NON_DIRECTORY_FILE)?;
        let content = file.content();
        file.end();
        Ok(content)
    }

    fn create_directory(&self, path: &str) -> Result<(), Status> {
        self.create_file(path, LOOK, CREATE_NEW, DIRECTORY_FILE).map(File::end)
    }

    /// `DeleteFile` and `RemoveDirectory`.
    fn delete(&self, path: &str) -> Result<(), Status> {
        let file = self.create_file(path, DELETE | LOOK, OPEN_EXISTING, OPEN_REPARSE_POINT)?;
        let doomed = file.set_delete();
        file.end();
        doomed
    }

    /// `MoveFileEx`.
    fn move_file(&self, from: &str, to: &str, replace: bool) -> Result<(), Status> {
        let file = self.create_file(from, DELETE | LOOK, OPEN_EXISTING, OPEN_REPARSE_POINT)?;
        let renamed = file.rename(to, replace);
        file.end();
        renamed
    }

    /// Nothing is left over: all that was opened was closed.
    fn end(self) {
        assert_eq!(
            self.volume.held(),
            (0, 0),
            "lookups that were not given back, and open handles"
        );
        self.mount.unmount();
    }
}

/// Options.
const OPEN_REPARSE_POINT: u32 = 0x20_0000;
const DELETE_ON_CLOSE: u32 = 0x1000;

/// The directory that a path is in.
fn parent(path: &str) -> &str {
    match path.trim_end_matches('\\').rsplit_once('\\') {
        Some(("", _)) | None => "\\",
        Some((parent, _)) => parent,
    }
}
