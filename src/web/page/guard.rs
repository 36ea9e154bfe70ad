//! Keeps other sites' pages away from what the page shows and does, where no key does that.
//!
//! With a global key there is nothing to guard against: the page sends it in a header of each request, no other site
//! knows it, and no browser adds it by itself, as it would a cookie.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, header};

use super::super::client::Connection;
use super::super::reply::ApiError;
use crate::config::Settings;

/// Refuses what shows the inside of the server to a browser that was led here: by a page of another site, or by a name
/// of another site that suddenly means this machine (DNS rebinding). A browser tells the first in `Sec-Fetch-Site`;
/// the second shows in `Host`, for a server that only this machine reaches.
pub fn check_reader(settings: &Settings, connection: &Connection, headers: &HeaderMap) -> Result<(), ApiError> {
    if settings.global_key.is_some() {
        return Ok(());
    }
    if !matches!(fetch_field(headers, "sec-fetch-site"), None | Some("same-origin" | "none")) {
        return Err(ApiError::Foreign("a page of another site may not read this"));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if connection.local.ip().to_canonical().is_loopback() && !is_of_this_machine(host) {
        return Err(ApiError::Foreign(
            "the server listens on this machine only and was asked for by another's name; \
             set [auth] apikey to use the page under that name",
        ));
    }
    Ok(())
}

/// Refuses a control request that a page of another site has made its visitor's browser send. A link that somebody
/// clicks is their own doing, and origins of `[cors]` are meant to be able to.
pub fn check_control(settings: &Settings, headers: &HeaderMap) -> Result<(), ApiError> {
    let is_cross_site = fetch_field(headers, "sec-fetch-site") == Some("cross-site");
    let is_clicked = fetch_field(headers, "sec-fetch-user") == Some("?1")
        && fetch_field(headers, "sec-fetch-dest") == Some("document");
    // One that is not allowed has been refused, or reads no answer; this one must not even ask.
    let is_allowed = settings.cors.is_some() && headers.contains_key(header::ORIGIN);
    if settings.server.page && settings.global_key.is_none() && is_cross_site && !is_clicked && !is_allowed {
        return Err(ApiError::Foreign("a page of another site may not do this; see [cors] or [auth] apikey"));
    }
    Ok(())
}

fn fetch_field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Whether nobody else can make this name mean this machine: an address, `localhost`, or a name without a dot, which no
/// other site has.
fn is_of_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return host.is_empty();
    };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || !bare.contains('.') || bare.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_can_give_out() {
        for host in ["localhost:9192", "127.0.0.1", "[::1]:80", "devbox:80", "app.localhost", "LOCALHOST.", ""] {
            assert!(is_of_this_machine(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9192", "localhost.evil.example", "127.0.0.1.evil.example", "a b.c"] {
            assert!(!is_of_this_machine(host), "{host}");
        }
    }
}
