//! The settings in force as an INI file: defaults filled in, references resolved, keys masked.

use std::fmt;
use std::path::Path;

use super::settings::{AccessLogFormat, BodyMode, Scheduling, Settings};
use super::{Config, Value, keys};

const MASK: &str = "***";

/// Parts of key names whose values are nobody's business.
const SECRET_NAMES: [&str; 8] = ["apikey", "authorization", "credential", "pass", "private", "pwd", "secret", "token"];

/// A known key shorter than this is masked only where it stands alone: in other text it may be there by chance.
const LEAST_KEY_IN_TEXT: usize = 4;

type Lines = Vec<(&'static str, Option<String>)>;

impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "# The settings in force from {}; a key after a semicolon is not set.",
            self.source.path.display()
        )?;
        for (section, lines) in own_sections(&self.settings) {
            writeln!(formatter, "\n[{section}]")?;
            for (key, value) in lines {
                match value {
                    Some(value) => writeln!(formatter, "{key} = {}", escaped(&value))?,
                    None => writeln!(formatter, ";{key} =")?,
                }
            }
        }
        self.write_by_plugin(formatter)?;
        self.write_other_sections(formatter)
    }
}

impl Config {
    /// The user's own sections, resolved.
    fn write_other_sections(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.table.sections {
            if keys::section_names().any(|name| name.eq_ignore_ascii_case(section.name.trim())) {
                continue;
            }
            writeln!(formatter, "\n[{}]", section.name)?;
            for entry in &section.entries {
                let text = if is_secret_name(&entry.key) {
                    MASK.to_owned()
                } else {
                    self.without_keys(&typed(&entry.resolved.value))
                };
                writeln!(formatter, "{} = {}", entry.key, escaped(&text))?;
            }
        }
        Ok(())
    }

    /// Text of the user's own with every key that the server knows masked, and passwords in addresses.
    fn without_keys(&self, text: &str) -> String {
        let mut masked = text.to_owned();
        for key in self.settings.known_keys() {
            if masked == key {
                return MASK.to_owned();
            }
            if key.len() >= LEAST_KEY_IN_TEXT {
                masked = masked.replace(&key, MASK);
            }
        }
        without_passwords(&masked)
    }
}

/// `scheme://user:password@host` without the password (RFC 3986, 3.2.1).
fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '&')).unwrap_or(after.len());
        rest = match after[..end]
            .rsplit_once('@')
            .and_then(|(user, _)| user.split_once(':').map(|(name, _)| (name, user.len())))
        {
            Some((name, length)) => {
                shown.push_str(&format!("{name}:{MASK}"));
                &after[length..]
            }
            None => after,
        };
    }
    shown + rest
}

/// Whether what goes by this name is nobody's business.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace(['-', '.'], "_");
    name == "key" || name.ends_with("_key") || SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// A value as it must be written to be of its type again.
fn typed(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => format!("int:{number}"),
        Value::Float(number) => format!("float:{number}"),
        Value::Bool(truth) => format!("bool:{truth}"),
        Value::List(items) => format!("list:{}", items.iter().map(typed).collect::<Vec<_>>().join(" ")),
    }
}

/// The server's own sections with every key, in the order of the documentation.
fn own_sections(settings: &Settings) -> Vec<(&'static str, Lines)> {
    let path = |path: &Path| path.display().to_string();
    let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(" "));
    let hosts: Vec<String> = settings
        .listen
        .iter()
        .map(|address| match address {
            super::settings::ListenAddress::Tcp(address) => address.ip().to_string(),
            unix => unix.to_string(),
        })
        .collect();
    let (port, mode) = settings.port_and_mode();
    let (server, limits) = (&settings.server, &settings.limits);
    let documents = settings.documents.as_ref();
    let seconds = |time: std::time::Duration| Some(time.as_secs_f64().to_string());
    vec![
        (
            "network",
            vec![
                ("bindto", Some(hosts.join(" "))),
                ("port", port.map(|port| port.to_string())),
                ("socket_mode", mode.map(|mode| format!("{mode:o}"))),
            ],
        ),
        (
            "paths",
            vec![
                ("plugins", Some(path(&settings.plugins_dir))),
                ("documents", documents.map(|found| format!("{}:{}", found.route, found.folder.display()))),
                ("indexfile", documents.map(|found| found.index_file.clone())),
                ("pidfile", settings.pidfile.as_deref().map(path)),
            ],
        ),
        ("auth", vec![("apikey", settings.global_key.as_ref().map(|_| MASK.to_owned()))]),
        (
            "SSL",
            vec![
                ("enabled", Some(settings.tls.is_some().to_string())),
                ("certfile", settings.tls.as_ref().map(|files| path(&files.certificate))),
                ("keyfile", settings.tls.as_ref().map(|files| path(&files.key))),
            ],
        ),
        (
            "cors",
            vec![
                ("enabled", Some(settings.cors.is_some().to_string())),
                ("origin_url", settings.cors.as_ref().and_then(|cors| list(cors.origins.clone()))),
                ("acl", settings.cors.as_ref().and_then(|cors| list(cors.acl.clone()))),
            ],
        ),
        (
            "server",
            vec![
                ("workers", Some(server.workers.to_string())),
                ("io_threads", Some(server.io_threads.to_string())),
                (
                    "scheduling",
                    Some(if server.scheduling == Scheduling::Batch { "batch" } else { "normal" }.to_owned()),
                ),
                ("access_log", server.access_log.as_deref().map(path)),
                ("access_log_format", Some(access_log_format(server.access_log_format).to_owned())),
                ("log_format", Some(server.log_format.name().to_owned())),
                ("log_level", Some(server.log_level.name().to_owned())),
                ("compression", Some(server.compression.to_string())),
                ("debug", Some(server.debug.to_string())),
                ("page", Some(server.page.to_string())),
                ("legacy_status", Some(server.legacy_status.to_string())),
                ("openapi", Some(server.openapi.to_string())),
                ("required_plugins", list(server.required_plugins.clone())),
                ("trusted_proxies", list(server.trusted_proxies.iter().map(ToString::to_string).collect())),
            ],
        ),
        ("python", vec![("venv", settings.python.venv.as_deref().map(path))]),
        (
            "limits",
            vec![
                ("body", Some(limits.max_body_bytes.to_string())),
                ("header_block", Some(limits.max_header_bytes.to_string())),
                ("first_byte_timeout", seconds(limits.first_byte_timeout)),
                ("header_timeout", seconds(limits.header_timeout)),
                ("body_timeout", seconds(limits.body_timeout)),
                ("send_timeout", seconds(limits.send_timeout)),
                ("idle_timeout", seconds(limits.idle_timeout)),
                ("handshake_timeout", seconds(limits.handshake_timeout)),
                ("request_timeout", seconds(limits.request_timeout)),
                ("drain_timeout", seconds(limits.drain_timeout)),
                ("load_timeout", seconds(limits.load_timeout)),
                ("handler_threads", Some(limits.handler_threads.to_string())),
                ("lost_threads", Some(limits.max_lost_threads.to_string())),
                ("waiting_calls", Some(limits.max_waiting_calls.to_string())),
                ("connections", Some(limits.max_connections.to_string())),
                ("connections_per_client", Some(limits.max_connections_per_client.to_string())),
                ("crash_quarantine", Some(limits.crash_quarantine.to_string())),
                ("loop_stall", seconds(limits.loop_stall)),
                ("max_requests", Some(limits.recycling.max_requests.to_string())),
                ("max_memory_mb", Some(limits.recycling.max_memory_mb.to_string())),
                ("max_age", seconds(limits.recycling.max_age)),
            ],
        ),
    ]
}

impl Config {
    fn write_by_plugin(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let mut params: Vec<_> = settings.plugin_params.iter().collect();
        params.sort();
        if !params.is_empty() {
            writeln!(formatter, "\n[plugin_parms]")?;
        }
        for (stem, text) in params {
            let shown = if is_secret_name(stem) { MASK.to_owned() } else { self.without_keys(&masked_query(text)) };
            writeln!(formatter, "{stem} = {}", escaped(&shown))?;
        }
        let mut options: Vec<_> = settings.plugin_options.iter().collect();
        options.sort_by_key(|(name, _)| name.as_str());
        if !options.is_empty() {
            writeln!(formatter, "\n[plugin_options]")?;
        }
        for (name, options) in options {
            let reload = if options.restart_on_reload { "restart" } else { "swap" };
            let body = match options.body {
                Some(BodyMode::Stream) => "&body=stream",
                Some(_) => "&body=read",
                None => "",
            };
            let timeout = options.timeout.map(|limit| format!("&timeout={}", limit.as_secs_f64())).unwrap_or_default();
            let cancel = if options.cancel_on_disconnect { "&cancel_on_disconnect=1" } else { "" };
            let log = options.log_level.map(|level| format!("&log={}", level.name())).unwrap_or_default();
            writeln!(formatter, "{name} = threads={}&reload={reload}{body}{timeout}{cancel}{log}", options.threads)?;
        }
        Ok(())
    }
}

fn access_log_format(format: AccessLogFormat) -> &'static str {
    match format {
        AccessLogFormat::Common => "common",
        AccessLogFormat::Combined => "combined",
        AccessLogFormat::Json => "json",
    }
}

/// Query text with the values of secret names masked.
fn masked_query(text: &str) -> String {
    let is_secret = |name: &str| {
        let decoded: String = form_urlencoded::parse(name.as_bytes()).map(|(name, _)| name.to_lowercase()).collect();
        is_secret_name(&decoded)
    };
    let pieces = text.split('&').map(|piece| match piece.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
        _ => without_passwords(piece),
    });
    pieces.collect::<Vec<_>>().join("&")
}

/// As it must be written to mean itself: dollar signs doubled, line breaks as continuations.
fn escaped(text: &str) -> String {
    text.replace('$', "$$").replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{DefaultValue, Kind, Names, SECTIONS, named_keys};
    use crate::config::settings::PluginOptions;
    use crate::config::{Source, Table};

    fn config(text: &str) -> Config {
        let path = Path::new("/tmp/test.ini");
        let table = Table::parse_with(text, path, &|_| None).expect("good text");
        let settings = Settings::from_table(&table, path).expect("good settings");
        Config { source: Source::of_file(path), text: text.to_owned(), table, settings }
    }

    /// What is shown of a key; `None` when it is not set.
    fn shown(lines: &[(&'static str, Lines)], section: &str, key: &str) -> Option<String> {
        let (_, lines) = lines.iter().find(|(name, _)| *name == section).expect("the section is shown");
        let (_, value) = lines.iter().find(|(name, _)| *name == key).unwrap_or_else(|| {
            panic!("[{section}] {key} stands in the table of keys and is not shown");
        });
        value.clone()
    }

    #[test]
    fn every_key_that_is_shown_stands_in_the_table_of_keys() {
        let known: Vec<_> = named_keys().collect();
        for (section, lines) in own_sections(&config("[paths]\nplugins=/tmp\n").settings) {
            let (_, keys) = known.iter().find(|(known, _)| known.name == section).expect("the section is known");
            for (key, _) in lines {
                assert!(keys.contains(&key), "[{section}] {key} has no line in src/config/keys/table.rs");
            }
        }
    }

    #[test]
    fn defaults_of_the_table_of_keys_are_the_real_ones() {
        let nothing_set = own_sections(&config("[paths]\nplugins=/tmp\n").settings);
        // Keys that mean something only where another one is set.
        let with_others = "[paths]\nplugins=/tmp\ndocuments=d:/tmp\n[network]\nbindto=unix:/tmp/x\n";
        let with_others = own_sections(&config(with_others).settings);
        for section in SECTIONS.iter().filter(|section| matches!(section.names, Names::Ours | Names::AlsoTheirs)) {
            for key in section.keys {
                let is_of_others = matches!(key.name, "indexfile" | "socket_mode");
                let real = shown(if is_of_others { &with_others } else { &nothing_set }, section.name, key.name);
                let title = section.title_of(key);
                match key.default {
                    DefaultValue::Is(default) => assert_eq!(real.as_deref(), Some(default), "{title}"),
                    DefaultValue::Unset => assert_eq!(real, None, "{title}"),
                    DefaultValue::Needed => {
                        let text = format!("[{}]\n", section.name);
                        let table = Table::parse_with(&text, Path::new("x"), &|_| None).expect("good text");
                        let problem = Settings::from_table(&table, Path::new("x")).expect_err("it is needed");
                        assert!(problem.to_string().contains(&title), "{problem}");
                    }
                    DefaultValue::Depends(words) => assert!(!words.is_empty(), "{title}"),
                }
            }
        }
    }

    #[test]
    fn types_of_the_table_of_keys_are_the_real_ones() {
        for section in SECTIONS.iter().filter(|section| section.name != "paths" && section.names != Names::OfFiles) {
            for key in section.keys {
                let text = match section.names {
                    Names::OfPlugins => format!("[{}]\na={}=neither\n", section.name, key.name),
                    _ => format!("[{}]\n{}=neither\n", section.name, key.name),
                };
                let table = Table::parse_with(&format!("[paths]\nplugins=/tmp\n{text}"), Path::new("x"), &|_| None);
                let is_refused = || Settings::from_table(table.as_ref().expect("good text"), Path::new("x")).is_err();
                match key.kind {
                    Kind::Number | Kind::Decimal | Kind::Mode | Kind::OneOf(_) => {
                        assert!(is_refused(), "{} is no {}", section.title_of(key), key.kind);
                    }
                    Kind::Text | Kind::Truth => assert!(!is_refused(), "{} is no {}", section.title_of(key), key.kind),
                    // Networks, addresses and files have checks of their own.
                    Kind::List | Kind::Path => {}
                }
            }
        }
    }

    #[test]
    fn options_of_plugins_have_the_defaults_of_the_table() {
        for key in keys::section("plugin_options").expect("it is there").keys {
            let DefaultValue::Is(default) = key.default else { continue };
            let text = format!("[paths]\nplugins=/tmp\n[plugin_options]\na={}={default}\n", key.name);
            let settings = config(&text).settings;
            assert_eq!(settings.options_of("a"), PluginOptions::default(), "{}", key.name);
            assert_eq!(settings.warnings, Vec::<String>::new(), "{}", key.name);
        }
    }

    #[test]
    fn what_is_shown_means_the_same_and_hides_keys() {
        let text = "[paths]\nplugins=/tmp\n[auth]\napikey=k1\n[plugin_parms]\na=x=1&apikey=k2\n[main]\ntoken=k3\nprice=$$5\n\
                    [plugin_options]\na=threads=3\n[network]\nport=0\nbindto=127.0.0.1 ::1\n";
        let first = config(text);
        let shown = first.to_string();
        assert!(!["k1", "k2", "k3"].iter().any(|key| shown.contains(key)), "{shown}");
        let text = "[paths]\nplugins=/tmp\n[keys]\nmain=sesame\n[auth]\napikey=${keys:main}\n[main]\n\
                    text=say sesame\nurl=mongodb://u:pw1@host/x?a=b http://h/\nplain=http://h:1/x@y\n\
                    [plugin_parms]\na=api%6bey=k22&url=http://u:pw2@h\n";
        let others = config(text).to_string();
        assert!(!["sesame", "k22", "pw1", "pw2"].iter().any(|key| others.contains(key)), "{others}");
        assert!(
            others.contains("url = mongodb://u:***@host/x?a=b http://h/") && others.contains("plain = http://h:1/x@y")
        );
        let again = config(&shown);
        assert_eq!(again.to_string(), shown);
        assert_eq!(again.settings.listen, first.settings.listen);
        assert_eq!(again.settings.limits, first.settings.limits);
    }
}
