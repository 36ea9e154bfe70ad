//! Every connection that stands open: how many there may be, whose place the next one takes, and who is left when the
//! server leaves.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::Semaphore;

use super::activity::{Activity, Tally};
use super::deadlines::Leaving;
use crate::config::settings::Limits;

/// An idle connection younger than this makes no room for another: its request may be on its way.
const LEAST_IDLE: Duration = Duration::from_millis(100);

/// Idle connections that one search notes down, the oldest first, and the pause after a search that found none.
const NOTED: usize = 256;
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// Clients without a place that are waited for at a time, until they have read so.
const MOST_TOLD: usize = 128;

/// Idle connections that are closed when descriptors have run out.
const CLOSED_FOR_DESCRIPTORS: usize = 16;

/// A failure to accept is over when none has followed for so long.
const SETTLED: Duration = Duration::from_secs(1);

/// How often the log repeats what goes on.
const REPEAT: Duration = Duration::from_secs(60);

/// What has become of connections since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Open now.
    pub open: AtomicUsize,
    pub accepted: AtomicU64,
    /// Refused since there were too many, and since their client had too many.
    pub refused_full: AtomicU64,
    pub refused_client: AtomicU64,
    /// Closed while idle, to make room.
    pub evicted: AtomicU64,
    /// Closed since the head of a request, the rest of a body, or the client's reading took too long.
    pub slow_heads: AtomicU64,
    pub slow_bodies: AtomicU64,
    pub cut_off: AtomicU64,
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("the server has too many connections")]
    Full,
    #[error("this client has too many connections")]
    ClientFull,
}

impl NoPlace {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::ClientFull => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// The connections of one process.
#[derive(Debug)]
pub struct Connections {
    pub counts: Counts,
    book: Mutex<Book>,
    tally: Arc<Tally>,
    is_retiring: AtomicBool,
    /// Who may be told that there is no place.
    pub(super) telling: Arc<Semaphore>,
    accept_failure: Mutex<AcceptFailure>,
}

#[derive(Debug, Default)]
struct Book {
    last_id: u64,
    open: HashMap<u64, Arc<Activity>>,
    of_client: HashMap<IpAddr, usize>,
    /// Idle connections of the last search, the oldest first.
    idle: VecDeque<Arc<Activity>>,
    search_again: Option<Instant>,
    retired: Option<Leaving>,
    /// When a refusal was last logged.
    logged: Option<Instant>,
}

#[derive(Debug, Default)]
struct AcceptFailure {
    /// The first and the last time, of those that belong together.
    first: Option<Instant>,
    last: Option<Instant>,
    logged: Option<Instant>,
    is_end_untold: bool,
}

impl AcceptFailure {
    /// Whether it goes on. One connection that is accepted amid failures has had the descriptor of another.
    fn goes_on(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < SETTLED)
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            book: Mutex::default(),
            tally: Arc::default(),
            is_retiring: AtomicBool::new(false),
            telling: Arc::new(Semaphore::new(MOST_TOLD)),
            accept_failure: Mutex::default(),
        }
    }
}

impl Connections {
    /// Locks even after a panic elsewhere: every state in between is valid.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new connection its place, at the cost of one that stands idle if need be. `client` is `None` where
    /// clients cannot be told apart.
    pub fn admit(self: &Arc<Self>, client: Option<IpAddr>, limits: &Limits) -> Result<Place, NoPlace> {
        let client = client.map(|client| client.to_canonical());
        let mut book = self.lock();
        let most = limits.max_connections_per_client;
        if let Some(client) = client
            && most > 0
            && book.of_client.get(&client).is_some_and(|count| *count >= most)
        {
            self.counts.refused_client.fetch_add(1, Ordering::Relaxed);
            book.log_refusal(NoPlace::ClientFull, most);
            return Err(NoPlace::ClientFull);
        }
        let standing = book.open.len().saturating_sub(self.tally.evicted.load(Ordering::Relaxed));
        if standing >= limits.max_connections && !self.evict_one(&mut book, LEAST_IDLE) {
            self.counts.refused_full.fetch_add(1, Ordering::Relaxed);
            book.log_refusal(NoPlace::Full, limits.max_connections);
            return Err(NoPlace::Full);
        }
        let activity = Arc::new(Activity::new(limits, Arc::clone(&self.tally)));
        if let Some(leaving) = book.retired {
            activity.retire(leaving);
        }
        book.last_id += 1;
        let id = book.last_id;
        book.open.insert(id, Arc::clone(&activity));
        if let Some(client) = client {
            *book.of_client.entry(client).or_default() += 1;
        }
        self.counts.open.store(book.open.len(), Ordering::Relaxed);
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Place { connections: Arc::clone(self), id, client, activity })
    }

    /// Asks the connection that has stood idle longest to go. False when none stands idle.
    fn evict_one(&self, book: &mut Book, least: Duration) -> bool {
        loop {
            while let Some(activity) = book.idle.pop_front() {
                let is_old = activity.idle_since().is_some_and(|since| since.elapsed() >= least);
                if is_old && activity.evict() {
                    self.counts.evicted.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            }
            if !book.search_idle(least) {
                return false;
            }
        }
    }

    /// The server leaves: every connection is told, and those that still come are.
    pub fn retire(&self, leaving: Leaving) {
        self.is_retiring.store(true, Ordering::SeqCst);
        let mut book = self.lock();
        book.retired = Some(leaving);
        book.open.values().for_each(|activity| activity.retire(leaving));
    }

    /// Whether replies shall be the last of their connections.
    pub fn is_retiring(&self) -> bool {
        self.is_retiring.load(Ordering::Relaxed)
    }

    /// Waits until no connection is left but those that handlers have taken over.
    pub async fn all_left(&self) {
        loop {
            let left = self.tally.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            let open = self.lock().open.len();
            if open <= self.tally.taken_over.load(Ordering::SeqCst) {
                return;
            }
            left.await;
        }
    }

    /// Since when no connection could be accepted for want of descriptors or memory, without a break.
    pub fn accept_failing_since(&self) -> Option<Instant> {
        let failure = self.accept_failure();
        failure.first.filter(|_| failure.goes_on())
    }

    fn accept_failure(&self) -> MutexGuard<'_, AcceptFailure> {
        self.accept_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection could not be accepted: idle ones give their descriptors.
    pub fn accept_failed(&self, problem: &io::Error) {
        let mut book = self.lock();
        let closed = (0..CLOSED_FOR_DESCRIPTORS).take_while(|_| self.evict_one(&mut book, Duration::ZERO)).count();
        drop(book);
        let mut failure = self.accept_failure();
        let now = Instant::now();
        if !failure.goes_on() {
            failure.first = Some(now);
        }
        failure.last = Some(now);
        if may_repeat(&mut failure.logged) {
            failure.is_end_untold = true;
            log::error!("cannot accept connections for the moment: {problem}; closing idle ones ({closed} now)");
        }
    }

    /// A connection was accepted.
    pub fn accept_worked(&self) {
        let mut failure = self.accept_failure();
        if failure.is_end_untold && !failure.goes_on() {
            failure.is_end_untold = false;
            log::warn!("connections are accepted again");
        }
    }
}

impl Book {
    /// Notes down who stands idle, the oldest first. False when nobody does.
    fn search_idle(&mut self, least: Duration) -> bool {
        let now = Instant::now();
        // Under a flood of connections a search for each would cost more than they do.
        if !least.is_zero() && self.search_again.is_some_and(|again| now < again) {
            return false;
        }
        let mut found: Vec<_> = self
            .open
            .values()
            .filter_map(|activity| activity.idle_since().map(|since| (since, activity)))
            .filter(|(since, _)| since.elapsed() >= least)
            .collect();
        if found.is_empty() {
            self.search_again = Some(now + SEARCH_PAUSE);
            return false;
        }
        found.sort_unstable_by_key(|(since, _)| *since);
        self.idle = found.into_iter().take(NOTED).map(|(_, activity)| Arc::clone(activity)).collect();
        true
    }

    fn log_refusal(&mut self, reason: NoPlace, limit: usize) {
        if may_repeat(&mut self.logged) {
            log::warn!("connections are refused: {reason} (limit {limit})");
        }
    }
}

/// Whether a line may be logged again, and notes that it is.
fn may_repeat(logged: &mut Option<Instant>) -> bool {
    let may = logged.is_none_or(|at| at.elapsed() >= REPEAT);
    if may {
        *logged = Some(Instant::now());
    }
    may
}

/// The place of one connection; dropped, it is free again.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    id: u64,
    client: Option<IpAddr>,
    activity: Arc<Activity>,
}

impl Place {
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The search for idle ones may have noted it down.
        self.activity.closes();
        let mut book = self.connections.lock();
        book.open.remove(&self.id);
        self.connections.counts.open.store(book.open.len(), Ordering::Relaxed);
        if let Some(client) = self.client
            && let Some(count) = book.of_client.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                book.of_client.remove(&client);
            }
        }
        drop(book);
        if self.connections.is_retiring() {
            self.connections.tally.left.notify_waiters();
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::{Settings, Table};

    /// The limits of an INI file that names none.
    pub fn limits() -> Limits {
        let path = std::path::Path::new("/tmp/test.ini");
        let table = Table::parse_with("[paths]\nplugins=/tmp\n", path, &|_| None).expect("an INI file");
        Settings::from_table(&table, path).expect("settings").limits
    }

    #[test]
    fn a_full_house_takes_one_more_only_for_an_idle_one() {
        let connections = Arc::new(Connections::default());
        let limits = Limits { max_connections: 2, ..limits() };
        let first = connections.admit(None, &limits).expect("room");
        let _second = connections.admit(None, &limits).expect("room");
        // Both are too young to be idle.
        assert_eq!(connections.admit(None, &limits).expect_err("full"), NoPlace::Full);
        std::thread::sleep(LEAST_IDLE + SEARCH_PAUSE);
        let _third = connections.admit(None, &limits).expect("the first makes room");
        assert!(first.activity().idle_since().is_none());
        drop(first);
        assert_eq!(connections.counts.open.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn clients_are_counted_by_their_address() {
        let connections = Arc::new(Connections::default());
        let limits = Limits { max_connections_per_client: 1, ..limits() };
        let client = Some(IpAddr::from([192, 0, 2, 1]));
        let place = connections.admit(client, &limits).expect("room");
        assert_eq!(connections.admit(client, &limits).expect_err("one is there"), NoPlace::ClientFull);
        assert!(connections.admit(Some(IpAddr::from([192, 0, 2, 2])), &limits).is_ok());
        drop(place);
        assert!(connections.admit(client, &limits).is_ok());
    }
}
