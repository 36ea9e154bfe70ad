//! A request that this process makes itself, on a connection that nobody else sees. It goes the way that every request
//! goes, limits and refusals included, so that what works here works in the server.

use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Site;
use super::connection::serve_unix;

/// An answer whose body comes as it is made.
#[derive(Debug)]
pub struct OwnAnswer {
    response: Response<Incoming>,
    /// The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

/// Sends the request through this server and awaits the head of the answer. Errs when it gives none.
pub async fn ask(site: Arc<Site>, request: Request<Bytes>) -> anyhow::Result<OwnAnswer> {
    let (ours, theirs) = StdStream::pair().context("cannot make a connection")?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let (ours, theirs) = (UnixStream::from_std(ours)?, UnixStream::from_std(theirs)?);
    let config = site.config.get();
    let place = site.connections.admit(None, &config.settings.limits).map_err(|reason| anyhow!("{reason}"))?;
    tokio::spawn(serve_unix(theirs, Arc::clone(&site), place));
    let (mut sender, connection) = handshake(TokioIo::new(ours)).await?;
    // How it ends shows in the answer.
    tokio::spawn(connection);
    let response = sender.send_request(request.map(Full::new)).await?;
    Ok(OwnAnswer { response, _sender: sender })
}

impl OwnAnswer {
    pub fn head(&self) -> &Response<impl Sized> {
        &self.response
    }

    /// The next piece of the body; `None` at its end.
    pub async fn next_piece(&mut self) -> Option<anyhow::Result<Bytes>> {
        loop {
            match self.response.frame().await? {
                // What is no data is a trailer.
                Ok(frame) => match frame.into_data() {
                    Ok(piece) => return Some(Ok(piece)),
                    Err(_) => continue,
                },
                Err(problem) => return Some(Err(problem.into())),
            }
        }
    }
}
