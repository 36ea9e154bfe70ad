//! A client's connection as hyper sees it: what comes in passes `request_line`, what goes out passes `refusal`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::linger::Linger;
use super::refusal::{OwnPieces, Refusals};
use super::request_line::{HeadOnly, ReadableTargets};

#[derive(Debug)]
pub struct ClientStream<S> {
    inner: S,
    targets: ReadableTargets,
    refusals: Refusals,
    linger: Linger,
}

impl<S> ClientStream<S> {
    pub fn new(inner: S, head_only: HeadOnly, own_pieces: OwnPieces) -> Self {
        Self {
            inner,
            targets: ReadableTargets::new(head_only),
            refusals: Refusals::new(own_pieces),
            linger: Linger::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.targets.poll_read(&mut this.inner, context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.refusals.poll_write(&mut this.inner, context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.refusals.poll_rest(&mut this.inner, context))?;
        Pin::new(&mut this.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.refusals.poll_rest(&mut this.inner, context))?;
        ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        this.linger.poll(&mut this.inner, context).map(Ok)
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
