//! One call: enter a plugin that is in service, hand the request to Python, await the answer.
//!
//! A plugin that is retired lets nobody in; whoever is inside keeps it alive until the call has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::KeyRule;
use crate::exchange::{CallResult, PluginRequest};
use crate::python::{Interpreter, PluginInstance};

/// One plugin in service.
#[derive(Debug)]
pub struct Plugin {
    instance: Arc<PluginInstance>,
    gate: Arc<Gate>,
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

/// A plugin that a request has entered: it will not be terminated before the call has ended.
#[derive(Debug)]
pub struct Entered {
    instance: Arc<PluginInstance>,
    inside: Inside,
    others_inside: usize,
}

impl Plugin {
    pub fn new(instance: Arc<PluginInstance>) -> Self {
        Self { instance, gate: Arc::default() }
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

    /// `None` when the plugin has been retired: the registry then has another one, or none.
    pub fn enter(&self) -> Option<Entered> {
        // First counted, then looked: `retire` does the two in the other order, so that one of them sees the other.
        let others_inside = self.gate.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(&self.gate));
        if self.gate.is_retired.load(Ordering::SeqCst) {
            return None;
        }
        Some(Entered { instance: Arc::clone(&self.instance), inside, others_inside })
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
    pub async fn call(self, interpreter: &Interpreter, request: PluginRequest, limit: Duration) -> CallResult {
        let limit = self.instance.timeout().unwrap_or(limit);
        let limit = (!limit.is_zero()).then_some(limit);
        interpreter.call(&self.instance, request, limit, Box::new(self.inside)).answer().await
    }
}
