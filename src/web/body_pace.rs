//! How slowly the body of a request may come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep};

/// What a body that came too slowly is known by, also where only the words of an error arrive.
pub const TOO_SLOW: &str = "the body has come too slowly";

/// A body must bring at least one KiB in a second, once its start has been granted.
const LEAST_BYTES_PER_SECOND: u64 = 1 << 10;

/// Whether a body is read whole or handed on as it comes.
#[derive(Debug, Clone, Default)]
pub struct HandedOn(Arc<AtomicBool>);

impl HandedOn {
    /// From now on only the pause between two pieces counts.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A body that ends with an error when it comes too slowly. Only the time in which somebody waits for it counts, once it
/// is handed on: a plugin may take its time.
pub struct Paced<S> {
    body: S,
    limit: Duration,
    handed_on: HandedOn,
    started: Instant,
    came_bytes: u64,
    /// Set while somebody waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// A limit of zero is none.
    pub fn new(body: S, limit: Duration, handed_on: HandedOn) -> Self {
        Self { body, limit, handed_on, started: Instant::now(), came_bytes: 0, timer: None }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.limit.is_zero() {
            return None;
        }
        if self.handed_on.0.load(Ordering::Relaxed) {
            return Instant::now().checked_add(self.limit);
        }
        let earned = Duration::from_secs(self.came_bytes / LEAST_BYTES_PER_SECOND);
        self.started.checked_add(self.limit)?.checked_add(earned)
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Paced<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(next) = Pin::new(&mut this.body).poll_next(context) {
            this.timer = None;
            if let Some(Ok(bytes)) = &next {
                this.came_bytes += bytes.len() as u64;
            }
            return Poll::Ready(next);
        }
        if this.timer.is_none() {
            this.timer = this.deadline().map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        }
        let is_over = this.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready());
        if is_over { Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW)))) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn a_body_that_stands_still_ends_with_an_error() {
        for is_handed_on in [false, true] {
            let handed_on = HandedOn::default();
            if is_handed_on {
                handed_on.set();
            }
            let body = stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending());
            let mut paced = Paced::new(body, Duration::from_millis(20), handed_on);
            assert!(paced.next().await.is_some_and(|piece| piece.is_ok()));
            let problem = paced.next().await.and_then(Result::err).map(|problem| problem.to_string());
            assert_eq!(problem.as_deref(), Some(TOO_SLOW));
        }
    }

    #[tokio::test]
    async fn what_has_come_earns_time() {
        let piece = Bytes::from(vec![0; 4 << 10]);
        let body = stream::iter([Ok(piece)]).chain(stream::pending());
        let mut paced = Paced::new(body, Duration::from_millis(20), HandedOn::default());
        let started = paced.started;
        assert!(paced.next().await.is_some());
        assert_eq!(paced.deadline(), started.checked_add(Duration::from_millis(4020)));
    }
}
