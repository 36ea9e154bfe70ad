//! What one line of the access log looks like: Common Log Format as Apache writes it, Combined Log Format with the
//! request's id behind it, or JSON. Keys are
//! masked, and nothing that a client sends can begin another line.

use std::time::Duration;

use chrono::{Local, SecondsFormat, Utc};
use http::{HeaderMap, Method, Version, header};
use serde::Serialize;

use super::auth::KEY_FIELD;
use crate::config::settings::AccessLogFormat;
use crate::logging;
use crate::request_id::RequestId;

/// What a line tells.
#[derive(Debug)]
pub struct Access<'a> {
    pub client: &'a str,
    pub method: &'a Method,
    /// Path and query as the client sent them.
    pub target: &'a str,
    pub version: Version,
    pub status: u16,
    pub body_bytes: u64,
    pub headers: &'a HeaderMap,
    /// From the head of the request to the answer, or to its last byte when it is a stream.
    pub duration: Duration,
    /// The plugin that has answered.
    pub plugin: Option<&'a str>,
    pub request_id: &'a RequestId,
}

/// The members of a JSON line, in their order.
#[derive(Serialize)]
struct Members<'a> {
    /// RFC 3339, in UTC.
    time: String,
    client: &'a str,
    method: &'a str,
    target: String,
    protocol: &'a str,
    status: u16,
    bytes: u64,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
}

/// Which plugin a response is from.
#[derive(Debug, Clone)]
pub struct ServedBy(pub String);

impl Access<'_> {
    /// The line, with its end.
    pub(super) fn line(&self, format: AccessLogFormat) -> String {
        match format {
            AccessLogFormat::Common => format!("{}\n", self.common()),
            AccessLogFormat::Combined => {
                let field = |name| self.field(name).map_or_else(|| "-".to_owned(), |value| quoted(&value));
                let (referer, agent) = (field(header::REFERER), field(header::USER_AGENT));
                let line = format!("{} \"{referer}\" \"{agent}\" {}\n", self.common(), self.request_id);
                logging::without_secrets(&line)
            }
            AccessLogFormat::Json => self.json(),
        }
    }

    fn common(&self) -> String {
        let time = Local::now().format("%d/%b/%Y:%H:%M:%S %z");
        let size = if self.body_bytes == 0 { "-".to_owned() } else { self.body_bytes.to_string() };
        let line = format!(
            "{} - - [{time}] \"{} {} {}\" {} {size}",
            // Not between quotes: a space would begin the next column.
            quoted(self.client).replace(' ', "\\x20"),
            self.method,
            quoted(&masked(self.target)),
            self.protocol(),
            self.status,
        );
        logging::without_secrets(&line)
    }

    fn json(&self) -> String {
        let clean = |text: &str| logging::without_secrets(text);
        logging::json_line(&Members {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            client: &clean(self.client),
            method: self.method.as_str(),
            target: clean(&masked(self.target)),
            protocol: self.protocol(),
            status: self.status,
            bytes: self.body_bytes,
            // Of what is below a microsecond, nobody wants seventeen digits.
            duration_seconds: self.duration.as_micros() as f64 / 1e6,
            plugin: self.plugin,
            request_id: clean(&self.request_id.to_string()),
            referer: self.field(header::REFERER).map(|value| clean(&value)),
            user_agent: self.field(header::USER_AGENT).map(|value| clean(&value)),
        })
    }

    /// A header's value, without the keys of a query in it.
    fn field(&self, name: header::HeaderName) -> Option<String> {
        self.headers.get(name).map(|value| masked(&String::from_utf8_lossy(value.as_bytes())))
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        }
    }
}

/// Puts `***` in the place of every key in a query, whatever its spelling.
pub(super) fn masked(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            let is_key = form_urlencoded::parse(name.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case(KEY_FIELD));
            if is_key { format!("{name}=***") } else { pair.to_owned() }
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

/// Escapes what would break a line or its quotes, as Apache's mod_log_config does.
fn quoted(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: AccessLogFormat, client: &str, target: &str) -> String {
        let mut headers = HeaderMap::new();
        let referer = "http://x/?apikey=s\u{9b}";
        headers.insert(header::REFERER, referer.parse().expect("a value"));
        let access = Access {
            client,
            method: &Method::GET,
            target,
            version: Version::HTTP_11,
            status: 200,
            body_bytes: 1,
            headers: &headers,
            duration: Duration::from_nanos(1_234_567_890),
            plugin: Some("p"),
            request_id: &RequestId::Given("the-id".parse().expect("a value")),
        };
        access.line(format)
    }

    #[test]
    fn keys_are_masked_however_they_are_spelt() {
        assert_eq!(masked("/a?apikey=s&x=1&API%4bey=t&apikey"), "/a?apikey=***&x=1&API%4bey=***&apikey=***");
        assert_eq!(masked("/a"), "/a");
    }

    #[test]
    fn a_client_is_one_column() {
        let line = line(AccessLogFormat::Combined, "10.1.1.1 - - \"GET", "/");
        assert!(line.starts_with("10.1.1.1\\x20-\\x20-\\x20\\\"GET - - ["), "{line}");
    }

    #[test]
    fn a_line_cannot_be_broken_from_outside() {
        assert_eq!(quoted("a\"b\\c\nd"), "a\\\"b\\\\c\\x0ad");
    }

    #[test]
    fn the_common_form_ends_where_the_combined_one_goes_on() {
        let common = line(AccessLogFormat::Common, "::1", "/a?apikey=s");
        assert!(common.starts_with("::1 - - ["), "{common}");
        assert!(common.ends_with("] \"GET /a?apikey=*** HTTP/1.1\" 200 1\n"), "{common}");
        let combined = line(AccessLogFormat::Combined, "::1", "/a");
        assert!(
            combined.ends_with("] \"GET /a HTTP/1.1\" 200 1 \"http://x/?apikey=***\" \"-\" the-id\n"),
            "{combined}"
        );
    }

    #[test]
    fn the_json_form_tells_duration_and_plugin() {
        let line = line(AccessLogFormat::Json, "::1", "/a?b\"\u{9b}&apikey=s");
        assert!(line.ends_with('\n') && !line.trim_end().contains(char::is_control), "{line:?}");
        let mut value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let time = value["time"].take();
        assert!(chrono::DateTime::parse_from_rfc3339(time.as_str().expect("text")).is_ok(), "{time}");
        let expected = serde_json::json!({
            "time": null, "client": "::1", "method": "GET", "target": "/a?b\"\u{9b}&apikey=***", "protocol": "HTTP/1.1",
            "status": 200, "bytes": 1, "duration_seconds": 1.234567, "plugin": "p", "request_id": "the-id",
            "referer": "http://x/?apikey=***",
        });
        assert_eq!(value, expected);
    }
}
