//! Bytes on their way between an HTTP connection and Python, in either direction, with a bound on what waits.
//!
//! Both ends are polled with a waker, so that a tokio task and the asyncio loop can stand at either of them. A push
//! always succeeds at once: whoever pushes then waits for room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// Bytes that may wait before the writing end is asked to wait.
const ROOM_BYTES: usize = 64 << 10;

/// Why no more bytes come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Set when the writing end has said its last.
    end: Option<Result<(), Broken>>,
    is_abandoned: bool,
    reader: Option<Waker>,
    /// Several tasks may write to one connection.
    writers: Vec<Waker>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

impl Shared {
    /// Locks even after a panic elsewhere: every state in between is valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new pipe: where bytes go in, and where they come out.
pub fn pipe() -> (PipeWriter, PipeReader) {
    let shared = Arc::new(Shared::default());
    (PipeWriter(Arc::clone(&shared)), PipeReader(shared))
}

/// The writing end. Dropped without [`PipeWriter::finish`], it leaves the reader with an error.
#[derive(Debug)]
pub struct PipeWriter(Arc<Shared>);

impl PipeWriter {
    /// Puts bytes in. False when nobody reads any more.
    pub fn push(&self, bytes: Bytes) -> bool {
        let mut state = self.0.lock();
        if state.is_abandoned || state.end.is_some() {
            return false;
        }
        if !bytes.is_empty() {
            state.waiting_bytes += bytes.len();
            state.waiting.push_back(bytes);
        }
        wake(state, take_reader);
        true
    }

    /// Ready when there is room again, or nobody reads any more (then false).
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.0.lock();
        if state.is_abandoned || state.end.is_some() {
            Poll::Ready(false)
        } else if state.waiting_bytes <= ROOM_BYTES {
            Poll::Ready(true)
        } else {
            await_as_writer(&mut state, context);
            Poll::Pending
        }
    }

    /// Ready when nobody reads any more.
    pub async fn abandoned(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            if state.is_abandoned {
                return Poll::Ready(());
            }
            await_as_writer(&mut state, context);
            Poll::Pending
        })
        .await;
    }

    /// Whether there is room now.
    pub fn has_room(&self) -> bool {
        self.0.lock().waiting_bytes <= ROOM_BYTES
    }

    /// Whether the reading end has gone.
    pub fn is_abandoned(&self) -> bool {
        self.0.lock().is_abandoned
    }

    /// The regular end.
    pub fn finish(&self) {
        self.end(Ok(()));
    }

    /// An end before its time, told to the reader after what still waits.
    pub fn fail(&self, reason: impl Into<String>) {
        self.end(Err(Broken(reason.into())));
    }

    fn end(&self, end: Result<(), Broken>) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        wake(state, take_reader);
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.fail("the other side ended without finishing");
    }
}

/// The reading end. Dropped, it tells the writer that nobody reads any more.
#[derive(Debug)]
pub struct PipeReader(Arc<Shared>);

impl PipeReader {
    /// The next bytes; `None` at the regular end.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut state = self.0.lock();
        match take(&mut state) {
            Poll::Pending => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
            ready => {
                wake(state, take_writers_if_there_is_room);
                ready
            }
        }
    }

    /// What is there now, without being told of more later; pending when that is nothing.
    pub fn try_next(&self) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut state = self.0.lock();
        let next = take(&mut state);
        wake(state, take_writers_if_there_is_room);
        next
    }

    /// Ready when the writer has ended early. For a reader that is busy with what came before.
    pub async fn broken(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            if matches!(state.end, Some(Err(_))) {
                return Poll::Ready(());
            }
            state.reader = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// As [`PipeReader::poll_next`] for a task that can wait.
    pub async fn next(&self) -> Option<Result<Bytes, Broken>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Why the writer ended early, if it did.
    pub fn failure(&self) -> Option<Broken> {
        self.0.lock().end.clone()?.err()
    }

    /// As dropping it: for ends that are shared.
    pub fn abandon(&self) {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        state.waiting.clear();
        state.waiting_bytes = 0;
        wake(state, |state| std::mem::take(&mut state.writers));
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn take(state: &mut State) -> Poll<Option<Result<Bytes, Broken>>> {
    if let Some(bytes) = state.waiting.pop_front() {
        state.waiting_bytes -= bytes.len();
        return Poll::Ready(Some(Ok(bytes)));
    }
    if state.is_abandoned {
        return Poll::Ready(Some(Err(Broken("this side has stopped reading".to_owned()))));
    }
    match &state.end {
        None => Poll::Pending,
        Some(Ok(())) => Poll::Ready(None),
        Some(Err(broken)) => Poll::Ready(Some(Err(broken.clone()))),
    }
}

/// Wakes after the lock is gone: a waker may run code that comes back here.
fn wake<W: IntoIterator<Item = Waker>>(mut state: MutexGuard<'_, State>, wakers: impl FnOnce(&mut State) -> W) {
    let wakers = wakers(&mut state);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

fn take_reader(state: &mut State) -> Option<Waker> {
    state.reader.take()
}

fn take_writers_if_there_is_room(state: &mut State) -> Vec<Waker> {
    if state.waiting_bytes <= ROOM_BYTES { std::mem::take(&mut state.writers) } else { Vec::new() }
}

fn await_as_writer(state: &mut State, context: &Context<'_>) {
    if !state.writers.iter().any(|waiting| waiting.will_wake(context.waker())) {
        state.writers.push(context.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(reader: &PipeReader) -> Poll<Option<Result<Bytes, Broken>>> {
        reader.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_waits_comes_out_before_the_end() {
        let (writer, reader) = pipe();
        assert!(poll(&reader).is_pending());
        assert!(writer.push("a".into()) && writer.push("b".into()));
        writer.fail("broken");
        assert!(!writer.push("c".into()));
        assert_eq!(poll(&reader), Poll::Ready(Some(Ok("a".into()))));
        assert_eq!(poll(&reader), Poll::Ready(Some(Ok("b".into()))));
        assert_eq!(poll(&reader), Poll::Ready(Some(Err(Broken("broken".into())))));
    }

    #[test]
    fn a_full_pipe_has_room_again_when_it_has_been_read() {
        let (writer, reader) = pipe();
        let mut context = Context::from_waker(Waker::noop());
        writer.push(vec![0; ROOM_BYTES + 1].into());
        assert!(writer.poll_room(&mut context).is_pending());
        assert!(poll(&reader).is_ready());
        assert_eq!(writer.poll_room(&mut context), Poll::Ready(true));
        drop(reader);
        assert_eq!(writer.poll_room(&mut context), Poll::Ready(false));
        assert!(writer.is_abandoned() && !writer.push("x".into()));
    }

    #[test]
    fn all_writers_that_wait_are_woken() {
        struct Counting(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Counting {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (writer, reader) = pipe();
        writer.push(vec![0; ROOM_BYTES + 1].into());
        let counters: Vec<_> = (0..3).map(|_| Arc::new(Counting(0.into()))).collect();
        for counter in &counters {
            let waker = Waker::from(Arc::clone(counter));
            assert!(writer.poll_room(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(reader.try_next().is_ready());
        assert!(counters.iter().all(|counter| counter.0.load(std::sync::atomic::Ordering::Relaxed) == 1));
        assert!(reader.try_next().is_pending());
    }

    #[test]
    fn a_writer_that_is_dropped_early_breaks_the_pipe() {
        let (writer, reader) = pipe();
        drop(writer);
        assert!(matches!(poll(&reader), Poll::Ready(Some(Err(_)))));
        let (writer, reader) = pipe();
        writer.finish();
        drop(writer);
        assert_eq!(poll(&reader), Poll::Ready(None));
    }
}
