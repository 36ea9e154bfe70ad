//! `pserve plugins`: what is loaded, where from, under which route, with which fields: from the running server, or from
//! the files where none runs.

mod table;

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Serialize;
use serde_json::{Value, json};

use crate::check::{self, FileReport, Way};
use crate::cli::PluginsArguments;
use crate::client::{Client, ClientError, Response};
use crate::config::Config;
use crate::config::live::hide_keys;
use crate::palette::Palette;
use crate::{exit_status, logging, plugins};

/// Every file with what it serves.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// `server` or `files`.
    source: &'static str,
    /// The server's address, or the folder.
    place: String,
    ini_file: Option<PathBuf>,
    plugins: Vec<Entry>,
    files: Vec<FileEntry>,
}

/// One plugin.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    route: String,
    state: State,
    file: String,
    line: Option<u64>,
    class: String,
    /// Which key a call needs.
    key: String,
    #[serde(rename = "async")]
    is_async: bool,
    /// Beside the usual ones.
    methods: Vec<String>,
    description: String,
    /// As in `/plugins?verbose=1`.
    parameters: Value,
    /// Names of what `[plugin_parms]` gives its constructor: the values may be keys.
    arguments: Vec<String>,
}

/// One file.
#[derive(Debug, Serialize)]
struct FileEntry {
    file: String,
    plugins: Vec<String>,
    /// `type`, `message`, `file` and `line` of what went wrong when it was last loaded.
    error: Option<Value>,
}

/// How a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// The server serves it.
    Serving,
    /// The server serves it as it was before: its file does not load any more.
    Outdated,
    /// It would load.
    Loads,
}

/// The list as text. Errs when there is none to be had.
pub fn text(arguments: &PluginsArguments, config: &Config) -> anyhow::Result<String> {
    hide_keys(config);
    let listing = listing(arguments, config)?;
    let text = if arguments.json {
        format!("{}\n", serde_json::to_string_pretty(&listing)?)
    } else {
        table::text(&listing, Palette::of_stdout())
    };
    // What plugins raise may hold a key.
    Ok(logging::without_secrets(&text))
}

fn listing(arguments: &PluginsArguments, config: &Config) -> anyhow::Result<Listing> {
    // Without an INI file nobody says where a server would be, and a folder that is named is asked for itself.
    if arguments.files || arguments.folder.is_some() || !config.source.has_file {
        return of_files(config);
    }
    let answered = Client::for_settings(&config.settings)
        .and_then(|client| Ok((client.place(), client.get("/plugins?verbose=1")?)));
    match answered {
        Ok((place, answer)) => of_server(config, place, &answer),
        Err(problem @ (ClientError::NoPort | ClientError::Unreachable { .. })) => {
            exit_status::complain(&format!("{problem} (the files are listed as they are now)"));
            of_files(config)
        }
        Err(problem) => Err(problem.into()),
    }
}

fn of_server(config: &Config, place: String, answer: &Response) -> anyhow::Result<Listing> {
    if answer.status == 403 {
        bail!("the server at {place} does not take the key of the INI file; it may need a SIGHUP to take a new one up");
    }
    let list: Option<Value> = answer.json().ok().filter(|_| answer.is_success());
    let Some(files) = list.as_ref().and_then(|list| list["files"].as_array()) else {
        bail!("what answers at {place} is no pserve: it has no list of plugins (status {})", answer.status);
    };
    let mut listing = Listing::new("server", place, config);
    for file in files {
        let path = text_of(&file["file"]);
        let error = Some(&file["error"]).filter(|error| !error.is_null());
        let served = file["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
        for plugin in served {
            listing.plugins.push(Entry {
                name: text_of(&plugin["name"]),
                route: text_of(&plugin["route"]),
                state: if error.is_some() { State::Outdated } else { State::Serving },
                file: path.clone(),
                line: None,
                class: text_of(&plugin["class"]),
                key: text_of(&plugin["key"]),
                is_async: plugin["async"] == true,
                methods: own_methods(texts_of(&plugin["methods"])),
                description: text_of(&plugin["description"]),
                parameters: plugin["parameters"].clone(),
                arguments: texts_of(&file["arguments"]),
            });
        }
        let plugins = served.iter().map(|plugin| text_of(&plugin["name"])).collect();
        listing.files.push(FileEntry { file: path, plugins, error: error.cloned() });
    }
    Ok(listing)
}

/// Tries the files in a process of their own, as `pserve check` does.
fn of_files(config: &Config) -> anyhow::Result<Listing> {
    let folder = &config.settings.plugins_dir;
    let files = plugins::plugin_files(config)?;
    let reports = check::try_files(config, &files, Way::Loaded).map_err(anyhow::Error::msg)?;
    let mut listing = Listing::new("files", folder.display().to_string(), config);
    for report in reports {
        listing.add(report, config);
    }
    Ok(listing)
}

impl Listing {
    fn new(source: &'static str, place: String, config: &Config) -> Self {
        let ini_file = config.source.has_file.then(|| config.source.path.clone());
        Self { source, place, ini_file, plugins: Vec::new(), files: Vec::new() }
    }

    fn add(&mut self, report: FileReport, config: &Config) {
        let file = report.file.display().to_string();
        let arguments = config.settings.argument_names(&report.file);
        let mut names = Vec::new();
        for plugin in report.plugins {
            let name = plugin.route.trim_start_matches('/').to_owned();
            names.push(name.clone());
            self.plugins.push(Entry {
                name,
                route: plugin.route,
                state: State::Loads,
                file: file.clone(),
                line: plugin.line.map(u64::from),
                class: plugin.class,
                key: plugin.key,
                is_async: plugin.is_async,
                methods: own_methods(plugin.methods),
                description: plugin.about.description,
                parameters: json!(plugin.about.parameters),
                arguments: arguments.clone(),
            });
        }
        let error = report.error.map(|error| json!(error));
        self.files.push(FileEntry { file, plugins: names, error });
    }
}

/// Without the methods that every plugin takes.
fn own_methods(mut methods: Vec<String>) -> Vec<String> {
    methods.retain(|method| !crate::web::USUAL_METHODS.contains(&method.as_str()));
    methods
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts_of(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text_of).collect()
}

/// A path as short as it can be understood: from the current folder when it lies below.
fn short(path: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let below = Path::new(path).strip_prefix(here).ok().filter(|below| !below.as_os_str().is_empty());
    below.map_or_else(|| path.to_owned(), |below| below.display().to_string())
}
