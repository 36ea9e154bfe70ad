//! A connection that a handler has taken over (RFC 9110, 7.8): bytes both ways, framed by Python.

use std::sync::Arc;

use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::activity::Activity;
use crate::pipe::{PipeReader, PipeWriter};

const READ_BYTES: usize = 16 << 10;

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Carries bytes between the client and the handler until both have ended.
pub async fn carry(upgrade: OnUpgrade, received: PipeWriter, sent: PipeReader, activity: Arc<Activity>) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(problem) => {
            log::debug!("a connection was not taken over: {problem}");
            return received.fail("the client has left");
        }
    };
    let (from_client, to_client) = tokio::io::split(upgraded);
    let receiving = tokio::spawn(receive(from_client, received));
    send(to_client, sent, &activity).await;
    // The handler has ended: what the client still says interests nobody.
    receiving.abort();
}

async fn receive(mut from_client: ReadHalf<Upgraded>, received: PipeWriter) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    while std::future::poll_fn(|context| received.poll_room(context)).await {
        match from_client.read_buf(&mut buffer).await {
            Ok(0) => return received.finish(),
            Ok(_) => {
                received.push(buffer.split().freeze());
                buffer.reserve(READ_BYTES);
            }
            Err(problem) => return received.fail(problem.to_string()),
        }
    }
}

async fn send(mut to_client: WriteHalf<Upgraded>, sent: PipeReader, activity: &Activity) {
    while let Some(Ok(bytes)) = sent.next().await {
        let written = tokio::select! {
            biased;
            written = async { to_client.write_all(&bytes).await.is_ok() && to_client.flush().await.is_ok() } => written,
            // The handler has given up on a client that does not read.
            () = sent.broken() => false,
            // So does the server.
            _ = activity.run_out() => false,
        };
        if !written {
            return;
        }
    }
    let _ = to_client.shutdown().await;
}
