//! Gives memory that a load has left free back to the system.
#![allow(unsafe_code)]

/// Asks the C library for it; takes milliseconds. Python's objects and the server's buffers come from the same heap,
/// whose gaps it otherwise keeps for good. Does nothing where the C library has no such call.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
