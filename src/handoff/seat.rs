//! The first message: a worker's task, with the descriptors that it takes over (SCM_RIGHTS, unix(7)).

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::stdio::dup2_stdin;

use super::parcel::{self, MOST_DESCRIPTORS};
use super::{Assignment, Inherited, Report};

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
        // A supervisor that was killed leaves nobody behind who holds its addresses.
        let Some(mut channel) = parcel::channel_to_parent()? else {
            return Ok(None);
        };
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
    // A terminal stops processes of the background that read it.
    let stdin = if io::stdin().is_terminal() { File::open("/dev/null")?.into() } else { parcel::own_stdin()? };
    let mut descriptors = vec![stdin.as_fd(), flight, crash_report];
    descriptors.extend_from_slice(listeners);
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::Error::other(format!("more than {} addresses", MOST_DESCRIPTORS - FIXED_DESCRIPTORS)));
    }
    parcel::send(channel, &serde_json::to_vec(assignment)?, &descriptors)
}

fn receive(channel: &mut UnixStream) -> io::Result<(Assignment, Vec<OwnedFd>)> {
    let (text, descriptors) = parcel::receive(channel)?;
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
