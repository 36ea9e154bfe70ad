//! Gathers what goes on while somebody looks, and sends it to all who look at this worker. Once a second, and not at all
//! when nobody does, it asks the supervisor for the news of every worker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::Site;
use super::events;
use crate::config::Secret;
use crate::handoff::{Overview, Report};
use crate::pipe::{PipeReader, PipeWriter, pipe};
use crate::recent::{LogLine, SeenRequest, Since};

/// How often there is news, and how often it is looked whether the worker leaves.
const INTERVAL: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);

/// Pages that may be open at this worker.
const MOST_WATCHERS: usize = 32;

/// What a page that is opened later is given of the time before: requests and lines. The points of its plots are with the
/// supervisor: another worker may have told of them.
const REQUESTS: usize = 100;
const LINES: usize = 300;

/// Goes on for so long after the last page was closed: one that is loaded again finds its plots as they were.
const AFTERGLOW: Duration = Duration::from_secs(60);

/// Who watches this worker.
#[derive(Debug, Default)]
pub(super) struct Feed(Mutex<Watchers>);

#[derive(Debug, Default)]
struct Watchers {
    open: Vec<Watcher>,
    /// Whether the task is there that writes to them.
    is_fed: bool,
}

#[derive(Debug)]
struct Watcher {
    pipe: PipeWriter,
    /// Whether it has everything up to now. One that has not read for a while starts afresh.
    is_up_to_date: bool,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Watchers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more watch. `None` when there are too many.
    pub(super) fn join(&self, site: &Arc<Site>) -> Option<PipeReader> {
        let mut watchers = self.lock();
        watchers.open.retain(|watcher| !watcher.pipe.is_abandoned());
        if watchers.open.len() >= MOST_WATCHERS {
            return None;
        }
        let (pipe, reader) = pipe();
        watchers.open.push(Watcher { pipe, is_up_to_date: false });
        if !watchers.is_fed {
            watchers.is_fed = true;
            tokio::spawn(feed(Arc::clone(site)));
        }
        Some(reader)
    }

    fn is_watched(&self) -> bool {
        let mut watchers = self.lock();
        watchers.open.retain(|watcher| !watcher.pipe.is_abandoned());
        !watchers.open.is_empty()
    }

    /// Ends the answers of all who watch; their pages ask again.
    fn close(&self) {
        let mut watchers = self.lock();
        watchers.open.drain(..).for_each(|watcher| watcher.pipe.finish());
        watchers.is_fed = false;
    }

    fn has_newcomer(&self) -> bool {
        self.lock().open.iter().any(|watcher| !watcher.is_up_to_date && watcher.pipe.has_room())
    }
}

/// Feeds all watchers until the last has gone, the worker leaves, or what they were let in by is in force no more.
async fn feed(site: Arc<Site>) {
    let key = site.config.get().settings.global_key.clone();
    let mut memory = Memory::default();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = Instant::now();
    let mut last_seen = Instant::now();
    loop {
        ticks.tick().await;
        let settings = &site.config.get().settings;
        let is_over = site.connections.is_retiring() || !settings.server.page || !is_same(&key, &settings.global_key);
        if site.page.feed.is_watched() {
            last_seen = Instant::now();
        }
        if is_over || last_seen.elapsed() > AFTERGLOW {
            return site.page.feed.close();
        }
        if due > Instant::now() && !site.page.feed.has_newcomer() {
            continue;
        }
        due = Instant::now() + INTERVAL;
        match site.link.news(memory.since.clone()).await {
            Some(overview) => {
                let fresh = memory.take_in(&site, overview).await;
                send(&site, &memory, &fresh).await;
            }
            // The connection shows that this worker is alive; that nothing comes shows the rest.
            None => send(&site, &memory, &Bytes::from_static(b": the supervisor does not answer\n\n")).await,
        }
    }
}

fn is_same(one: &Option<Secret>, other: &Option<Secret>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.matches(other.reveal().as_bytes()),
        _ => false,
    }
}

/// Gives everybody what is new, and newcomers what was before as well.
async fn send(site: &Site, memory: &Memory, fresh: &Bytes) {
    let everything = if site.page.feed.has_newcomer() { Some(memory.everything(site).await) } else { None };
    for watcher in site.page.feed.lock().open.iter_mut() {
        if !watcher.pipe.has_room() {
            watcher.is_up_to_date = false;
        } else if watcher.is_up_to_date {
            watcher.pipe.push(fresh.clone());
        } else if let Some(text) = &everything {
            watcher.is_up_to_date = watcher.pipe.push(text.clone());
        }
    }
}

/// What is known of the last minutes.
#[derive(Debug, Default)]
struct Memory {
    since: BTreeMap<u32, Since>,
    requests: VecDeque<SeenRequest>,
    log: VecDeque<LogLine>,
    /// The event about the plugin files, as it was last sent.
    plugins: String,
}

impl Memory {
    /// Takes news in; the answer is the events that they are.
    async fn take_in(&mut self, site: &Site, mut overview: Overview) -> Bytes {
        let (mut requests, mut log) = (Vec::new(), Vec::new());
        let mut since = BTreeMap::new();
        let own = overview.news.take().map(|news| (std::os::unix::process::parent_id(), news));
        let of_workers = overview.workers.iter_mut().filter_map(|worker| Some((worker.pid, worker.news.take()?)));
        let mut answered = Vec::new();
        for (pid, mut news) in of_workers.chain(own) {
            answered.push(pid);
            since.insert(pid, news.next);
            requests.append(&mut news.requests);
            log.append(&mut news.log);
        }
        // One that did not answer this time may the next.
        for worker in overview.workers.iter().filter(|worker| !answered.contains(&worker.pid)) {
            if let Some(known) = self.since.get(&worker.pid) {
                since.insert(worker.pid, *known);
            }
        }
        self.since = since;
        requests.sort_by(|one, other| one.time.total_cmp(&other.time));
        log.sort_by(|one, other| one.time.total_cmp(&other.time));
        let mut fresh = String::new();
        let plugins = events::plugins(site, &overview).await;
        if plugins != self.plugins {
            fresh.push_str(&plugins);
            self.plugins = plugins;
        }
        if !requests.is_empty() {
            fresh.push_str(&events::requests(&requests, false));
            keep(&mut self.requests, requests, REQUESTS);
        }
        if !log.is_empty() {
            fresh.push_str(&events::log(&log, false));
            keep(&mut self.log, log, LINES);
        }
        let pulse = events::pulse(&overview, &answered);
        fresh.push_str(&pulse);
        site.link.report(Report::Pulse(pulse));
        Bytes::from(fresh)
    }

    /// All that a page needs that is opened now.
    async fn everything(&self, site: &Site) -> Bytes {
        let mut text = events::hello(site);
        text.push_str(&self.plugins);
        text.push_str(&events::requests(&Vec::from_iter(&self.requests), true));
        text.push_str(&events::log(&Vec::from_iter(&self.log), true));
        text.push_str(&site.link.pulses().await);
        Bytes::from(text)
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: Vec<T>, most: usize) {
    kept.extend(new);
    let surplus = kept.len().saturating_sub(most);
    kept.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let mut kept = VecDeque::from([1, 2]);
        keep(&mut kept, vec![3, 4], 3);
        assert_eq!(kept, [2, 3, 4]);
        keep(&mut kept, vec![5, 6, 7, 8], 3);
        assert_eq!(kept, [6, 7, 8]);
    }

    #[test]
    fn another_key_is_another_door() {
        let key = |text: &str| Secret::new(text.to_owned());
        assert!(is_same(&None, &None) && is_same(&key("a"), &key("a")));
        assert!(!is_same(&key("a"), &key("b")) && !is_same(&None, &key("a")) && !is_same(&key("a"), &None));
    }
}
