//! What passes between the web room, the Python room and other processes: plain data that knows none of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Secret};
use crate::pipe::{PipeReader, PipeWriter};
use crate::request_id::RequestId;

/// One request for one plugin.
#[derive(Debug)]
pub struct PluginRequest {
    pub method: Method,
    /// Path and query as the client sent them, percent-encoded.
    pub target: PathAndQuery,
    /// HTTP version as (major, minor).
    pub version: (u8, u8),
    pub headers: HeaderMap,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// This end of the connection.
    pub local: SocketAddr,
    /// Who asks, a trusted proxy's word included.
    pub client_ip: Arc<str>,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// The host that the client named, when a trusted proxy has replaced it.
    pub forwarded_host: Option<String>,
    /// `None` for `/name`, else the decoded rest after `/name/`.
    pub subpath: Option<String>,
    /// What it is called in answers and logs.
    pub request_id: RequestId,
    /// The body, when it was read to its end; empty when it is streamed.
    pub body: Bytes,
    /// A body that the plugin reads as it comes.
    pub streamed_body: Option<PipeReader>,
    /// How much of a body `request.read()` takes, in bytes.
    pub max_body_bytes: usize,
    pub form: BodyFields,
    /// The key that a JSON body must hold, when only Python's reader can tell. Anything else is refused.
    pub body_key: Option<Secret>,
}

impl PluginRequest {
    /// The path as the client sent it.
    pub fn raw_path(&self) -> &str {
        self.target.path()
    }

    /// The query as the client sent it, without the question mark.
    pub fn raw_query(&self) -> &str {
        self.target.query().unwrap_or_default()
    }

    /// Query fields in their order, decoded, repeated names included.
    pub fn query(&self) -> form_urlencoded::Parse<'_> {
        form_urlencoded::parse(self.raw_query().as_bytes())
    }
}

/// What the body's content type makes of it. JSON is tried first whatever this says.
#[derive(Debug, Clone, Default)]
pub enum BodyFields {
    #[default]
    None,
    /// `application/x-www-form-urlencoded`.
    UrlEncoded(Vec<(String, String)>),
    /// `multipart/form-data`.
    Multipart(Vec<FormPart>),
}

/// One part of a multipart form.
#[derive(Debug, Clone)]
pub struct FormPart {
    pub name: String,
    /// Set for a file.
    pub file_name: Option<String>,
    pub content_type: Option<String>,
    pub data: Bytes,
}

impl FormPart {
    /// The text of a field that is not a file; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// A plugin's answer, ready to be sent.
#[derive(Debug)]
pub struct PluginReply {
    pub status: u16,
    /// The words after the status, when they are not the usual ones.
    pub reason: Option<String>,
    /// Unless it stands among the headers.
    pub content_type: Option<&'static str>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: ReplyBody,
    /// Whether the plugin made it as an aiohttp response, whose status is its own.
    pub is_response: bool,
}

/// What follows the head of a reply.
#[derive(Debug)]
pub enum ReplyBody {
    Whole(Bytes),
    /// Written by the handler as it goes on; the length when it is known beforehand.
    Streamed {
        bytes: PipeReader,
        length: Option<u64>,
    },
    /// The connection becomes the handler's own (status 101): what the client sends, and what it gets.
    Upgraded {
        received: PipeWriter,
        sent: PipeReader,
    },
}

impl PluginReply {
    /// A reply with one content type and no other header.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = ReplyBody::Whole(body.into());
        Self { status, reason: None, content_type: Some(content_type), headers: Vec::new(), body, is_response: false }
    }
}

/// JSON as every reply of this server names it.
pub const JSON: &str = "application/json; charset=utf-8";

/// How a call ended.
pub type CallResult = Result<PluginReply, CallError>;

/// Why a call has no reply of the plugin's own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The plugin's own `_check_auth` said no.
    #[error("the plugin refused the request")]
    Refused,
    /// The handler raised, or returned what cannot be sent.
    #[error("{}: {}", .0.kind, .0.message)]
    Raised(Raised),
    /// The handler could not read the body to its end, and left it at that.
    #[error("the body cannot be read: {0}")]
    UnreadableBody(String),
    /// It took longer than it may.
    #[error("plugin `{plugin}` gave no answer within {} s", .limit.as_secs_f64())]
    TimedOut { plugin: String, limit: Duration },
    /// There is no thread for its plain handler, and no way to start one.
    #[error("no thread can be started for this plugin's handler")]
    NoThread,
    /// The event loop that it was on has stood still for too long.
    #[error("the worker that had this request has stopped responding; another one takes its place")]
    LoopStalled,
    /// The call ended without an answer: its task was destroyed, or Python is stopping.
    #[error("the call ended without an answer")]
    Lost,
}

/// An exception of a handler.
#[derive(Debug, Clone)]
pub struct Raised {
    pub kind: String,
    pub message: String,
    pub traceback: String,
}

/// What went wrong in Python code, and where in the user's file: fit to be logged and answered away from Python.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonError {
    /// The exception's class.
    pub kind: String,
    pub message: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// The traceback, for the log.
    pub traceback: String,
}

impl PythonError {
    /// An error that no Python code raised.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into(), ..Self::default() }
    }
}

impl fmt::Display for PythonError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind, self.message)?;
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(formatter, " ({file}, line {line})")?;
        }
        Ok(())
    }
}

impl std::error::Error for PythonError {}

/// What a control route asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    ReloadAll,
    /// A plugin by its id.
    Reload(String),
    /// A plugin file by its stem.
    Load(String),
    /// A plugin by its id.
    Unload(String),
    /// Files that have been saved, made or removed: plugin files, modules that they import, parameter files.
    TakeUp(Vec<SavedFile>),
}

/// A file that somebody has saved, made or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    #[serde(with = "crate::config::path_text")]
    pub path: PathBuf,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReloadAll => formatter.write_str("/reload/all"),
            Self::Reload(id) => write!(formatter, "/reload/{id}"),
            Self::Load(stem) => write!(formatter, "/load/{stem}"),
            Self::Unload(id) => write!(formatter, "/unload/{id}"),
            Self::TakeUp(files) => write!(formatter, "taking up {} saved files", files.len()),
        }
    }
}

/// What a change has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The ids that a loaded file serves.
    pub ids: Vec<String>,
    /// The files that keep their old plugins, with the reason.
    pub failed: PluginFiles,
    /// Of [`Change::TakeUp`]: the files that were loaded, and what became of them.
    pub loaded: PluginFiles,
    /// Of the same: the files that have gone, with what they served.
    pub gone: PluginFiles,
}

/// Why a control request did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum ControlError {
    #[error("no plugin `{0}`")]
    NoSuchPlugin(String),
    #[error("no plugin file `{0}.py` in the plugins folder")]
    NoSuchFile(String),
    #[error("the INI file cannot work, the old configuration stays: {0}")]
    Config(#[from] ConfigError),
    #[error("the plugins folder cannot be read: {0}")]
    Folder(String),
    #[error("{0}")]
    Failed(PythonError),
    #[error("`{id}` is gone: {file} no longer defines it")]
    Gone { id: String, file: String },
    /// The worker ended, or the server is about to.
    #[error("{0}")]
    Interrupted(String),
}

/// All plugin files of a process and what became of them.
pub type PluginFiles = Vec<PluginFile>;

/// One plugin file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFile {
    #[serde(with = "crate::config::path_text")]
    pub path: PathBuf,
    /// The ids that it serves, or served until it was put in quarantine.
    pub ids: Vec<String>,
    /// Why its last load failed, whole or in part. A file can serve its old plugins all the same.
    pub error: Option<PythonError>,
}

/// A plugin file that is not loaded, because it ended its worker again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    #[serde(with = "crate::config::path_text")]
    pub path: PathBuf,
    /// The routes that it had.
    pub ids: Vec<String>,
    /// What it did, for the log and for callers.
    pub reason: String,
}
