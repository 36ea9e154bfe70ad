//! Plugin code runs in a child process, seen from outside: whatever ends it, the command says so and fails. The child has
//! the command's standard input, output and error; it tells its exit status as its last word.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context;
use rustix::stdio::dup2_stdin;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::exit_status;
use crate::flight::{self, FlightReport};
use crate::handoff::parcel;
use crate::shutdown::{self, Wish};

/// One byte for each signal that asks for the end.
const STOP: [u8; 1] = [1];

/// What the child has of its parent.
#[derive(Debug)]
pub struct Place {
    pub flight: OwnedFd,
    pub channel: UnixStream,
}

impl Place {
    /// Takes it, when this process is the child. Errs when the parent has gone already.
    pub fn take() -> io::Result<Option<Self>> {
        let Some(mut channel) = parcel::channel_to_parent()? else {
            return Ok(None);
        };
        let (_, descriptors) = parcel::receive(&mut channel)?;
        let [stdin, flight] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| io::Error::other("not the descriptors that were expected"))?;
        dup2_stdin(stdin)?;
        Ok(Some(Self { flight, channel }))
    }
}

/// Tells the parent that the process ends as it was meant to, and ends it.
pub fn leave(mut channel: &UnixStream, status: i32) -> ! {
    // A parent that has gone needs no status.
    let _ = channel.write_all(&status.to_be_bytes());
    exit_status::leave(status)
}

/// Reads what the parent asks for: each answer is one signal that asks for the end. None when the parent has gone.
pub fn next_stop(mut channel: &UnixStream) -> Option<()> {
    channel.read_exact(&mut [0; STOP.len()]).ok()
}

/// Has a child do what the command line says; the answer is the exit status.
pub fn run() -> anyhow::Result<i32> {
    let signals = shutdown::listen().context("cannot listen for signals")?;
    let (mut ours, theirs) = UnixStream::pair().context("cannot make a channel")?;
    let flight = flight::create().context("cannot make a flight recorder")?;
    let started = parcel::same_program().stdin(OwnedFd::from(theirs)).spawn();
    let mut child = started.context("cannot start a process for the plugin")?;
    let stdin = parcel::own_stdin().context("standard input cannot be handed on")?;
    // A child that has ended before it could take it is noticed below.
    let _ = parcel::send(&mut ours, &[], &[stdin.as_fd(), flight.as_fd()]);
    drop(stdin);
    pass_on(signals, ours.try_clone()?)?;
    let ended = child.wait();
    // Processes that the plugin has forked may hold the other end.
    ours.set_nonblocking(true)?;
    let mut status = [0; size_of::<i32>()];
    if ours.read_exact(&mut status).is_ok() {
        return Ok(i32::from_be_bytes(status));
    }
    exit_status::complain(&obituary(&exit_status::in_words(&ended), &flight::read(&flight)));
    Ok(exit_status::FAILURE)
}

/// Keys of a terminal reach both processes, other signals only this one: the child is told of all.
fn pass_on(mut signals: UnboundedReceiver<Wish>, mut channel: UnixStream) -> io::Result<()> {
    let pass = move || {
        while let Some(wish) = signals.blocking_recv() {
            if wish.asks_a_command_to_end() && channel.write_all(&STOP).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("pass-on".to_owned()).spawn(pass).map(drop)
}

/// How the process ended, what was going on, and who asked for it if that is known, in one line.
fn obituary(how: &str, report: &FlightReport) -> String {
    let mut text = format!("the plugin's process ended {how}");
    // The entry of a handler on a thread may outlast its answer by a moment: what began last was going on.
    if let Some(running) = report.running.iter().min_by(|one, other| one.seconds.total_cmp(&other.seconds)) {
        text.push_str(&format!(", {running}"));
    }
    if let Some(note) = &report.note {
        text.push_str(&format!("; {note}"));
    }
    text
}
