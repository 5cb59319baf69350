//! Counts what an input makes the program hold, and ends the program where that is too much.
//!
//! libFuzzer's own `-malloc_limit_mb` needs a sanitizer's allocator underneath. This one counts what
//! Rust code asks for between the beginning and the end of an input: one large claim is seen even if its
//! memory is never touched, which `-rss_limit_mb` would not notice.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

static WATCHED: AtomicBool = AtomicBool::new(false);
static HELD: AtomicIsize = AtomicIsize::new(0);
static CAP: AtomicIsize = AtomicIsize::new(isize::MAX);

pub(crate) fn set_cap(bytes: usize) {
    CAP.store(isize::try_from(bytes).expect("far less than memory"), Relaxed);
}

/// From here on memory counts.
pub fn begin_input() {
    HELD.store(0, Relaxed);
    WATCHED.store(true, Relaxed);
}

/// Memory counts no longer: what libFuzzer does between inputs is its own affair.
pub fn end_input() {
    WATCHED.store(false, Relaxed);
}

fn count(bytes: isize) {
    if !WATCHED.load(Relaxed) {
        return;
    }
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    if bytes > 0 && held > CAP.load(Relaxed) {
        // What follows allocates itself.
        WATCHED.store(false, Relaxed);
        eprintln!("an input makes the program hold {held} bytes, {bytes} of them at once");
        std::process::abort();
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}
