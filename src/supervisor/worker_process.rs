//! One child: started, given its task, listened to, asked to stop, killed at the limit.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::service_manager;
use super::sockets::BoundListener;
use crate::exchange::{PluginFile, PluginFiles};
use crate::flight::{self, FlightReport};
use crate::handoff::{Assignment, MessageReader, MessageWriter, Order, Report, hand_over, parcel, split};
use crate::metrics::Snapshot;

/// How long the last reports of a dead worker are waited for: a process that it forked may hold the channel open.
const LAST_REPORTS: Duration = Duration::from_millis(200);

/// How long a child may take to read its task.
const TASK_LIMIT: Duration = Duration::from_secs(2);

/// How much of a crash report is read.
const CRASH_REPORT_BYTES: u64 = 64 << 10;

/// Names one child for as long as the supervisor lives; process numbers are used again.
pub type Key = u64;

/// How far a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It loads its plugins.
    Starting,
    /// It waits for the word to serve.
    Loaded,
    Serving,
    /// It finishes what it has in hand.
    Leaving,
}

/// What a child does, told to the supervisor's loop.
#[derive(Debug)]
pub enum WorkerEvent {
    Said(Key, Box<Report>),
    Ended(Key, io::Result<ExitStatus>),
}

/// A worker as the supervisor knows it.
#[derive(Debug)]
pub struct Worker {
    pub number: usize,
    pub pid: u32,
    /// Workers that start together and serve the same are of one generation.
    pub generation: u64,
    /// Which state of the plugins it was started with.
    pub version: u64,
    pub state: State,
    pub started: Instant,
    pub serving_since: Option<Instant>,
    /// Set when it has said that it accepts.
    pub accepts: bool,
    /// The one whose place it takes.
    pub replaces: Option<Key>,
    pub files: PluginFiles,
    /// Files that it loads when the worker before it has ended.
    pub later: bool,
    pub last_beat: Instant,
    /// While it starts: when it was last seen to load a file.
    pub idle_since: Instant,
    pub stalled: Duration,
    /// Whether its event loop has stood still for too long.
    pub has_stalled: bool,
    /// Why it will end, in its own words.
    pub cannot_start: Option<(String, bool)>,
    /// What it was last heard to have counted.
    pub counted: Snapshot,
    /// When it is killed if it has not gone by then.
    pub leave_by: Option<Instant>,
    /// Whether it was killed for a reason that has been logged.
    pub is_condemned: bool,
    orders: UnboundedSender<Order>,
    flight: OwnedFd,
    crash_report: OwnedFd,
}

/// What a new worker is to be.
pub struct Plan {
    pub generation: u64,
    pub version: u64,
    pub replaces: Option<Key>,
    pub assignment: Assignment,
}

impl Worker {
    /// Starts one. Needs a tokio runtime on the process's main thread: a worker dies with the thread that started it.
    pub fn start(
        key: Key,
        plan: Plan,
        listeners: &[Arc<BoundListener>],
        events: &UnboundedSender<WorkerEvent>,
    ) -> anyhow::Result<Self> {
        let (mut ours, theirs) = UnixStream::pair().context("cannot make a channel to a worker")?;
        let flight = flight::create().context("cannot make a flight recorder")?;
        let crash_report = memfd_create("pserve-crash", MemfdFlags::CLOEXEC).context("cannot make a crash report")?;
        let mut command = Command::from(parcel::same_program());
        // A plugin that signals its process group must not reach the supervisor; keys of a terminal reach that alone.
        command.process_group(0);
        for variable in service_manager::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().context("cannot start a worker")?;
        drop(command);
        let pid = child.id().context("a worker ended at once")?;
        // A child that does not read must not hold the supervisor.
        ours.set_write_timeout(Some(TASK_LIMIT)).context("cannot limit a channel to a worker")?;
        let sockets: Vec<_> = listeners.iter().map(|listener| listener.socket()).collect();
        // A child that dies before it has read its task is noticed as any other that dies; one that gets but half of it
        // does.
        if let Err(problem) = hand_over(&mut ours, &plan.assignment, flight.as_fd(), crash_report.as_fd(), &sockets) {
            log::debug!("worker {} has not taken its task: {problem}", plan.assignment.number);
        }
        let (reader, writer) = split(ours)?;
        let (orders, outgoing) = unbounded_channel();
        tokio::spawn(send_orders(writer, outgoing));
        tokio::spawn(watch(key, child, reader, events.clone()));
        let now = Instant::now();
        Ok(Self {
            number: plan.assignment.number,
            pid,
            generation: plan.generation,
            version: plan.version,
            state: State::Starting,
            started: now,
            serving_since: None,
            accepts: false,
            replaces: plan.replaces,
            files: Vec::new(),
            later: !plan.assignment.later.is_empty(),
            last_beat: now,
            idle_since: now,
            stalled: Duration::ZERO,
            has_stalled: false,
            cannot_start: None,
            counted: Snapshot::default(),
            leave_by: None,
            is_condemned: false,
            orders,
            flight,
            crash_report,
        })
    }

    /// Tells it to do something; one that has gone is told nothing.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Asks it to end, and to be gone within the limit.
    pub fn leave(&mut self, order: Order, limit: Duration) {
        self.state = State::Leaving;
        let by = Instant::now() + limit;
        self.leave_by = Some(self.leave_by.map_or(by, |earlier| earlier.min(by)));
        self.order(order);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.is_condemned = true;
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // It has not been waited for while it is in the supervisor's list: the number is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// What it does now, or did at its death.
    pub fn flight_report(&self) -> FlightReport {
        flight::read(&self.flight)
    }

    /// What Python has written of its stacks.
    pub fn crash_report(&self) -> String {
        let mut text = Vec::new();
        let read = rustix::fs::seek(&self.crash_report, SeekFrom::Start(0))
            .map_err(io::Error::from)
            .and_then(|_| self.crash_report.try_clone())
            .and_then(|copy| std::fs::File::from(copy).take(CRASH_REPORT_BYTES).read_to_end(&mut text));
        if let Err(problem) = read {
            log::debug!("the crash report of worker {} cannot be read: {problem}", self.number);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    pub fn file_of(&self, plugin: &str) -> Option<&PluginFile> {
        self.files.iter().find(|file| file.ids.iter().any(|id| id == plugin))
    }
}

async fn send_orders(mut writer: MessageWriter, mut outgoing: UnboundedReceiver<Order>) {
    while let Some(order) = outgoing.recv().await {
        if writer.send(&order).await.is_err() {
            return;
        }
    }
}

/// Passes on what a child says, and then how it ended.
async fn watch(key: Key, mut child: Child, mut reader: MessageReader, events: UnboundedSender<WorkerEvent>) {
    let said = events.clone();
    let mut listening = tokio::spawn(async move {
        while let Some(report) = reader.next::<Report>().await {
            let _ = said.send(WorkerEvent::Said(key, Box::new(report)));
        }
    });
    let status = child.wait().await;
    if tokio::time::timeout(LAST_REPORTS, &mut listening).await.is_err() {
        listening.abort();
    }
    let _ = events.send(WorkerEvent::Ended(key, status));
}

/// Whether somebody else may have ended it, or the kernel for want of memory: SIGKILL tells nothing of the plugins.
pub fn was_killed(status: &io::Result<ExitStatus>) -> bool {
    status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
}
