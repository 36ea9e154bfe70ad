//! How the kernel shares a core between Python's thread and those that do the HTTP.
#![allow(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ticket::lock;

/// The I/O threads of this process, by the kernel's numbers.
static IO_THREADS: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// Whether the threads of this process share their cores in turns.
static IN_TURNS: AtomicBool = AtomicBool::new(false);

/// Asks for SCHED_BATCH (sched(7)) for the calling thread and those that it starts.
///
/// A thread that is woken then does not take the core from the one that woke it. Python's thread and the I/O threads
/// wake each other all the time. Measured on one core: plain handlers 1.2 times as fast with half the p99, async ones
/// (whose requests are handed over in batches as it is) no slower. Threads with a core of their own are not touched.
pub fn share_the_core_in_turns() {
    match set_policy(0, libc::SCHED_BATCH) {
        Ok(()) => IN_TURNS.store(true, Ordering::Relaxed),
        Err(problem) => log::debug!("SCHED_BATCH is not to be had: {problem}"),
    }
}

/// An I/O thread says that it is one.
pub fn io_thread_starts() {
    lock(&IO_THREADS).push(thread_number());
}

/// The calling I/O thread is about to end.
pub fn io_thread_ends() {
    let number = thread_number();
    lock(&IO_THREADS).retain(|known| *known != number);
}

/// While a handler computes, the I/O threads take a core from it as soon as they have something to do: they would wait
/// for the end of its turn otherwise, which is milliseconds. Measured on one core beside a handler that computes: the p99
/// of `/healthz` falls from five milliseconds to less than one.
pub(super) fn let_io_threads_in(is_computing: bool) {
    static ARE_IN: AtomicBool = AtomicBool::new(false);
    if !IN_TURNS.load(Ordering::Relaxed) || ARE_IN.swap(is_computing, Ordering::Relaxed) == is_computing {
        return;
    }
    for number in &*lock(&IO_THREADS) {
        let set = if is_computing { ask_for_short_turns(*number) } else { set_policy(*number, libc::SCHED_BATCH) };
        if let Err(problem) = set {
            log::debug!("the scheduling of an I/O thread stays as it is: {problem}");
        }
    }
}

fn thread_number() -> libc::pid_t {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// SCHED_OTHER with turns of a tenth of a millisecond: since Linux 6.12 a thread with shorter turns takes the core from one
/// with longer ones as soon as it wakes up. Older kernels do not look at the length.
fn ask_for_short_turns(thread: libc::pid_t) -> std::io::Result<()> {
    /// As in sched_setattr(2), the first version of it.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_nanoseconds: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime_nanoseconds: 100_000,
        deadline: 0,
        period: 0,
    };
    // SAFETY: a system call; it reads as many bytes as the attributes say, which live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Zero is the calling thread.
fn set_policy(thread: libc::pid_t, policy: libc::c_int) -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: a system call; it reads the parameters, which live until it returns.
    let result = unsafe { libc::sched_setscheduler(thread, policy, &parameters) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
