//! Once a second: a sign of life for the supervisor, and whether this worker should be replaced by a fresh one.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::config::settings::Limits;
use crate::handoff::{Report, TiredBecause};
use crate::metrics;
use crate::python::Interpreter;
use crate::shutdown::Wish;
use crate::web::Site;

const INTERVAL: Duration = Duration::from_secs(1);

/// The supervisor is told what has been counted this often, in seconds: a crash then costs no more than that.
const COUNT_EVERY: u64 = 15;

/// How far below a limit a worker may already be replaced, in parts of a hundred: workers that started together must
/// not go together.
const SPREAD: u64 = 10;

/// How long no connection can be accepted for want of descriptors until the worker is given up: a plugin keeps them.
const NO_DESCRIPTORS_LIMIT: Duration = Duration::from_secs(5);

/// Watches until the process ends.
pub(super) async fn watch(site: Arc<Site>, interpreter: Interpreter, mut signals: UnboundedReceiver<Wish>) {
    let started = Instant::now();
    let share = 100 - RandomState::new().hash_one(std::process::id()) % SPREAD;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beats = 0_u64;
    let lost_threads = interpreter.many_threads_lost();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(_) = signals.recv() => {
                let words = "SIGTERM was sent to it alone".to_owned();
                site.link.report(Report::Tired { reason: TiredBecause::Signal, words });
                continue;
            }
            () = lost_threads.notified() => {
                let words = format!("{} threads are lost to handlers that do not end", interpreter.lost_threads());
                site.link.report(Report::Tired { reason: TiredBecause::LostThreads, words });
                continue;
            }
        }
        site.link.report(Report::Beat { stalled: interpreter.health().stalled_for });
        beats += 1;
        if beats.is_multiple_of(COUNT_EVERY) {
            site.link.report(Report::Counted(Box::new(site.counted())));
        }
        let limits = &site.config.get().settings.limits;
        if let Some((reason, words)) = weariness(&site, limits, started, share) {
            site.link.report(Report::Tired { reason, words });
        }
    }
}

/// Why this worker should be replaced, if it should.
fn weariness(site: &Site, limits: &Limits, started: Instant, share: u64) -> Option<(TiredBecause, String)> {
    let recycling = &limits.recycling;
    let requests = site.requests.load(Ordering::Relaxed);
    if recycling.max_requests > 0 && requests >= (recycling.max_requests * share / 100).max(1) {
        return Some((TiredBecause::Requests, format!("it has answered {requests} requests")));
    }
    let age = started.elapsed();
    if !recycling.max_age.is_zero() && age * 100 >= recycling.max_age * u32::try_from(share).unwrap_or(100) {
        return Some((TiredBecause::Age, format!("it is {} s old", age.as_secs())));
    }
    if recycling.max_memory_mb > 0 {
        let megabytes = metrics::resident_bytes().unwrap_or_default() >> 20;
        if megabytes * 100 >= recycling.max_memory_mb * share {
            return Some((TiredBecause::Memory, format!("it takes {megabytes} MiB of memory")));
        }
    }
    let failing = site.connections.accept_failing_since().map(|since| since.elapsed());
    if failing.is_some_and(|time| time >= NO_DESCRIPTORS_LIMIT) {
        return Some((TiredBecause::NoDescriptors, "it has run out of descriptors".to_owned()));
    }
    None
}
