//! The program's allocator: mimalloc, asked in the plain way wherever that suffices. The `mimalloc` crate asks for an alignment each
//! time, and every third allocation of a request then takes a larger block by a longer way. Knows nothing but layouts.
#![allow(unsafe_code)] // An allocator is unsafe by its trait; each call says why it may.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// What every block of mimalloc is aligned to, in bytes, and what those of more than 8 bytes are (its `MI_MAX_ALIGN_SIZE`).
const ALIGN_OF_ALL: usize = 8;
const ALIGN_OF_MOST: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Whether a block of this size has this alignment by itself.
fn is_aligned_anyway(size: usize, align: usize) -> bool {
    align <= ALIGN_OF_ALL || (align <= ALIGN_OF_MOST && size >= ALIGN_OF_MOST)
}

// SAFETY: mimalloc is an allocator that any thread may use; each block is at least as large and as aligned as its layout says.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size may be asked for, and an alignment of a layout is a power of two.
        unsafe { if is_aligned_anyway(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe { if is_aligned_anyway(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller has it from one of the other functions.
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: the caller has the block from one of the other functions, however that aligned it.
        unsafe {
            if is_aligned_anyway(size, align) {
                mi_realloc(block.cast(), size)
            } else {
                mi_realloc_aligned(block.cast(), size, align)
            }
        }
        .cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_aligned_as_its_layout_says_also_when_it_grows_and_shrinks() {
        let sizes = (1..600).chain([1_000, 4_096, 5_000, 70_000, 1 << 20]);
        for (size, align) in sizes.flat_map(|size| [1, 2, 4, 8, 16, 32, 64, 128, 4_096].map(|align| (size, align))) {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: each block is written within its size and freed once, with the layout that it has by then.
            unsafe {
                let block = Allocator.alloc(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                block.write_bytes(7, size);
                let block = Allocator.realloc(block, layout, size * 3);
                assert!(block.addr().is_multiple_of(align) && *block.add(size - 1) == 7, "{layout:?} grown");
                let grown = Layout::from_size_align(size * 3, align).unwrap();
                let block = Allocator.realloc(block, grown, 1);
                assert!(block.addr().is_multiple_of(align) && *block == 7, "{layout:?} shrunk");
                Allocator.dealloc(block, Layout::from_size_align(1, align).unwrap());
                let zeroed = Allocator.alloc_zeroed(layout);
                assert!(zeroed.addr().is_multiple_of(align), "{layout:?} zeroed");
                assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                Allocator.dealloc(zeroed, layout);
            }
        }
    }
}
