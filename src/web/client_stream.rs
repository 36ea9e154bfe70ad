//! A client's connection as hyper sees it: what comes in passes `request_line`, what goes out passes `refusal`, and the
//! connection's clock hears of both. The last words of a connection that hyper knows nothing of are said here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::farewell::{LastWords, refusal};
use super::linger::Linger;
use super::refusal::Refusals;
use super::request_line::{HeadOnly, ReadableTargets};

#[derive(Debug)]
pub struct ClientStream<S> {
    inner: S,
    targets: ReadableTargets,
    refusals: Refusals,
    activity: Arc<Activity>,
    last_words: Option<LastWords>,
    linger: Linger,
}

impl<S> ClientStream<S> {
    pub fn new(inner: S, head_only: HeadOnly, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            targets: ReadableTargets::new(head_only),
            refusals: Refusals::new(activity.own_pieces().clone()),
            activity,
            last_words: None,
            linger: Linger::default(),
        }
    }
}

/// Tells the clock what comes in.
struct Heard<'a, S>(&'a mut S, &'a Activity);

impl<S: AsyncRead + Unpin> AsyncRead for Heard<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.0).poll_read(context, buffer))?;
        let fresh = &buffer.filled()[before..];
        if !fresh.is_empty() {
            self.1.received(fresh);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.is_head_refused() {
            let words = this.last_words.get_or_insert_with(|| {
                LastWords::new(refusal(StatusCode::REQUEST_TIMEOUT, "the request's head took too long", None))
            });
            ready!(words.poll(&mut this.inner, context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long")));
        }
        this.targets.poll_read(&mut Heard(&mut this.inner, &this.activity), context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = this.refusals.poll_write(&mut this.inner, context, bytes);
        if this.refusals.has_refused() {
            this.activity.linger_at_end();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.refusals.poll_rest(&mut this.inner, context))?;
        Pin::new(&mut this.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.refusals.poll_rest(&mut this.inner, context))?;
        if !this.activity.must_linger() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
            return this.linger.poll(&mut this.inner, context).map(Ok);
        }
        let words = this.last_words.get_or_insert_with(|| {
            this.activity.closes();
            LastWords::new(Vec::new())
        });
        words.poll(&mut this.inner, context).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [single] = slices {
            return self.poll_write(context, single);
        }
        let this = &mut *self;
        ready!(this.refusals.poll_rest(&mut this.inner, context))?;
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
        this.refusals.note(&written, slices.iter().map(|slice| slice.len()).sum());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
