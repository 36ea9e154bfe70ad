//! The accept loop of one listener: a place for everyone who comes, or a word why there is none.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{self, RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::Site;
use super::connection::{serve_tcp, serve_unix};
use super::connections::NoPlace;
use super::deadlines::Leaving;
use super::farewell::{LastWords, refusal};
use super::listener::{Accepted, Listener};

/// How long the accept loop waits when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a loop that stops goes on to accept those who wait already.
const LAST_ACCEPTS: Duration = Duration::from_secs(1);

/// How long a client without a place may take to read so, and seconds until it may try again.
const TELLING_LIMIT: Duration = Duration::from_secs(1);
const RETRY_AFTER_SECONDS: u32 = 1;

/// Asks an accept loop to end.
#[derive(Debug, Default)]
pub struct StopAccepting {
    asked: Notify,
    /// Those who wait are somebody else's.
    is_immediate: AtomicBool,
}

impl StopAccepting {
    pub fn ask(&self, leaving: Leaving) {
        self.is_immediate.store(leaving == Leaving::SharedListeners, Ordering::SeqCst);
        self.asked.notify_one();
    }
}

/// Accepts until it is asked to stop.
pub async fn accept(listener: Listener, site: Arc<Site>, stop: Arc<StopAccepting>) {
    let mut stopping: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.asked.notified() => {
                if stop.is_immediate.load(Ordering::SeqCst) {
                    return;
                }
                stopping = Some(Instant::now());
                continue;
            }
            accepted = listener.accept() => accepted,
            // Asked to stop, and nobody waits to be accepted: closing now resets no connection.
            () = std::future::ready(()), if stopping.is_some() => return,
        };
        match accepted {
            Ok(accepted) => {
                site.connections.accept_worked();
                welcome(accepted, &site);
            }
            Err(problem) if is_of_one_connection(&problem) => {}
            Err(_) if stopping.is_some() => return,
            Err(problem) => {
                site.connections.accept_failed(&problem);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        if stopping.is_some_and(|since| since.elapsed() > LAST_ACCEPTS) {
            return;
        }
    }
}

/// A client that left before it was accepted is no trouble of the listener's.
fn is_of_one_connection(problem: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(problem.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn welcome(accepted: Accepted, site: &Arc<Site>) {
    let config = site.config.get();
    let limits = &config.settings.limits;
    match accepted {
        Accepted::Tcp(stream, peer) => match site.connections.admit(Some(peer.ip()), limits) {
            Ok(place) => drop(tokio::spawn(serve_tcp(stream, peer, Arc::clone(site), place))),
            // A handshake for the sake of a refusal would cost more than many requests do.
            Err(_) if site.tls.is_some() => {}
            Err(reason) => tell(stream, reason, site),
        },
        // Whoever is behind a Unix socket is the proxy's affair.
        Accepted::Unix(stream) => match site.connections.admit(None, limits) {
            Ok(place) => drop(tokio::spawn(serve_unix(stream, Arc::clone(site), place))),
            Err(reason) => tell(stream, reason, site),
        },
    }
}

/// Tells a client that there is no place for it, and waits a moment for it to leave. When that is done for many already,
/// the others are told without the wait.
fn tell<S>(mut stream: S, reason: NoPlace, site: &Site)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
{
    let reply = refusal(reason.status(), &reason.to_string(), Some(RETRY_AFTER_SECONDS));
    let Ok(permit) = Arc::clone(&site.connections.telling).try_acquire_owned() else {
        // What has come already is taken in, since closing with something unread would reset the connection.
        let mut scratch = [0; 4096];
        let _ = net::recv(&stream, &mut scratch, RecvFlags::DONTWAIT);
        let _ = net::send(&stream, &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        return;
    };
    let mut words = LastWords::new(reply);
    tokio::spawn(async move {
        let told = std::future::poll_fn(|context| words.poll(&mut stream, context));
        let _ = tokio::time::timeout(TELLING_LIMIT, told).await;
        drop(permit);
    });
}
