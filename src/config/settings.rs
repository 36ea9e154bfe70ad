//! What the configuration means to the server, checked once: later code asks no more questions.
//! How they are read stands in `sections.rs`, how a single value is looked up in `lookup.rs`.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::lookup::Reader;
use super::{ConfigError, Secret, Table, params};
use crate::logging::{Format, Levels, Severity};

/// What an item of `bindto` begins with that names a Unix socket.
pub(super) const UNIX_PREFIX: &str = "unix:";

/// Everything the server itself reads from the INI file, checked. Later code asks no more questions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; at least one.
    pub listen: Vec<ListenAddress>,
    pub plugins_dir: PathBuf,
    pub pidfile: Option<PathBuf>,
    /// Set when `[paths] documents` is.
    pub documents: Option<Documents>,
    pub global_key: Option<Secret>,
    /// Set when `[SSL]` is enabled: the server then speaks HTTPS and nothing else.
    pub tls: Option<TlsFiles>,
    /// Set when `[cors]` is enabled.
    pub cors: Option<CorsSettings>,
    /// File stem in lower case -> the text of its `[plugin_parms]` key.
    pub plugin_params: HashMap<String, String>,
    /// Plugin name in lower case -> its `[plugin_options]`.
    pub plugin_options: HashMap<String, PluginOptions>,
    pub server: ServerSettings,
    pub python: PythonSettings,
    pub limits: Limits,
    /// What is not wrong enough to stop: told in the log at every start and reload.
    pub warnings: Vec<String>,
}

/// One place to listen at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// A Unix socket, and who may connect: the mode of its file.
    Unix {
        #[serde(with = "super::path_text")]
        path: PathBuf,
        mode: u32,
    },
}

impl ListenAddress {
    /// Whether both are one place, whatever its mode.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix { path, .. }, Self::Unix { path: other, .. }) => path == other,
            _ => self == other,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix { path, .. } => write!(formatter, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// `[paths] documents`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The first part of the paths, without slashes around it.
    pub route: String,
    /// Where the files lie: the real place, links resolved.
    pub folder: PathBuf,
    pub index_file: String,
}

/// `[SSL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `[cors]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorsSettings {
    /// Origins such as `https://example.org`, or `*`.
    pub origins: Vec<String>,
    /// Domains whose hosts are origins too; others are then refused.
    pub acl: Vec<String>,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// Processes that serve, each with a Python of its own.
    pub workers: usize,
    /// Threads of each that do the HTTP; they never wait for Python.
    pub io_threads: usize,
    pub scheduling: Scheduling,
    pub access_log: Option<PathBuf>,
    pub access_log_format: AccessLogFormat,
    /// What the log looks like, unless the command line says so.
    pub log_format: Format,
    /// From which level on lines are written, unless the command line or the plugin's options say so.
    pub log_level: Severity,
    /// Whether answers are compressed for clients that take it.
    pub compression: bool,
    /// Puts tracebacks into error replies.
    pub debug: bool,
    /// Whether the live page is served under `/-/`.
    pub page: bool,
    /// Answers 200 to everything but a response object's own status, as the Python program did.
    pub legacy_status: bool,
    /// Whether `/-/openapi.json` describes the plugins to callers.
    pub openapi: bool,
    /// Plugins without which `/readyz` says no.
    pub required_plugins: Vec<String>,
    /// Peers whose `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[server] scheduling`: whether threads that wake each other take the core from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    Batch,
    Normal,
}

/// `[server] access_log_format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    Common,
    #[default]
    Combined,
    Json,
}

/// `[python]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonSettings {
    /// The virtual environment's folder: `[python] venv=`, else `$VIRTUAL_ENV`.
    pub venv: Option<PathBuf>,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    /// How long a new connection may stand before its first byte.
    pub first_byte_timeout: Duration,
    /// How long the head of a request may take from its first byte on.
    pub header_timeout: Duration,
    /// How long a body that is read whole may take, with a second more for each KiB that has come; how long one that
    /// is streamed may stand still.
    pub body_timeout: Duration,
    /// How long a client may take no byte of its answer.
    pub send_timeout: Duration,
    /// How long a connection may stand between two requests.
    pub idle_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a call may take until it is given up; zero is no limit.
    pub request_timeout: Duration,
    /// How long a stop or a reload waits for calls that still run.
    pub drain_timeout: Duration,
    /// How long a plugin's `initialize` may take.
    pub load_timeout: Duration,
    /// Threads for plain handlers, all plugins together.
    pub handler_threads: usize,
    /// Threads that may be lost to plain handlers which were given up, until the worker is replaced.
    pub max_lost_threads: usize,
    /// Calls of one plugin that may run or wait; the next one is refused.
    pub max_waiting_calls: usize,
    /// Connections of one worker that may stand open.
    pub max_connections: usize,
    /// Connections that one client may have open with one worker; zero is no limit.
    pub max_connections_per_client: usize,
    /// Crashes after which the plugin that caused them is put in quarantine; zero is never.
    pub crash_quarantine: usize,
    /// How long a worker's event loop may stand still until the worker is replaced; zero is for ever.
    pub loop_stall: Duration,
    pub recycling: Recycling,
}

/// `[limits] max_requests`, `max_memory_mb`, `max_age`: when a worker is replaced by a fresh one. Zero is never.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recycling {
    pub max_requests: u64,
    pub max_memory_mb: u64,
    pub max_age: Duration,
}

/// `[plugin_options] <name>=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginOptions {
    /// Plain handler calls of this plugin that may run at the same time.
    pub threads: usize,
    /// Terminate the old plugin before the new one starts, for plugins that own something exclusive.
    pub restart_on_reload: bool,
    /// How request bodies reach the plugin; `None` leaves it to what its code looks like.
    pub body: Option<BodyMode>,
    /// How long a call may take; `None` leaves it to `[limits] request_timeout`, zero is no limit.
    pub timeout: Option<Duration>,
    /// Whether an async call is cancelled when its client has left.
    pub cancel_on_disconnect: bool,
    /// From which level on its lines are written; `None` leaves it to `[server] log_level`.
    pub log_level: Option<Severity>,
}

/// How much of a request's body is read before the plugin is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// All of it; a body over the limit is refused.
    #[default]
    Read,
    /// All of it, when it is within the limit; a larger one is streamed.
    StreamLarge,
    /// What can be fields (JSON and forms within the limit); anything else is streamed from its first byte.
    Stream,
}

impl Default for PluginOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            restart_on_reload: false,
            body: None,
            timeout: None,
            cancel_on_disconnect: false,
            log_level: None,
        }
    }
}

impl Settings {
    /// Checks the table. Errs on the first value that cannot work.
    pub fn from_table(table: &Table, file: &Path) -> Result<Self, ConfigError> {
        Self::read(&Reader { table, file, insists_on_files: true })
    }

    /// As [`Settings::from_table`], for a table that has been checked before: what it names may have gone since.
    pub fn from_known_table(table: &Table, file: &Path) -> Result<Self, ConfigError> {
        Self::read(&Reader { table, file, insists_on_files: false })
    }

    fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        reader.warn_of_unknown_keys(&mut warnings);
        reader.refuse_sections_that_differ_by_case()?;
        Ok(Self {
            listen: reader.listen_addresses()?,
            plugins_dir: reader.plugins_dir()?,
            pidfile: reader.path_to_create("paths", "pidfile"),
            documents: reader.documents()?,
            global_key: reader.global_key()?,
            tls: reader.tls()?,
            cors: reader.cors(),
            plugin_params: reader.texts_by_lower_key("plugin_parms"),
            plugin_options: reader.plugin_options(&mut warnings)?,
            server: reader.server()?,
            python: PythonSettings { venv: reader.venv()? },
            limits: reader.limits()?,
            warnings,
        })
    }

    /// The port of the addresses, and the mode of the sockets, where there are any.
    pub fn port_and_mode(&self) -> (Option<u16>, Option<u32>) {
        let port = self.listen.iter().find_map(|address| match address {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Unix { .. } => None,
        });
        let mode = self.listen.iter().find_map(|address| match address {
            ListenAddress::Tcp(_) => None,
            ListenAddress::Unix { mode, .. } => Some(*mode),
        });
        (port, mode)
    }

    /// Every key that opens something: the global one, and those of plugins.
    pub fn known_keys(&self) -> Vec<String> {
        let own = self.plugin_params.values().flat_map(|text| {
            let pairs = form_urlencoded::parse(text.as_bytes()).into_owned();
            pairs.filter(|(name, value)| name == "apikey" && !value.is_empty()).map(|(_, value)| value)
        });
        own.chain(self.global_key.as_ref().map(|key| key.reveal().to_owned())).collect()
    }

    /// The JSON files that `[plugin_parms]` names.
    pub fn parameter_files(&self) -> Vec<PathBuf> {
        self.plugin_params.values().filter_map(|text| params::parse(text, &self.plugins_dir).json_file).collect()
    }

    /// Which lines of the log are written.
    pub fn log_levels(&self) -> Levels {
        let own = self.plugin_options.iter().filter_map(|(name, options)| Some((name.clone(), options.log_level?)));
        Levels { general: self.server.log_level, by_name: own.collect() }
    }

    /// The names of what `[plugin_parms]` gives the constructors of a file; their values may be keys.
    pub fn argument_names(&self, file: &Path) -> Vec<String> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        let text = self.plugin_params.get(&stem).map(String::as_str).unwrap_or_default();
        params::parse(text, &self.plugins_dir).inline.into_iter().map(|(name, _)| name).collect()
    }

    /// The options of a plugin; defaults when it has none.
    pub fn options_of(&self, plugin: &str) -> PluginOptions {
        self.plugin_options.get(&plugin.to_lowercase()).cloned().unwrap_or_default()
    }
}

/// First parts of paths that control routes answer: neither a plugin nor documents can have them.
pub const CONTROL_ROUTES: [&str; 4] = ["plugins", "reload", "load", "unload"];

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, ConfigError> {
        let path = Path::new("/tmp/test.ini");
        let text = format!("[paths]\nplugins=/tmp\n{text}");
        Settings::from_table(&Table::parse_with(&text, path, &|_| None)?, path)
    }

    #[test]
    fn plain_strings_do_where_numbers_and_truths_are_wanted() {
        let found = settings("[Network]\nport=81\nbindto=0.0.0.0\n[server]\ndebug=enabled\n").expect("good");
        assert_eq!(found.listen, [ListenAddress::Tcp(SocketAddr::from(([0, 0, 0, 0], 81)))]);
        assert!(found.server.debug);
    }

    #[test]
    fn errors_name_file_line_section_key_and_remedy() {
        let message = settings("[network]\nport=http\n").expect_err("bad port").to_string();
        assert_eq!(message, "/tmp/test.ini:4: [network] port: `http` will not do; give a whole number from 0 to 65535");
        let message = settings("[auth]\napikey=\n").expect_err("empty key").to_string();
        assert!(message.contains("[auth] apikey") && message.contains("empty"), "{message}");
    }

    #[test]
    fn a_misspelt_key_is_a_warning_with_the_nearest_one() {
        let found = settings("[limits]\nbdy=1\n").expect("good");
        assert!(found.warnings[0].contains("did you mean `body`"), "{:?}", found.warnings);
    }

    #[test]
    fn plugin_options_are_checked() {
        let found = settings("[plugin_options]\nSlow=threads=8&reload=restart\n").expect("good");
        assert_eq!(
            found.options_of("slow"),
            PluginOptions { threads: 8, restart_on_reload: true, ..PluginOptions::default() }
        );
        let found = settings("[plugin_options]\nslow=timeout=2.5&cancel_on_disconnect=1\n").expect("good");
        let options = found.options_of("slow");
        assert_eq!((options.timeout, options.cancel_on_disconnect), (Some(Duration::from_millis(2500)), true));
        assert!(settings("[plugin_options]\nslow=timeout=soon\n").is_err());
        assert!(settings("[plugin_options]\nslow=threads=none\n").is_err());
    }
}
