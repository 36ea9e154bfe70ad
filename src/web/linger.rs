//! The end of a connection on which the client still sends: what comes is read and forgotten for a while. Closed at
//! once, the connection would be reset, and the client might never see why it was refused (RFC 9112, 9.6).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

const LONGEST: Duration = Duration::from_secs(2);

const READ_BYTES: usize = 16 << 10;

/// Waits for the end of what a client sends, when it has sent more than anybody read.
#[derive(Debug, Default)]
pub struct Linger {
    until: Option<Pin<Box<Sleep>>>,
}

impl Linger {
    /// Ready when the client has ended, when it had sent nothing more, or when it has had its time.
    pub fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, context: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; READ_BYTES];
        loop {
            if self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready()) {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(LONGEST)));
                }
                Poll::Pending if self.until.is_some() => return Poll::Pending,
                _ => return Poll::Ready(()),
            }
        }
    }
}
