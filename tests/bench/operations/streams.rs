//! One large file: sequential reading and writing, and a memory map.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;

use super::{Operation, Timed};
use crate::Result;
use crate::kernel_cache::Cold;
use crate::place::Place;

const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("sequential read warm", "MiB", read).goal(1.05, 1.0),
        Operation::new("sequential read cold", "MiB", read).cold(Cold::Contents).goal(1.15, 1.0),
        Operation::new("sequential write", "MiB", write).goal(1.5, 1.05),
        Operation::new("mmap read warm", "MiB", read_mapped).goal(1.05, 1.0),
        Operation::new("mmap read cold", "MiB", read_mapped).cold(Cold::Contents).goal(1.15, 1.0),
    ]
}

/// The large file, with its size in MiB.
fn large_file(place: &Place) -> Result<(PathBuf, u64)> {
    let size = place.scale.stream;
    let directory = place.fixture("stream", |directory| {
        let mut file = File::create(directory.join("large"))?;
        let mut chunk = vec![0; CHUNK];
        for number in 0..size >> 20 {
            chunk[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&chunk)?;
        }
        Ok(file.sync_all()?)
    })?;
    Ok((directory.join("large"), size >> 20))
}

fn read(place: &Place) -> Result<Timed> {
    let (path, size) = large_file(place)?;
    let mut chunk = vec![0; CHUNK];
    Ok(Box::new(move || {
        let mut file = File::open(path)?;
        for number in 0..size {
            file.read_exact(&mut chunk)?;
            if chunk[..8] != number.to_le_bytes() {
                return Err(format!("wrong content in MiB {number}").into());
            }
        }
        Ok(size)
    }))
}

/// Without `fsync`: what is compared is the way to the page cache, not the disk.
fn write(place: &Place) -> Result<Timed> {
    let path = place.root.join("written");
    if path.exists() {
        fs::remove_file(&path)?;
    }
    rustix::fs::sync();
    let size = place.scale.stream >> 20;
    let chunk = vec![b'.'; CHUNK];
    Ok(Box::new(move || {
        let mut file = File::create(path)?;
        for _ in 0..size {
            file.write_all(&chunk)?;
        }
        Ok(size)
    }))
}

fn read_mapped(place: &Place) -> Result<Timed> {
    let (path, size) = large_file(place)?;
    Ok(Box::new(move || {
        let map = Map::of(&File::open(path)?)?;
        for (number, chunk) in (0u64..).zip(map.bytes().chunks(CHUNK)) {
            let others: u64 = chunk[PAGE..].iter().step_by(PAGE).map(|&byte| u64::from(byte)).sum();
            if chunk[..8] != number.to_le_bytes() || others != 0 {
                return Err(format!("wrong content in MiB {number}").into());
            }
        }
        Ok(size)
    }))
}

/// A file in memory, to be read.
struct Map {
    start: *mut libc::c_void,
    length: usize,
}

impl Map {
    fn of(file: &File) -> Result<Map> {
        use std::os::fd::AsRawFd;
        let length = usize::try_from(file.metadata()?.len())?;
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Map { start, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped until dropped, and nobody changes the benchmark's own file meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and `bytes` can't outlive it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
