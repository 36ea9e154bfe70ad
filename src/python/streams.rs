//! The ends of pipes that Python holds: the body of a request as it comes, the body of a reply as it is written, and
//! both directions of a connection that a handler has taken over.
//!
//! Nothing here waits. Python asks to be called back, on the event loop's thread, when there is something to read or
//! room to write.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use pyo3::exceptions::PyConnectionResetError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::event_loop::LoopQueue;
use super::ticket::Ticket;
use crate::pipe::{PipeReader, PipeWriter};

/// Calls a Python function on the event loop's thread, once.
struct LoopWaker {
    queue: Arc<LoopQueue>,
    callback: Mutex<Option<Py<PyAny>>>,
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(callback) = callback {
            self.queue.push(move |py| {
                if let Err(error) = callback.call0(py) {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}

fn waker(queue: &Arc<LoopQueue>, callback: Py<PyAny>) -> Waker {
    Waker::from(Arc::new(LoopWaker { queue: Arc::clone(queue), callback: Mutex::new(Some(callback)) }))
}

/// Where the bytes of a [`ByteSource`] come from.
enum Source {
    Connection(PipeReader),
    Body(Arc<Ticket>),
}

/// Bytes from the client.
#[pyclass(frozen)]
pub(super) struct ByteSource {
    source: Source,
    queue: Arc<LoopQueue>,
}

impl ByteSource {
    pub(super) fn of_connection(reader: PipeReader, queue: &Arc<LoopQueue>) -> Self {
        Self { source: Source::Connection(reader), queue: Arc::clone(queue) }
    }

    /// `None` when the body of the request is not streamed.
    pub(super) fn of_body(ticket: &Arc<Ticket>, queue: &Arc<LoopQueue>) -> Option<Self> {
        ticket.request.streamed_body.as_ref()?;
        Some(Self { source: Source::Body(Arc::clone(ticket)), queue: Arc::clone(queue) })
    }

    fn reader(&self) -> Option<&PipeReader> {
        match &self.source {
            Source::Connection(reader) => Some(reader),
            Source::Body(ticket) => ticket.request.streamed_body.as_ref(),
        }
    }
}

#[pymethods]
impl ByteSource {
    /// The next bytes; `b""` at the end; `None` when there are none yet: `callback`, if there is one, is then called when
    /// it is worth asking again. ConnectionResetError when the client has left or what it sent cannot be read.
    #[pyo3(signature = (callback=None))]
    fn next<'py>(&self, py: Python<'py>, callback: Option<Py<PyAny>>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(reader) = self.reader() else {
            return Ok(Some(PyBytes::new(py, b"")));
        };
        let next = match callback {
            Some(callback) => reader.poll_next(&mut Context::from_waker(&waker(&self.queue, callback))),
            None => reader.try_next(),
        };
        match next {
            Poll::Pending => Ok(None),
            Poll::Ready(None) => Ok(Some(PyBytes::new(py, b""))),
            Poll::Ready(Some(Ok(bytes))) => Ok(Some(PyBytes::new(py, &bytes))),
            Poll::Ready(Some(Err(broken))) => Err(PyConnectionResetError::new_err(broken.0)),
        }
    }
}

/// Bytes for the client.
#[pyclass(frozen)]
pub(super) struct ByteSink {
    writer: Arc<PipeWriter>,
    queue: Arc<LoopQueue>,
}

impl ByteSink {
    pub(super) fn new(writer: Arc<PipeWriter>, queue: &Arc<LoopQueue>) -> Self {
        Self { writer, queue: Arc::clone(queue) }
    }
}

#[pymethods]
impl ByteSink {
    /// Takes bytes; False when the client has left.
    fn write(&self, data: &[u8]) -> bool {
        super::native::leave_if_forked();
        self.writer.push(Bytes::copy_from_slice(data))
    }

    /// Whether there is room for more. If not, `callback` is called when there is, or when the client has left.
    fn has_room(&self, callback: Py<PyAny>) -> bool {
        let waker = waker(&self.queue, callback);
        self.writer.poll_room(&mut Context::from_waker(&waker)).is_ready()
    }

    /// Whether more waits for the client than should.
    #[getter]
    fn is_full(&self) -> bool {
        !self.writer.has_room()
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.writer.is_abandoned()
    }

    /// An end at once: what waits for a client that does not read is forgotten.
    fn abort(&self) {
        super::native::leave_if_forked();
        self.writer.fail("cut off");
    }

    /// The regular end.
    fn finish(&self) {
        super::native::leave_if_forked();
        self.writer.finish();
    }
}
