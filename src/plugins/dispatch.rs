//! One call: enter a plugin that is in service, hand the request to Python, await the answer.
//!
//! A plugin that is retired lets nobody in; whoever is inside keeps it alive until the call has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::KeyRule;
use crate::exchange::{CallError, CallResult, PluginRequest};
use crate::metrics::PluginMetrics;
use crate::python::{CallWatch, Interpreter, PluginInstance};

/// One plugin in service.
#[derive(Debug)]
pub struct Plugin {
    instance: Arc<PluginInstance>,
    gate: Arc<Gate>,
    metrics: Arc<PluginMetrics>,
}

/// Counts who is inside, and closes.
#[derive(Debug, Default)]
struct Gate {
    inside: AtomicUsize,
    is_retired: AtomicBool,
    left: Notify,
}

/// Stands for one call from before its key is checked until Python is done with it.
#[derive(Debug)]
struct Inside(Arc<Gate>);

impl Drop for Inside {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

/// One call that Python has been given: it waits for its turn, runs, ends. Whoever counts is told.
struct Counted {
    metrics: Arc<PluginMetrics>,
    has_begun: AtomicBool,
    _inside: Inside,
}

impl Counted {
    fn new(metrics: Arc<PluginMetrics>, inside: Inside) -> Self {
        metrics.waits();
        Self { metrics, has_begun: AtomicBool::new(false), _inside: inside }
    }
}

impl CallWatch for Counted {
    fn begins(&self) {
        if !self.has_begun.swap(true, Ordering::Relaxed) {
            self.metrics.waits_no_more();
            self.metrics.begins();
        }
    }

    fn raised(&self) {
        self.metrics.failed();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.has_begun.load(Ordering::Relaxed) {
            self.metrics.ends();
        } else {
            self.metrics.waits_no_more();
        }
    }
}

/// A plugin that a request has entered: it will not be terminated before the call has ended.
#[derive(Debug)]
pub struct Entered {
    instance: Arc<PluginInstance>,
    inside: Inside,
    others_inside: usize,
    metrics: Arc<PluginMetrics>,
}

impl Plugin {
    pub fn new(instance: Arc<PluginInstance>, metrics: Arc<PluginMetrics>) -> Self {
        Self { instance, gate: Arc::default(), metrics }
    }

    pub fn id(&self) -> &str {
        self.instance.id()
    }

    pub fn path(&self) -> &std::path::Path {
        self.instance.path()
    }

    pub fn instance(&self) -> &Arc<PluginInstance> {
        &self.instance
    }

    /// What is counted of it.
    pub fn metrics(&self) -> &Arc<PluginMetrics> {
        &self.metrics
    }

    /// `None` when the plugin has been retired: the registry then has another one, or none.
    pub fn enter(&self) -> Option<Entered> {
        // First counted, then looked: `retire` does the two in the other order, so that one of them sees the other.
        let others_inside = self.gate.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(&self.gate));
        if self.gate.is_retired.load(Ordering::SeqCst) {
            return None;
        }
        let (instance, metrics) = (Arc::clone(&self.instance), Arc::clone(&self.metrics));
        Some(Entered { instance, inside, others_inside, metrics })
    }

    /// Lets nobody in any more and waits until all have left, no longer than the limit. False when some have not.
    pub async fn retire(&self, limit: Duration) -> bool {
        self.gate.is_retired.store(true, Ordering::SeqCst);
        let all_left = async {
            loop {
                let left = self.gate.left.notified();
                tokio::pin!(left);
                left.as_mut().enable();
                if self.gate.inside.load(Ordering::SeqCst) == 0 {
                    return;
                }
                left.await;
            }
        };
        tokio::time::timeout(limit, all_left).await.is_ok()
    }

    /// Whether it lets nobody in any more.
    pub fn is_retired(&self) -> bool {
        self.gate.is_retired.load(Ordering::SeqCst)
    }

    /// Calls that run or wait.
    pub fn calls_inside(&self) -> usize {
        self.gate.inside.load(Ordering::SeqCst)
    }
}

impl Entered {
    pub fn key_rule(&self) -> Arc<KeyRule> {
        self.instance.key_rule()
    }

    /// How many calls run or wait beside this one.
    pub fn others_inside(&self) -> usize {
        self.others_inside
    }

    /// Hands the request over and awaits the answer, no longer than the plugin's own limit or this one; zero is none.
    /// When nobody awaits it any more, the handler runs on all the same, within the limit, unless the plugin wants it
    /// cancelled.
    pub async fn call(self, interpreter: &Interpreter, request: Box<PluginRequest>, limit: Duration) -> CallResult {
        let Self { instance, inside, metrics, .. } = self;
        let limit = instance.timeout().unwrap_or(limit);
        let limit = (!limit.is_zero()).then_some(limit);
        let handed_over = Instant::now();
        let watch = Counted::new(Arc::clone(&metrics), inside);
        let result = interpreter.call(&instance, request, limit, Box::new(watch)).answer().await;
        metrics.took(handed_over.elapsed());
        if matches!(result, Err(CallError::TimedOut { .. })) {
            metrics.timed_out();
        }
        result
    }
}
