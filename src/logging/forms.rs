//! What a record looks like: dated text for people and files, the form of sd-daemon(3) for the journal, JSON for
//! whatever collects logs.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde::Serialize;

use super::{Record, Severity};

/// What `--log-format` and `[server] log_format` ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Dated text on a terminal, the systemd form on anything else.
    #[default]
    Auto,
    Text,
    Systemd,
    Json,
}

impl Format {
    /// What a person writes for one; to be shown when it is none of them.
    pub const NAMES: &str = "auto, text, systemd or json";

    /// The one that a person means.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "text" => Some(Self::Text),
            "systemd" => Some(Self::Systemd),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Systemd => "systemd",
            Self::Json => "json",
        }
    }

    /// The form of standard output.
    pub(super) fn on_console(self, is_terminal: bool) -> Form {
        match self {
            Self::Auto if is_terminal => Form::Dated,
            Self::Auto | Self::Systemd => Form::Systemd,
            Self::Text => Form::Dated,
            Self::Json => Form::Json,
        }
    }

    /// The form of a log file, which has no journal behind it that would add the time.
    pub(super) fn in_file(self) -> Form {
        if self == Self::Json { Form::Json } else { Form::Dated }
    }
}

/// What lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `time - name - level - message`.
    Dated,
    /// `<priority>LEVEL - name - message` on every physical line (sd-daemon(3)).
    Systemd,
    /// One object a line.
    Json,
}

/// Which process writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer {
    pub(super) pid: u32,
    /// The worker's number; the supervisor has none.
    pub(super) worker: Option<usize>,
}

impl Form {
    /// A record that holds no secrets as text, with its end of line.
    pub(super) fn write(self, record: &Record<'_>, time: DateTime<Utc>, writer: Writer) -> String {
        match self {
            Self::Dated => {
                let (name, level) = (record.name, record.severity.name());
                // Python's `%(asctime)s`: local time with milliseconds.
                let time = time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S,%3f");
                format!("{time} - {} - {level} - {}\n", printable(name), whole_text(record))
            }
            Self::Systemd => systemd_lines(record.severity, &printable(record.name), &whole_text(record)),
            Self::Json => record_line(record, time, writer),
        }
    }
}

/// The message with what follows it, fit for a terminal.
pub(super) fn whole_text(record: &Record<'_>) -> String {
    let mut text = record.message.to_owned();
    if let Some(request_id) = record.request_id {
        // What follows the first line stays as it is.
        let end = text.find('\n').unwrap_or(text.len());
        text.insert_str(end, &format!(" [request {request_id}]"));
    }
    if let Some(traceback) = record.traceback {
        text.push('\n');
        text.push_str(traceback);
    }
    printable(&text)
}

/// Control characters but for line breaks and tabs are escaped: a message cannot rewrite a terminal or a line.
pub(super) fn printable(message: &str) -> String {
    let is_harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if message.chars().all(is_harmless) {
        return message.to_owned();
    }
    let mut clean = String::with_capacity(message.len());
    for c in message.replace("\r\n", "\n").chars() {
        if is_harmless(c) { clean.push(c) } else { clean.push_str(&format!("\\x{:02x}", u32::from(c))) }
    }
    clean
}

fn systemd_lines(severity: Severity, name: &str, message: &str) -> String {
    let mut text = String::new();
    for line in message.trim_end_matches('\n').split('\n') {
        text.push_str(&format!("<{}>{} - {name} - {line}\n", severity.priority(), severity.name()));
    }
    text
}

/// The members of a JSON line, in their order.
#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, in UTC.
    time: String,
    level: &'a str,
    logger: &'a str,
    message: &'a str,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceback: Option<&'a str>,
}

fn record_line(record: &Record<'_>, time: DateTime<Utc>, writer: Writer) -> String {
    json_line(&Line {
        time: time.to_rfc3339_opts(SecondsFormat::Micros, true),
        level: record.severity.name(),
        logger: record.name,
        message: record.message,
        pid: writer.pid,
        worker: writer.worker,
        plugin: record.plugin,
        request_id: record.request_id.map(ToString::to_string),
        traceback: record.traceback,
    })
}

/// A line of JSON: one physical line, with nothing in it that moves a cursor. For what has a JSON text in any case:
/// strings, numbers and their like.
pub fn json_line(members: &impl Serialize) -> String {
    let mut text = with_all_controls_escaped(serde_json::to_string(members).unwrap_or_default());
    text.push('\n');
    text
}

/// JSON asks for the escape of C0 only; DEL and C1 move cursors, too. They stand nowhere but in strings.
fn with_all_controls_escaped(json: String) -> String {
    if !json.contains(char::is_control) {
        return json;
    }
    let mut clean = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if c.is_control() { clean.push_str(&format!("\\u{:04x}", u32::from(c))) } else { clean.push(c) }
    }
    clean
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::request_id::RequestId;

    const WRITER: Writer = Writer { pid: 7, worker: Some(2) };

    fn record<'a>(message: &'a str, traceback: Option<&'a str>) -> Record<'a> {
        Record { traceback, ..Record::new(Severity::Critical, "plug", message) }
    }

    #[test]
    fn every_physical_line_carries_its_priority() {
        let text = Form::Systemd.write(&record("one\ntwo", Some("three\n")), Utc::now(), WRITER);
        assert_eq!(text, "<2>CRITICAL - plug - one\n<2>CRITICAL - plug - two\n<2>CRITICAL - plug - three\n");
    }

    #[test]
    fn the_request_stands_at_the_end_of_the_first_line() {
        let request_id = Some(&RequestId::Given(HeaderValue::from_static("id")));
        let record = Record { request_id, ..record("GET /x raised KeyError\nmore", Some("Traceback")) };
        assert_eq!(whole_text(&record), "GET /x raised KeyError [request id]\nmore\nTraceback");
    }

    #[test]
    fn a_message_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\td\r\ne"), "a\\x1b[2Jb\\x0dc\td\ne");
        let named = Record::new(Severity::Info, "a\u{1b}b", "x");
        assert_eq!(Form::Systemd.write(&named, Utc::now(), WRITER), "<6>INFO - a\\x1bb - x\n");
    }

    #[test]
    fn a_json_line_is_one_line_and_holds_everything() {
        let time = DateTime::from_timestamp(1_800_000_000, 1_500).expect("a time");
        let odd = "a\"\\\n\u{1b}[2J\u{7f}\u{9b}\u{2028}\0\u{fffd}";
        let request_id = Some(&RequestId::Given(HeaderValue::from_static("the-id")));
        let whole = Record { plugin: Some("p"), request_id, ..record(odd, Some("t\n")) };
        let text = Form::Json.write(&whole, time, WRITER);
        assert!(text.ends_with('\n') && !text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
        let expected = serde_json::json!({
            "time": "2027-01-15T08:00:00.000001Z", "level": "CRITICAL", "logger": "plug", "message": odd,
            "pid": 7, "worker": 2, "plugin": "p", "request_id": "the-id", "traceback": "t\n",
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), expected);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let text = Form::Json.write(&record("m", None), Utc::now(), Writer { pid: 7, worker: None });
        let keys: Vec<String> = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
            .map(|line| line.keys().cloned().collect())
            .expect("JSON");
        assert_eq!(keys, ["time", "level", "logger", "message", "pid"]);
    }

    #[test]
    fn files_are_dated_unless_they_are_json() {
        assert_eq!(Format::Systemd.in_file(), Form::Dated);
        assert_eq!(Format::Json.in_file(), Form::Json);
        assert_eq!(Format::Auto.on_console(true), Form::Dated);
        assert_eq!(Format::Auto.on_console(false), Form::Systemd);
    }
}
