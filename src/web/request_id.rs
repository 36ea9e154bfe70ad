//! What a request is called, and by whom: `X-Request-Id` is taken from trusted peers, and made for everybody else.

use http::HeaderMap;
use ipnet::IpNet;

use super::client::{Connection, is_trusted};
use crate::request_id::{HEADER, RequestId};

/// The id of a request.
pub fn of(connection: &Connection, headers: &HeaderMap, trusted: &[IpNet]) -> RequestId {
    let given = headers.get(HEADER).filter(|_| is_trusted(connection, trusted));
    given.and_then(RequestId::given).unwrap_or_else(RequestId::make)
}
