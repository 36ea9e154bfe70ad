//! What is wrong, doubtful, or different from the Python program in a configuration and with its plugins.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::report::{FileReport, Level, Report};
use crate::config::keys::{self, Names};
use crate::config::settings::ListenAddress;
use crate::config::{self, Config, Table, ini, value};
use crate::python;
use crate::supervisor::{bind_for_trial, socket_objection};
use crate::web::TlsAcceptor;

/// How alike two names must be for one to be taken for the other.
const LIKENESS: f64 = 0.85;

/// Sections that have a meaning, the user's own `main` included.
fn known_sections() -> Vec<&'static str> {
    keys::section_names().chain(["main", "logging", "file_server", "sessman"]).collect()
}

/// Everything but the plugins.
pub fn of_configuration(config: &Config, report: &mut Report) {
    for warning in &config.settings.warnings {
        report.warning(warning.clone());
    }
    misspelt(&config.table, &config.source.path, report);
    if let Some(venv) = &config.settings.python.venv
        && let Err(problem) = python::check_venv(venv)
    {
        report.error(problem.to_string());
        report.has_errors_of_the_environment = true;
    }
    match TlsAcceptor::load(&config.settings) {
        Ok(_) => {
            for warning in TlsAcceptor::warnings(&config.settings) {
                report.warning(warning);
            }
        }
        Err(problem) => report.error(format!("{problem:#}")),
    }
    let addresses: Vec<ListenAddress> = config.settings.listen.clone();
    let tcp = |address: &&ListenAddress| matches!(address, ListenAddress::Tcp(_));
    let tcp: Vec<ListenAddress> = addresses.iter().filter(tcp).cloned().collect();
    let mut is_taken = false;
    for address in &tcp {
        if let Err(problem) = bind_for_trial(std::slice::from_ref(address)) {
            is_taken = true;
            let kind = problem.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if kind == Some(std::io::ErrorKind::AddrInUse) {
                report.warning(format!("{problem:#} (is a server running there already?)"));
            } else {
                report.error(format!("{problem:#}"));
            }
        }
    }
    if !is_taken && let Err(problem) = bind_for_trial(&tcp) {
        report.error(format!("{problem:#}: not all of the addresses at once"));
    }
    for address in &addresses {
        if let Some(problem) = socket_objection(address) {
            report.error(problem);
        }
    }
    for (name, path) in
        [("[paths] pidfile", &config.settings.pidfile), ("[server] access_log", &config.settings.server.access_log)]
    {
        if let Some(path) = path {
            if !path.parent().is_some_and(Path::is_dir) {
                report.error(format!("{name}: the folder of {} is not there; make it", path.display()));
            } else if path.is_dir() {
                report.error(format!("{name}: {} is a folder; name a file", path.display()));
            }
        }
    }
    different(config, report);
}

/// Keys and sections that look like known ones and are not.
fn misspelt(table: &Table, file: &Path, report: &mut Report) {
    let sections = known_sections();
    for section in &table.sections {
        let name = section.name.trim();
        let known = sections.iter().find(|known| known.eq_ignore_ascii_case(name));
        if known.is_none() {
            if let Some(nearest) = meant(name, sections.iter().copied()) {
                let message = format!("[{name}] means nothing to the server; did you mean [{nearest}]?");
                report.at(Level::Warning, file, section.line, message);
            }
            continue;
        }
        let Some(theirs) = keys::section(name).filter(|section| section.names == Names::AlsoTheirs) else {
            continue;
        };
        let keys = theirs.key_names();
        for entry in section.entries.iter().filter(|entry| !entry.is_default && !keys.contains(&entry.key.as_str())) {
            let hint = meant(&entry.key, keys.iter().copied()).map(|key| format!("; did you mean `{key}`?"));
            let message =
                format!("[{name}] {}: the server does not know this key{}", entry.key, hint.unwrap_or_default());
            report.at(Level::Warning, file, entry.line, message);
        }
    }
}

/// The known name that is like enough to be meant.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    config::nearest(name, known).filter(|(_, likeness)| *likeness >= LIKENESS).map(|(known, _)| known)
}

/// Where the same file means something else than it did.
fn different(config: &Config, report: &mut Report) {
    let line_of = |section: &str, key: &str| Some(config.table.section(section)?.entry(key)?.line);
    let mut note = |line: Option<usize>, message: &str| {
        if let Some(line) = line {
            report.at(Level::Note, &config.source.path, line, message);
        }
    };
    if config.settings.cors.is_none() {
        note(
            line_of("cors", "enabled"),
            "[cors] enabled is false: the Python program allowed cross-origin requests all the same",
        );
    } else {
        note(line_of("cors", "acl"), "[cors] acl: it has an effect here; origins that it does not name get a 403");
    }
    let auth = config.table.section("plugin_parms").into_iter().flat_map(|section| &section.entries);
    for entry in auth {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(entry.resolved.text.as_bytes()).into_owned().collect();
        if pairs.iter().any(|(name, _)| name == "auth") {
            note(
                Some(entry.line),
                "auth= means auth_type= here: the Python program left such a plugin open to everybody",
            );
        }
    }
    if !config.settings.server.legacy_status {
        let message = "answers have the status that the plugin gives, refusals 403 and exceptions 500: the Python program \
                       answered 200 to all of them. Clients that depend on it need [server] legacy_status=bool:true";
        let line = config.table.section("server").map_or(1, |section| section.line);
        report.at(Level::Note, &config.source.path, line, message);
    }
}

/// What only the text as it was written shows.
pub fn of_text(text: &str, file: &Path, report: &mut Report) {
    let Ok(parsed) = ini::parse(text) else {
        return;
    };
    let sections = parsed.sections.iter().map(|section| (section.name.as_str(), &section.entries));
    for (section, entries) in sections.chain([("DEFAULT", &parsed.defaults)]) {
        for entry in entries {
            let Some(word) = entry.value.trim().strip_prefix("bool:").map(str::trim) else {
                continue;
            };
            let was_true = ["true", "enabled", "on", "1", "enable"].contains(&word);
            if value::is_true_word(word) && !was_true {
                let message =
                    format!("[{section}] {}: bool:{word} is true here and was false to the Python program", entry.key);
                report.at(Level::Note, file, entry.line, message);
            }
        }
    }
}

/// Names in the configuration that no plugin goes by, and plugins that work in another way.
pub fn of_plugins(config: &Config, files: &[PathBuf], report: &mut Report) {
    let stems: HashSet<String> = files.iter().map(|file| stem(file).to_lowercase()).collect();
    let ids: HashSet<String> =
        report.files.iter().flat_map(|file| &file.plugins).map(|plugin| plugin.route[1..].to_lowercase()).collect();
    repeated_routes(report);
    let was_run = report.files.iter().any(|file| !file.is_only_read);
    for (section, names, what) in [("plugin_parms", &stems, "plugin file"), ("plugin_options", &ids, "plugin")] {
        if section == "plugin_options" && !was_run {
            continue;
        }
        let entries = config.table.section(section).into_iter().flat_map(|section| &section.entries);
        // A logger may have a level, too; nobody knows here which ones there will be.
        let is_logger = |key: &str| {
            let options = config.settings.plugin_options.get(key).filter(|_| section == "plugin_options");
            options.is_some_and(|options| options.log_level.is_some())
        };
        for entry in entries.filter(|entry| !entry.is_default && !names.contains(&entry.key) && !is_logger(&entry.key))
        {
            let hint =
                meant(&entry.key, names.iter().map(String::as_str)).map(|name| format!("; did you mean `{name}`?"));
            let message =
                format!("[{section}] {}: there is no {what} of that name{}", entry.key, hint.unwrap_or_default());
            report.at(Level::Warning, &config.source.path, entry.line, message);
        }
    }
    if let Some(documents) = &config.settings.documents
        && ids.contains(&documents.route.to_lowercase())
    {
        report
            .warning(format!("/{} is a plugin's, so that the documents of that route are not served", documents.route));
    }
    let plain: Vec<String> = plain_routes(&report.files);
    if !plain.is_empty() {
        let message = format!(
            "plain handlers run on threads, one call at a time for each plugin unless [plugin_options] name=threads=N: {}",
            plain.join(", ")
        );
        report.note(message);
    }
    if files.is_empty() {
        report.warning(format!("no plugin files in {}", config.settings.plugins_dir.display()));
    }
}

/// Two files of one child are told apart by the server itself; a crash between them makes it two children.
fn repeated_routes(report: &mut Report) {
    let mut served: HashMap<String, String> = HashMap::new();
    let mut refused = Vec::new();
    for file in &report.files {
        for plugin in &file.plugins {
            match served.get(&plugin.route) {
                Some(first) => refused.push(format!(
                    "{} of {} is served by {first} already; give one of the two another route_path",
                    plugin.route,
                    file.file.display()
                )),
                None => {
                    served.insert(plugin.route.clone(), file.file.display().to_string());
                }
            }
        }
    }
    for message in refused {
        report.error(message);
    }
}

fn plain_routes(files: &[FileReport]) -> Vec<String> {
    let plugins = files.iter().flat_map(|file| &file.plugins);
    plugins.filter(|plugin| !plugin.is_async).map(|plugin| plugin.route.clone()).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
