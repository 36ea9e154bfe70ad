//! One connection, from the TLS handshake to its end: hyper speaks on it, its clock says when enough is enough.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_native_tls::TlsStream;

use super::activity::{Activity, Close};
use super::client::Connection;
use super::client_stream::ClientStream;
use super::connections::Place;
use super::deadlines::{Due, LINGER};
use super::farewell::{LastWords, refusal};
use super::request_line::HeadOnly;
use super::server::answer;
use super::socket::Socket;
use super::{Site, TlsAcceptor, routes};
use crate::config::settings::Limits;

/// What a connection through a Unix socket counts as: one from this machine.
const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Requests that one HTTP/2 connection may have open at a time.
const HTTP2_STREAMS: u32 = 128;

/// Streams that were reset and that h2 keeps in mind: more of them end the connection (CVE-2023-44487, CVE-2025-8671).
const HTTP2_RESETS_BY_CLIENT: usize = 20;
const HTTP2_RESETS_BY_US: usize = 256;

/// Bytes of an answer that may wait for room in one HTTP/2 stream.
const HTTP2_SEND_BUFFER: usize = 128 << 10;

/// Who speaks with whom.
#[derive(Debug, Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
    is_tls: bool,
}

/// Serves a TCP connection, with TLS where that is configured.
pub async fn serve_tcp(stream: TcpStream, peer: SocketAddr, site: Arc<Site>, place: Place) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = site.tls.clone() else {
        return serve(Socket::new(stream, place), Ends { peer, local, is_tls: false }, &site).await;
    };
    let activity = Arc::clone(place.activity());
    activity.expects_handshake();
    let shaken = tokio::select! {
        shaken = shake_hands(stream, place, &acceptor) => shaken,
        due = activity.run_out() => Err(anyhow::anyhow!("no TLS handshake: {due:?}")),
    };
    match shaken {
        Ok(Some(stream)) => {
            activity.handshake_ends();
            serve_on(stream, activity, Ends { peer, local, is_tls: true }, &site).await;
        }
        Ok(None) => log::debug!("connection from {peer}: plain HTTP on the port for HTTPS"),
        Err(problem) => log::debug!("connection from {peer}: {problem:#}"),
    }
}

/// Serves a connection through a Unix socket. TLS, if any, ends at the proxy on the other side.
pub async fn serve_unix(stream: UnixStream, site: Arc<Site>, place: Place) {
    serve(Socket::new(stream, place), Ends { peer: UNIX_PEER, local: UNIX_PEER, is_tls: false }, &site).await;
}

async fn serve<S>(socket: Socket<S>, ends: Ends, site: &Arc<Site>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::clone(socket.activity());
    serve_on(socket, activity, ends, site).await;
}

/// Makes a TLS connection. `None` for a client that does not speak TLS at all: it has been told so.
async fn shake_hands(
    stream: TcpStream,
    place: Place,
    acceptor: &TlsAcceptor,
) -> anyhow::Result<Option<TlsStream<Socket<TcpStream>>>> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    place.activity().handshake_begins();
    let mut socket = Socket::new(stream, place);
    // RFC 8446, 5.1: a handshake begins with a record of type 22.
    if count == 1 && first != [22] {
        let reason = "this port speaks HTTPS; use https:// in the address";
        let mut words = LastWords::new(refusal(StatusCode::BAD_REQUEST, reason, None));
        let told = std::future::poll_fn(|context| words.poll(&mut socket, context));
        let _ = tokio::time::timeout(LINGER, told).await;
        return Ok(None);
    }
    Ok(Some(acceptor.0.accept(socket).await?))
}

/// How hyper speaks: the limits in size are its own, those in time are the clock's.
fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.max_header_bytes)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_pending_accept_reset_streams(HTTP2_RESETS_BY_CLIENT)
        .max_local_error_reset_streams(HTTP2_RESETS_BY_US)
        .max_send_buf_size(HTTP2_SEND_BUFFER);
    builder
}

async fn serve_on<S>(stream: S, activity: Arc<Activity>, ends: Ends, site: &Arc<Site>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ends { peer, local, is_tls } = ends;
    let filter = warp::service(routes(Arc::clone(site)));
    let head_only = HeadOnly::default();
    let io = TokioIo::new(ClientStream::new(stream, head_only.clone(), Arc::clone(&activity)));
    let of_connection = Connection::new(peer, local, is_tls, Version::HTTP_11);
    let of_service = (Arc::clone(site), Arc::clone(&activity));
    let service = service_fn(move |request: Request<Incoming>| {
        let (site, activity) = &of_service;
        // What follows a connection that is taken over is no request line.
        let has_body = !request.body().is_end_stream() || request.headers().contains_key(header::UPGRADE);
        if !has_body && request.version() != Version::HTTP_2 {
            head_only.set();
        }
        let connection = Connection { version: request.version(), ..of_connection.clone() };
        let in_flight = activity.begin(request.version());
        answer(Arc::clone(site), filter.clone(), request, connection, in_flight)
    });
    let limits = site.config.get().settings.limits.clone();
    let connection = builder(&limits).serve_connection_with_upgrades(io, service).into_owned();
    tokio::pin!(connection);
    let counts = &site.connections.counts;
    let ended = loop {
        let due = tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            due = activity.run_out() => due,
        };
        match due {
            Due::SlowHead => {
                counts.slow_heads.fetch_add(1, Ordering::Relaxed);
                activity.refuse_head();
            }
            Due::GoAway => {
                activity.said_goodbye();
                connection.as_mut().graceful_shutdown();
            }
            Due::Cut(reason) => {
                counts.cut_off.fetch_add(1, Ordering::Relaxed);
                break Err(reason.into());
            }
            Due::Close => {
                // A request may be there that the runtime has not seen yet.
                tokio::select! {
                    biased;
                    ended = connection.as_mut() => break ended,
                    () = tokio::task::yield_now() => {}
                }
                match activity.confirm_close() {
                    Close::NotNow => {}
                    Close::Silently => break Ok(()),
                    Close::Orderly => connection.as_mut().graceful_shutdown(),
                }
            }
        }
    };
    if let Err(problem) = ended {
        log::debug!("connection from {peer}: {problem}");
    }
}
