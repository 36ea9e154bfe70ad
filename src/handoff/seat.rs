//! The first message: a worker's task, with the descriptors that it takes over (SCM_RIGHTS, unix(7)).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::dup2_stdin;

use super::{Assignment, Inherited, Report, WORKER_VARIABLE};

/// Descriptors that one message can carry (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;

/// What comes before the listeners: standard input, flight recorder, crash report.
const FIXED_DESCRIPTORS: usize = 3;

/// A worker's place, as its supervisor made it.
#[derive(Debug)]
pub struct Seat {
    pub assignment: Assignment,
    pub listeners: Vec<Inherited>,
    /// Where this process notes what runs, for the supervisor to read when it has died.
    pub flight: OwnedFd,
    /// Where Python writes its stacks when it dies.
    pub crash_report: OwnedFd,
    /// To the supervisor.
    pub channel: UnixStream,
}

impl Seat {
    /// This process's place, when it was started as a worker. Errs when the supervisor has gone already.
    pub fn take() -> io::Result<Option<Self>> {
        let supervisor = std::env::var(WORKER_VARIABLE).ok().and_then(|text| text.parse::<i32>().ok());
        // The variable may have come from a worker through a plugin's child process: only the parent's word counts.
        let is_ours = |supervisor: &i32| getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == *supervisor);
        let Some(supervisor) = supervisor.filter(is_ours) else {
            return Ok(None);
        };
        // A supervisor that was killed leaves nobody behind who holds its addresses.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if !is_ours(&supervisor) {
            return Err(io::Error::other("the supervisor has gone"));
        }
        let mut channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let (assignment, descriptors) = receive(&mut channel)?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
        dup2_stdin(next()?)?;
        let (flight, crash_report) = (next()?, next()?);
        let listeners = assignment
            .addresses
            .iter()
            .map(|address| Ok(Inherited { configured: address.clone(), socket: next()? }))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Some(Self { assignment, listeners, flight, crash_report, channel }))
    }
}

impl Seat {
    /// Tells the supervisor something without a runtime: the last word of a worker that cannot start.
    pub fn tell_at_once(mut channel: UnixStream, report: &Report) -> io::Result<()> {
        channel.set_nonblocking(false)?;
        let text = serde_json::to_vec(report)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        channel.write_all(&length.to_be_bytes())?;
        channel.write_all(&text)
    }
}

/// Gives a worker its task: the supervisor's first message to it.
pub fn hand_over(
    channel: &mut UnixStream,
    assignment: &Assignment,
    flight: BorrowedFd<'_>,
    crash_report: BorrowedFd<'_>,
    listeners: &[BorrowedFd<'_>],
) -> io::Result<()> {
    // Standard input may be closed; a worker always has one. A terminal stops processes of the background that read it.
    let null;
    let stdin = io::stdin();
    let stdin = match rustix::io::fcntl_getfd(&stdin) {
        Ok(_) if !stdin.is_terminal() => stdin.as_fd(),
        _ => {
            null = File::open("/dev/null")?;
            null.as_fd()
        }
    };
    let mut descriptors = vec![stdin, flight, crash_report];
    descriptors.extend_from_slice(listeners);
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::Error::other(format!("more than {} addresses", MOST_DESCRIPTORS - FIXED_DESCRIPTORS)));
    }
    let text = serde_json::to_vec(assignment)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&descriptors).size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("the descriptors do not fit into a message"));
    }
    // Four bytes fit into any socket buffer: they go in one piece.
    sendmsg(&*channel, &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    channel.write_all(&text)
}

fn receive(channel: &mut UnixStream) -> io::Result<(Assignment, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&*channel, &mut [IoSliceMut::new(&mut length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes != length.len() {
        return Err(io::Error::other("the supervisor has gone"));
    }
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let mut text = vec![0; u32::from_be_bytes(length) as usize];
    channel.read_exact(&mut text)?;
    Ok((serde_json::from_slice(&text)?, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_and_its_descriptors_arrive_together() {
        let (mut supervisor, mut worker) = UnixStream::pair().expect("a pair");
        let assignment = Assignment {
            number: 3,
            addresses: Vec::new(),
            source: crate::config::Source::of_file("/x.ini".as_ref()),
            ini_text: "x".repeat(1 << 20),
            tls: None,
            files: None,
            later: Vec::new(),
            unloaded: vec!["a".to_owned()],
            quarantined: Vec::new(),
        };
        let file = tempfile::tempfile().expect("a file");
        let sent = std::thread::spawn(move || {
            hand_over(&mut supervisor, &assignment, file.as_fd(), file.as_fd(), &[file.as_fd()])
        });
        let (received, descriptors) = receive(&mut worker).expect("received");
        sent.join().expect("no panic").expect("sent");
        assert_eq!((received.number, received.ini_text.len(), descriptors.len()), (3, 1 << 20, 4));
    }
}
