//! How long memory that is free again stays with the process.
#![allow(unsafe_code)]

/// What may stay free at the end of the heap under load.
#[cfg(target_env = "gnu")]
const FREE_BYTES: libc::c_int = 8 << 20;

/// Larger pieces of memory are taken from the system one by one.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 1 << 20;

/// Lets the C library keep a few megabytes of free memory while requests come: it would give the end of the heap back after
/// each large answer, and take it again, page by page, for the next. [`give_back_free_memory`] gives it back after the
/// load. Call it before other threads start.
pub fn keep_free_memory_under_load() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) changes figures of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Asks the C library for it; takes milliseconds. Python's objects and the server's buffers come from the same heap,
/// whose gaps it otherwise keeps for good. Does nothing where the C library has no such call.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
