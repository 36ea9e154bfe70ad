//! What the configuration means to the server: defaults, checks, and the nearest known key for a misspelt one.
//! How a single value is looked up and read stands in `lookup.rs`.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::lookup::{Reader, absolute, to_usize};
use super::{ConfigError, Secret, Table};

/// The port when `[network] port` is not set.
const DEFAULT_PORT: u16 = 9192;

/// What an item of `bindto` begins with that names a Unix socket.
const UNIX_PREFIX: &str = "unix:";

/// The mode of a Unix socket when `[network] socket_mode` is not set: its user and group may connect.
const DEFAULT_SOCKET_MODE: u32 = 0o660;

/// Where a bare folder of documents is served.
const DEFAULT_DOCUMENTS_ROUTE: &str = "doc";

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// A Unix socket, and who may connect: the mode of its file.
    Unix {
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
    /// Threads that do the HTTP; they never wait for Python.
    pub io_threads: usize,
    pub scheduling: Scheduling,
    pub access_log: Option<PathBuf>,
    /// Whether answers are compressed for clients that take it.
    pub compression: bool,
    /// Puts tracebacks into error replies.
    pub debug: bool,
    /// Answers 200 to everything but a response object's own status, as the Python program did.
    pub legacy_status: bool,
    /// Peers whose `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[server] scheduling`: whether threads that wake each other take the core from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    Batch,
    Normal,
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
    /// How long a connection may stand without a complete request head.
    pub idle_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a stop or a reload waits for calls that still run.
    pub drain_timeout: Duration,
    /// How long a plugin's `initialize` may take.
    pub load_timeout: Duration,
    /// Threads for plain handlers, all plugins together.
    pub handler_threads: usize,
    /// Calls of one plugin that may run or wait; the next one is refused.
    pub max_waiting_calls: usize,
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
        Self { threads: 1, restart_on_reload: false, body: None }
    }
}

impl Settings {
    /// Checks the table. Errs on the first value that cannot work.
    pub fn from_table(table: &Table, file: &Path) -> Result<Self, ConfigError> {
        let reader = Reader { table, file };
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

    /// The options of a plugin; defaults when it has none.
    pub fn options_of(&self, plugin: &str) -> PluginOptions {
        self.plugin_options.get(&plugin.to_lowercase()).cloned().unwrap_or_default()
    }
}

/// The sections that came with this server, with their keys: an unknown key in one of them is a warning.
pub const OWN_SECTIONS: [(&str, &[&str]); 3] = [
    ("server", &["io_threads", "scheduling", "access_log", "compression", "debug", "legacy_status", "trusted_proxies"]),
    ("python", &["venv"]),
    (
        "limits",
        &[
            "body",
            "header_block",
            "idle_timeout",
            "handshake_timeout",
            "drain_timeout",
            "load_timeout",
            "handler_threads",
            "waiting_calls",
        ],
    ),
];

/// The sections that the Python program has too, with their keys. Others in them may be the user's own.
pub const OLD_SECTIONS: [(&str, &[&str]); 5] = [
    ("network", &["bindto", "port", "socket_mode"]),
    ("paths", &["plugins", "documents", "indexfile", "pidfile"]),
    ("SSL", &["enabled", "certfile", "keyfile"]),
    ("auth", &["apikey"]),
    ("cors", &["enabled", "origin_url", "acl"]),
];

const PLUGIN_OPTIONS: [&str; 3] = ["threads", "reload", "body"];

impl Reader<'_> {
    fn listen_addresses(&self) -> Result<Vec<ListenAddress>, ConfigError> {
        let port = self.number("network", "port", u64::from(DEFAULT_PORT), (0, 65535))?;
        let port = u16::try_from(port).expect("checked to be a port");
        let mode = self.socket_mode()?;
        let mut hosts = self.items("network", "bindto", &[',']);
        if hosts.is_empty() {
            hosts.push("127.0.0.1".to_owned());
        }
        let mut addresses = Vec::new();
        for host in &hosts {
            let address = match host.strip_prefix(UNIX_PREFIX) {
                None => ListenAddress::Tcp(self.resolve_host(host, port)?),
                Some(path) => ListenAddress::Unix { path: self.socket_path(path)?, mode },
            };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    fn socket_path(&self, text: &str) -> Result<PathBuf, ConfigError> {
        let path = self.created_path(text);
        let folder = path.parent().filter(|folder| folder.is_dir());
        if text.is_empty() || folder.is_none() {
            let message = format!("`unix:{text}` lies in no folder; give for example unix:/run/pserve.sock");
            return Err(self.error("network", "bindto", message));
        }
        Ok(path)
    }

    fn socket_mode(&self) -> Result<u32, ConfigError> {
        let Some(text) = self.text("network", "socket_mode") else {
            return Ok(DEFAULT_SOCKET_MODE);
        };
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| {
            self.error(
                "network",
                "socket_mode",
                format!("`{text}` is no file mode; give three octal digits, as in 660"),
            )
        })
    }

    fn resolve_host(&self, host: &str, port: u16) -> Result<SocketAddr, ConfigError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare == "*" {
            return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, port));
        }
        let found = (bare, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        // A name such as localhost stands for one machine: its IPv4 address is what clients of old files use.
        let first = found.iter().find(|address| address.is_ipv4()).or(found.first()).copied();
        first.ok_or_else(|| {
            let message = format!(
                "`{host}` is no address of this machine; give for example 127.0.0.1, 0.0.0.0 or unix:/run/pserve.sock"
            );
            self.error("network", "bindto", message)
        })
    }

    fn plugins_dir(&self) -> Result<PathBuf, ConfigError> {
        let Some(text) = self.text("paths", "plugins") else {
            return Err(self.error("paths", "plugins", "is missing; name the folder with your plugin files"));
        };
        let folder = self.existing_path(text);
        if !folder.is_dir() {
            let message = format!("`{text}` is not a folder; name the folder with your plugin files");
            return Err(self.error("paths", "plugins", message));
        }
        folder.canonicalize().map_err(|problem| self.error("paths", "plugins", format!("`{text}`: {problem}")))
    }

    /// `route:folder`, or a bare folder, which is served under `/doc`.
    fn documents(&self) -> Result<Option<Documents>, ConfigError> {
        let Some(text) = self.text("paths", "documents") else {
            return Ok(None);
        };
        let (route, folder) = text.split_once(':').unwrap_or((DEFAULT_DOCUMENTS_ROUTE, text));
        let route = route.trim().trim_matches('/');
        let refuse = |message: String| self.error("paths", "documents", message);
        if route.is_empty() {
            return Err(refuse(format!("`{text}` names no route; give route:folder, for example docs:/srv/docs")));
        }
        let found = self.existing_path(folder.trim());
        if !found.is_dir() {
            return Err(refuse(format!("`{folder}` is not a folder; give route:folder, for example docs:/srv/docs")));
        }
        let folder = found.canonicalize().map_err(|problem| refuse(format!("`{folder}`: {problem}")))?;
        let index_file = self.text("paths", "indexfile").unwrap_or("index.html").to_owned();
        Ok(Some(Documents { route: route.to_owned(), folder, index_file }))
    }

    fn venv(&self) -> Result<Option<PathBuf>, ConfigError> {
        let Some(text) = self.text("python", "venv") else {
            return Ok(std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from));
        };
        let folder = self.existing_path(text);
        if !folder.join("pyvenv.cfg").is_file() {
            let message = format!("`{text}` is not a virtual environment; make one with `python3 -m venv {text}`");
            return Err(self.error("python", "venv", message));
        }
        Ok(Some(absolute(&folder)))
    }

    fn global_key(&self) -> Result<Option<Secret>, ConfigError> {
        let Some((_, entry)) = self.entry("auth", "apikey") else {
            return Ok(None);
        };
        let secret = Secret::new(entry.resolved.text.clone());
        secret.map(Some).ok_or_else(|| {
            self.error("auth", "apikey", "is empty, which would be an open door; give a key or remove the line")
        })
    }

    fn texts_by_lower_key(&self, section: &str) -> HashMap<String, String> {
        let entries = self.table.section(section).into_iter().flat_map(|section| &section.entries);
        entries.map(|entry| (entry.key.clone(), entry.resolved.text.clone())).collect()
    }

    fn plugin_options(&self, warnings: &mut Vec<String>) -> Result<HashMap<String, PluginOptions>, ConfigError> {
        let mut by_plugin = HashMap::new();
        let section = self.table.section("plugin_options");
        for entry in section.into_iter().flat_map(|section| &section.entries).filter(|entry| !entry.is_default) {
            let mut options = PluginOptions::default();
            for (name, option) in form_urlencoded::parse(entry.resolved.text.as_bytes()) {
                let refuse = |what: &str| {
                    self.error("plugin_options", &entry.key, format!("{name}={option} will not do; {what}"))
                };
                match name.as_ref() {
                    "threads" => {
                        let threads = option.parse().ok().filter(|threads| (1..=1000).contains(threads));
                        options.threads = threads.ok_or_else(|| refuse("give threads=N from 1 to 1000"))?;
                    }
                    "reload" => {
                        options.restart_on_reload = match option.as_ref() {
                            "restart" => true,
                            "swap" => false,
                            _ => return Err(refuse("give reload=swap or reload=restart")),
                        }
                    }
                    "body" => {
                        options.body = match option.as_ref() {
                            "read" => Some(BodyMode::Read),
                            "stream" => Some(BodyMode::Stream),
                            _ => return Err(refuse("give body=read or body=stream")),
                        }
                    }
                    _ => warnings.push(self.unknown("plugin_options", &name, &PLUGIN_OPTIONS, entry.line)),
                }
            }
            by_plugin.insert(entry.key.clone(), options);
        }
        Ok(by_plugin)
    }

    fn server(&self) -> Result<ServerSettings, ConfigError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        Ok(ServerSettings {
            io_threads: to_usize(self.number("server", "io_threads", cores as u64, (1, 256))?),
            scheduling: match self.text("server", "scheduling").unwrap_or("batch") {
                "batch" => Scheduling::Batch,
                "normal" => Scheduling::Normal,
                other => {
                    return Err(self.error("server", "scheduling", format!("`{other}` is neither batch nor normal")));
                }
            },
            access_log: self.path_to_create("server", "access_log"),
            compression: self.entry("server", "compression").is_none() || self.truth("server", "compression"),
            debug: self.truth("server", "debug"),
            legacy_status: self.truth("server", "legacy_status"),
            trusted_proxies: self.trusted_proxies()?,
        })
    }

    fn trusted_proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        let mut items = self.items("server", "trusted_proxies", &[',']);
        if self.entry("server", "trusted_proxies").is_none() {
            items = vec!["127.0.0.0/8".to_owned(), "::1".to_owned()];
        }
        items
            .iter()
            .map(|item| {
                let network = item.parse::<IpNet>().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from));
                network.ok_or_else(|| {
                    let message = format!("`{item}` is no network; give for example list:10.0.0.0/8 192.168.1.7");
                    self.error("server", "trusted_proxies", message)
                })
            })
            .collect()
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let size = |key, default, least| self.number("limits", key, default, (least, 1 << 40)).map(to_usize);
        let count = |key, default, most| self.number("limits", key, default, (1, most)).map(to_usize);
        Ok(Limits {
            max_body_bytes: size("body", 1 << 20, 0)?,
            // The read buffer holds the whole head; it cannot be smaller than this.
            max_header_bytes: size("header_block", 64 << 10, 8 << 10)?,
            idle_timeout: self.seconds("limits", "idle_timeout", 75.0)?,
            handshake_timeout: self.seconds("limits", "handshake_timeout", 10.0)?,
            drain_timeout: self.seconds("limits", "drain_timeout", 10.0)?,
            load_timeout: self.seconds("limits", "load_timeout", 60.0)?,
            handler_threads: count("handler_threads", 40, 10_000)?,
            max_waiting_calls: count("waiting_calls", 10_000, 10_000_000)?,
        })
    }

    fn tls(&self) -> Result<Option<TlsFiles>, ConfigError> {
        if !self.truth("SSL", "enabled") {
            return Ok(None);
        }
        let file = |key: &str, what: &str| {
            let text = self.text("SSL", key);
            let missing = || self.error("SSL", key, format!("is missing; name the PEM file with the {what}"));
            text.map(|text| self.existing_path(text)).ok_or_else(missing)
        };
        Ok(Some(TlsFiles { certificate: file("certfile", "certificate")?, key: file("keyfile", "private key")? }))
    }

    fn cors(&self) -> Option<CorsSettings> {
        let list = |key: &str| self.items("cors", key, &['|', ',']);
        self.truth("cors", "enabled").then(|| CorsSettings { origins: list("origin_url"), acl: list("acl") })
    }

    /// One of the two would silently not count.
    fn refuse_sections_that_differ_by_case(&self) -> Result<(), ConfigError> {
        let ours =
            ["network", "paths", "ssl", "auth", "plugin_parms", "cors", "server", "python", "limits", "plugin_options"];
        for name in ours {
            let mut same = self.table.sections.iter().filter(|section| section.name.trim().eq_ignore_ascii_case(name));
            if let (Some(first), Some(second)) = (same.next(), same.next()) {
                return Err(ConfigError {
                    file: self.file.to_owned(),
                    line: Some(second.line),
                    place: None,
                    message: format!(
                        "[{}] and [{}] (line {}) mean the same section; join the two",
                        second.name, first.name, first.line
                    ),
                });
            }
        }
        Ok(())
    }

    fn warn_of_unknown_keys(&self, warnings: &mut Vec<String>) {
        for (name, known) in OWN_SECTIONS {
            let section = self.table.section(name);
            for entry in section.into_iter().flat_map(|section| &section.entries).filter(|entry| !entry.is_default) {
                if !known.contains(&entry.key.as_str()) {
                    warnings.push(self.unknown(name, &entry.key, known, entry.line));
                }
            }
        }
    }

    fn unknown(&self, section: &str, key: &str, known: &[&str], line: usize) -> String {
        let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
        let file = self.file.display();
        format!("{file}:{line}: [{section}] {key}: unknown; did you mean `{}`?", nearest.unwrap_or(&""))
    }
}

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
        assert_eq!(found.options_of("slow"), PluginOptions { threads: 8, restart_on_reload: true, body: None });
        assert!(settings("[plugin_options]\nslow=threads=none\n").is_err());
    }
}
