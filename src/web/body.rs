//! The body of a response on its way out: whole, written by a handler as it goes on, or compressed while it is sent.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};

use super::activity::InFlight;
use crate::exchange::ReplyBody;
use crate::pipe::PipeReader;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A reply's body that warp's own type cannot carry, put aside in the response's extensions.
#[derive(Debug, Clone)]
pub struct SetAside(Arc<Mutex<Option<ReplyBody>>>);

impl SetAside {
    pub fn new(body: ReplyBody) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// The body that was put aside with a response.
    pub fn take_from<B>(response: &mut http::Response<B>) -> Option<ReplyBody> {
        let aside = response.extensions_mut().remove::<Self>()?;
        aside.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What hyper sends.
pub enum Outgoing<B> {
    Whole(B),
    Flowing(FlowingBody),
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outgoing<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Flowing(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Flowing(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Flowing(body) => body.remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// The largest piece that a connection is given at a time. What hyper cannot send at once it may copy, and with TLS it
/// does: a client that does not read must not make a copy of the whole answer.
pub const PIECE_BYTES: usize = 128 << 10;

/// An answer's body on its way to the connection, in pieces of bounded size.
pub struct Handed<B> {
    body: Outgoing<B>,
    /// The rest of a frame that was too large.
    rest: Bytes,
    in_flight: InFlight,
}

impl<B> Handed<B> {
    pub fn new(body: Outgoing<B>, in_flight: InFlight) -> Self {
        Self { body, rest: Bytes::new(), in_flight }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Handed<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        this.in_flight.asked();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => this.rest = bytes,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(problem)) => return Poll::Ready(Some(Err(problem))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        this.in_flight.handed();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

enum Source {
    /// What a handler writes.
    Handler(PipeReader),
    /// What a compressor makes.
    Compressor(ByteStream),
}

type EndCallback = Box<dyn FnOnce(u64) + Send>;

/// A body that is made while it is sent.
pub struct FlowingBody {
    source: Source,
    /// What is still to come, when it was announced.
    remaining: Option<u64>,
    sent_bytes: u64,
    /// Why it ends early, held back once.
    failure: Option<BoxError>,
    /// Told how many bytes have gone, when it is over.
    at_end: Option<EndCallback>,
}

impl fmt::Debug for FlowingBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FlowingBody").field("sent_bytes", &self.sent_bytes).finish_non_exhaustive()
    }
}

impl FlowingBody {
    pub fn of_handler(bytes: PipeReader, length: Option<u64>) -> Self {
        Self::new(Source::Handler(bytes), length)
    }

    pub fn of_compressor(stream: ByteStream) -> Self {
        Self::new(Source::Compressor(stream), None)
    }

    fn new(source: Source, length: Option<u64>) -> Self {
        Self { source, remaining: length, sent_bytes: 0, failure: None, at_end: None }
    }

    /// Has a callback told when it is over, beside those that are told already.
    pub fn at_end(&mut self, callback: impl FnOnce(u64) + Send + 'static) {
        self.at_end = Some(match self.at_end.take() {
            None => Box::new(callback),
            Some(other) => Box::new(move |sent_bytes| {
                other(sent_bytes);
                callback(sent_bytes);
            }),
        });
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        let next = match &mut self.source {
            Source::Handler(bytes) => ready!(bytes.poll_next(context)).map(|next| next.map_err(BoxError::from)),
            Source::Compressor(stream) => {
                ready!(stream.as_mut().poll_next(context)).map(|next| next.map_err(BoxError::from))
            }
        };
        match next {
            None => match self.remaining {
                Some(missing) if missing > 0 => {
                    self.fail_soon(format!("the body ended {missing} bytes early").into(), context)
                }
                _ => Poll::Ready(None),
            },
            Some(Ok(bytes)) => {
                self.sent_bytes += bytes.len() as u64;
                self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(bytes.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(broken)) => self.fail_soon(broken, context),
        }
    }

    /// hyper drops the connection at an error: what came before it goes out first.
    fn fail_soon<T>(&mut self, failure: BoxError, context: &Context<'_>) -> Poll<T> {
        self.failure = Some(failure);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for FlowingBody {
    fn drop(&mut self) {
        if let Some(callback) = self.at_end.take() {
            callback(self.sent_bytes);
        }
    }
}
