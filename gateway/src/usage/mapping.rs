//! A file's bytes as shared words: what is stored here is in the kernel at once, and outlives the process however it ends.
//! The only place of this room that needs `unsafe`.

use std::fs::File;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of a whole file that nobody makes shorter while it lives: the file lies in a locked directory of our own.
pub(super) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Mapping {
    /// Gives the file room for `words` words of 64 bits and maps it, with every page present. Errors: no room on the disk, or
    /// a file system that cannot reserve any: a store into a page without room would kill the process.
    pub(super) fn create(file: &File, words: usize) -> io::Result<Mapping> {
        let bytes = words.checked_mul(size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let length = u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        fallocate(file, FallocateFlags::empty(), 0, length)?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases no Rust object. The file has `bytes` bytes, as
        // `fallocate` just made sure, and keeps them.
        #[allow(unsafe_code)]
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap(null_mut(), bytes, protection, MapFlags::SHARED | MapFlags::POPULATE, file, 0)?
        };
        let start = NonNull::new(start.cast::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, words })
    }
}

impl AsRef<[AtomicU64]> for Mapping {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: `start` begins a page, so it is aligned; `words` words are mapped until `self` is dropped; every bit
        // pattern is a valid `AtomicU64`, and all access is atomic.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.words)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this start and length, and nobody holds a reference into it any more.
        #[allow(unsafe_code)]
        // It fails for bad arguments alone; then the pages stay until the process ends.
        let _unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}

// SAFETY: the mapping is plain memory, valid in every thread, and reached through atomics alone.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}
