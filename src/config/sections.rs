//! Each section of the table -> its part of the settings: defaults, checks, and what to say when a value cannot work.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use ipnet::IpNet;

use super::keys::{self, Names};
use super::lookup::{self, Reader, absolute, nearest, to_usize};
use super::settings::{
    AccessLogFormat, BodyMode, CONTROL_ROUTES, CorsSettings, Documents, Limits, ListenAddress, PluginOptions,
    Recycling, Scheduling, ServerSettings, TlsFiles, UNIX_PREFIX,
};
use super::{ConfigError, Secret, value};
use crate::logging::{Format, Severity};

/// The port when `[network] port` is not set.
const DEFAULT_PORT: u16 = 9192;

/// The mode of a Unix socket when `[network] socket_mode` is not set: its user and group may connect.
const DEFAULT_SOCKET_MODE: u32 = 0o660;

/// Where a bare folder of documents is served.
const DEFAULT_DOCUMENTS_ROUTE: &str = "doc";

impl Reader<'_> {
    pub(super) fn listen_addresses(&self) -> Result<Vec<ListenAddress>, ConfigError> {
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
        if text.is_empty() || (self.insists_on_files && folder.is_none()) {
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

    pub(super) fn plugins_dir(&self) -> Result<PathBuf, ConfigError> {
        let Some(text) = self.text("paths", "plugins") else {
            return Err(self.error("paths", "plugins", "is missing; name the folder with your plugin files"));
        };
        let folder = self.existing_path(text);
        if !folder.is_dir() {
            if !self.insists_on_files {
                return Ok(folder);
            }
            let message = format!("`{text}` is not a folder; name the folder with your plugin files");
            return Err(self.error("paths", "plugins", message));
        }
        folder.canonicalize().map_err(|problem| self.error("paths", "plugins", format!("`{text}`: {problem}")))
    }

    /// `route:folder`, or a bare folder, which is served under `/doc`.
    pub(super) fn documents(&self) -> Result<Option<Documents>, ConfigError> {
        let Some(text) = self.text("paths", "documents") else {
            return Ok(None);
        };
        let (route, folder) = text.split_once(':').unwrap_or((DEFAULT_DOCUMENTS_ROUTE, text));
        let route = route.trim().trim_matches('/');
        let refuse = |message: String| self.error("paths", "documents", message);
        if CONTROL_ROUTES.contains(&route.split('/').next().unwrap_or_default()) {
            return Err(refuse(format!("/{route} is a control route; give the documents another")));
        }
        if folder.trim().is_empty() {
            let message = format!("`{text}` names no folder; give route:folder, for example docs:/srv/docs");
            return Err(refuse(message));
        }
        if route.is_empty() {
            return Err(refuse(format!("`{text}` names no route; give route:folder, for example docs:/srv/docs")));
        }
        let found = self.existing_path(folder.trim());
        if !found.is_dir() && self.insists_on_files {
            return Err(refuse(format!("`{folder}` is not a folder; give route:folder, for example docs:/srv/docs")));
        }
        let folder = match found.canonicalize() {
            Ok(folder) => folder,
            Err(_) if !self.insists_on_files => found,
            Err(problem) => return Err(refuse(format!("`{folder}`: {problem}"))),
        };
        let index_file = self.text("paths", "indexfile").unwrap_or("index.html").to_owned();
        Ok(Some(Documents { route: route.to_owned(), folder, index_file }))
    }

    pub(super) fn venv(&self) -> Result<Option<PathBuf>, ConfigError> {
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

    pub(super) fn global_key(&self) -> Result<Option<Secret>, ConfigError> {
        let Some((_, entry)) = self.entry("auth", "apikey") else {
            return Ok(None);
        };
        let secret = Secret::new(entry.resolved.text.clone());
        secret.map(Some).ok_or_else(|| {
            self.error("auth", "apikey", "is empty, which would be an open door; give a key or remove the line")
        })
    }

    pub(super) fn texts_by_lower_key(&self, section: &str) -> HashMap<String, String> {
        let entries = self.table.section(section).into_iter().flat_map(|section| &section.entries);
        entries.map(|entry| (entry.key.clone(), entry.resolved.text.clone())).collect()
    }

    pub(super) fn plugin_options(
        &self,
        warnings: &mut Vec<String>,
    ) -> Result<HashMap<String, PluginOptions>, ConfigError> {
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
                    "timeout" => {
                        let seconds = lookup::parse_seconds(&option);
                        options.timeout = Some(seconds.ok_or_else(|| refuse("give timeout=SECONDS"))?);
                    }
                    "cancel_on_disconnect" => options.cancel_on_disconnect = value::is_true_word(&option),
                    "log" => {
                        let level = Severity::from_name(&option);
                        let what = || refuse(&format!("give log=LEVEL: {}", Severity::NAMES));
                        options.log_level = Some(level.ok_or_else(what)?);
                    }
                    _ => {
                        let known = keys::section("plugin_options").map(|section| section.key_names());
                        warnings.push(self.unknown("plugin_options", &name, &known.unwrap_or_default(), entry.line));
                    }
                }
            }
            by_plugin.insert(entry.key.clone(), options);
        }
        Ok(by_plugin)
    }

    pub(super) fn server(&self) -> Result<ServerSettings, ConfigError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        Ok(ServerSettings {
            workers: to_usize(self.number("server", "workers", 1, (1, 256))?),
            io_threads: to_usize(self.number("server", "io_threads", cores as u64, (1, 256))?),
            scheduling: match self.text("server", "scheduling").unwrap_or("batch") {
                "batch" => Scheduling::Batch,
                "normal" => Scheduling::Normal,
                other => {
                    return Err(self.error("server", "scheduling", format!("`{other}` is neither batch nor normal")));
                }
            },
            access_log: self.path_to_create("server", "access_log"),
            access_log_format: self.access_log_format()?,
            log_format: self.log_format()?,
            log_level: self.log_level()?,
            compression: self.entry("server", "compression").is_none() || self.truth("server", "compression"),
            debug: self.truth("server", "debug"),
            page: self.truth("server", "page"),
            legacy_status: self.truth("server", "legacy_status"),
            openapi: self.entry("server", "openapi").is_none() || self.truth("server", "openapi"),
            required_plugins: self.items("server", "required_plugins", &[',']),
            trusted_proxies: self.trusted_proxies()?,
        })
    }

    fn access_log_format(&self) -> Result<AccessLogFormat, ConfigError> {
        let text = self.text("server", "access_log_format").unwrap_or("combined");
        match text.to_lowercase().as_str() {
            "common" => Ok(AccessLogFormat::Common),
            "combined" => Ok(AccessLogFormat::Combined),
            "json" => Ok(AccessLogFormat::Json),
            _ => {
                let message = format!("`{text}` will not do; give common, combined or json");
                Err(self.error("server", "access_log_format", message))
            }
        }
    }

    fn log_format(&self) -> Result<Format, ConfigError> {
        let Some(text) = self.text("server", "log_format") else { return Ok(Format::default()) };
        Format::from_name(text)
            .ok_or_else(|| self.error("server", "log_format", format!("`{text}` will not do; give {}", Format::NAMES)))
    }

    fn log_level(&self) -> Result<Severity, ConfigError> {
        let Some(text) = self.text("server", "log_level") else { return Ok(Severity::Info) };
        Severity::from_name(text)
            .ok_or_else(|| self.error("server", "log_level", format!("`{text}` will not do; give {}", Severity::NAMES)))
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

    pub(super) fn limits(&self) -> Result<Limits, ConfigError> {
        let size = |key, default, least| self.number("limits", key, default, (least, 1 << 40)).map(to_usize);
        let count = |key, default, most| self.number("limits", key, default, (1, most)).map(to_usize);
        Ok(Limits {
            max_body_bytes: size("body", 1 << 20, 0)?,
            // The read buffer holds the whole head; it cannot be smaller than this.
            max_header_bytes: size("header_block", 64 << 10, 8 << 10)?,
            first_byte_timeout: self.seconds("limits", "first_byte_timeout", 30.0)?,
            header_timeout: self.seconds("limits", "header_timeout", 10.0)?,
            body_timeout: self.seconds("limits", "body_timeout", 30.0)?,
            send_timeout: self.seconds("limits", "send_timeout", 60.0)?,
            idle_timeout: self.seconds("limits", "idle_timeout", 75.0)?,
            handshake_timeout: self.seconds("limits", "handshake_timeout", 10.0)?,
            request_timeout: self.seconds("limits", "request_timeout", 0.0)?,
            drain_timeout: self.seconds("limits", "drain_timeout", 10.0)?,
            load_timeout: self.seconds("limits", "load_timeout", 60.0)?,
            handler_threads: count("handler_threads", 40, 10_000)?,
            max_lost_threads: count("lost_threads", 20, 10_000)?,
            max_waiting_calls: count("waiting_calls", 10_000, 10_000_000)?,
            max_connections: count("connections", 10_000, 10_000_000)?,
            max_connections_per_client: size("connections_per_client", 0, 0)?,
            crash_quarantine: size("crash_quarantine", 3, 0)?,
            loop_stall: self.seconds("limits", "loop_stall", 30.0)?,
            recycling: Recycling {
                max_requests: self.number("limits", "max_requests", 0, (0, 1 << 50))?,
                max_memory_mb: self.number("limits", "max_memory_mb", 0, (0, 1 << 30))?,
                max_age: self.seconds("limits", "max_age", 0.0)?,
            },
        })
    }

    pub(super) fn tls(&self) -> Result<Option<TlsFiles>, ConfigError> {
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

    pub(super) fn cors(&self) -> Option<CorsSettings> {
        let list = |key: &str| self.items("cors", key, &['|', ',']);
        self.truth("cors", "enabled").then(|| CorsSettings { origins: list("origin_url"), acl: list("acl") })
    }

    /// One of the two would silently not count.
    pub(super) fn refuse_sections_that_differ_by_case(&self) -> Result<(), ConfigError> {
        for name in keys::section_names() {
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

    pub(super) fn warn_of_unknown_keys(&self, warnings: &mut Vec<String>) {
        for (ours, known) in keys::named_keys().filter(|(section, _)| section.names == Names::Ours) {
            let section = self.table.section(ours.name);
            for entry in section.into_iter().flat_map(|section| &section.entries).filter(|entry| !entry.is_default) {
                if !known.contains(&entry.key.as_str()) {
                    warnings.push(self.unknown(ours.name, &entry.key, &known, entry.line));
                }
            }
        }
    }

    fn unknown(&self, section: &str, key: &str, known: &[&str], line: usize) -> String {
        let (nearest, _) = nearest(key, known.iter().copied()).unwrap_or_default();
        let file = self.file.display();
        format!("{file}:{line}: [{section}] {key}: unknown; did you mean `{nearest}`?")
    }
}
