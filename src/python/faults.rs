//! Faults that are none: SIGSEGV and SIGBUS sent by `kill`. `faulthandler` and Rust's own handler wait for the faulty
//! instruction to run again and to end the process, and where there is none the process would live on. A process that is
//! sent one of these ends by it, as Python's own does.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;

use libc::{SA_ONSTACK, SA_SIGINFO, SIG_DFL, SIGBUS, SIGSEGV, siginfo_t};

/// Of `faulthandler`, as C knows it.
type Handler = extern "C" fn(c_int);

const SIGNALS: [c_int; 2] = [SIGSEGV, SIGBUS];

/// What writes the stacks, for each of the signals.
static WRITES_STACKS: OnceLock<[Option<Handler>; 2]> = OnceLock::new();

/// Ends the process by such a signal, after the stacks have been written. Call it once, when `faulthandler` is enabled.
pub(super) fn end_by_sent_faults() -> io::Result<()> {
    let before = [action_of(SIGSEGV)?, action_of(SIGBUS)?];
    let handlers = before.map(|action| {
        let is_function = !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
        // SAFETY: neither of the two numbers that are no functions; without SA_SIGINFO it takes the signal alone.
        (is_function && action.sa_flags & SA_SIGINFO == 0)
            .then(|| unsafe { std::mem::transmute::<libc::sighandler_t, Handler>(action.sa_sigaction) })
    });
    if WRITES_STACKS.set(handlers).is_err() {
        return Ok(());
    }
    for (signal, mut action) in SIGNALS.into_iter().zip(before) {
        action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as libc::sighandler_t;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        // SAFETY: the structure was filled by the system and holds a function of the form that its flags say.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn action_of(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: a system call that fills the structure, which may be all zeroes.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        match libc::sigaction(signal, std::ptr::null(), &raw mut action) {
            0 => Ok(action),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Does only what a signal handler may do.
extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    let handlers = WRITES_STACKS.get().into_iter().flatten();
    if let Some(Some(write_stacks)) = SIGNALS.iter().zip(handlers).find(|(of, _)| **of == signal).map(|(_, one)| one) {
        write_stacks(signal);
    }
    // SAFETY: the kernel gives a valid structure. Codes above zero are the kernel's own, of an instruction that will run
    // again and meet the handler that `faulthandler` has put back.
    let is_sent = unsafe { (*info).si_code } <= 0;
    if is_sent {
        // SAFETY: both may be called in a handler. The signal is held back until this handler returns, and then ends
        // the process.
        unsafe {
            libc::signal(signal, SIG_DFL);
            libc::raise(signal);
        }
    }
}
