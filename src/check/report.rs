//! What a check found, as text for people and as JSON for machines.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Config, ConfigError};
use crate::exit_status;
use crate::python::{MissingModule, PluginDescription, PythonError};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Will not work.
    Error,
    /// Works, and probably not as it was meant.
    Warning,
    /// Works, and differently from the Python program.
    Note,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub level: Level,
    pub message: String,
    pub file: Option<PathBuf>,
    pub line: Option<usize>,
}

/// What became of one plugin file.
#[derive(Debug, Serialize, Deserialize)]
pub struct FileReport {
    pub file: PathBuf,
    pub plugins: Vec<PluginReport>,
    pub error: Option<FileError>,
    pub missing: Vec<MissingModule>,
    pub is_only_read: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct PluginReport {
    pub route: String,
    pub class: String,
    pub line: Option<u32>,
    pub is_async: bool,
    /// Which key a call needs.
    pub key: String,
    /// Methods that it takes beside the usual ones.
    pub methods: Vec<String>,
    #[serde(flatten)]
    pub about: PluginDescription,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct FileError {
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
    pub file: Option<PathBuf>,
    pub line: Option<u32>,
}

impl From<PythonError> for FileError {
    fn from(error: PythonError) -> Self {
        Self { kind: error.kind, message: error.message, file: error.file.map(PathBuf::from), line: error.line }
    }
}

impl FileReport {
    pub fn new(file: PathBuf) -> Self {
        Self { file, plugins: Vec::new(), error: None, missing: Vec::new(), is_only_read: false }
    }

    fn name(&self) -> String {
        one_line(&self.file.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Whether it would not load. A file that was only read says so by what it needs and has not.
    fn has_failed(&self) -> bool {
        self.error.is_some() || (self.is_only_read && self.missing.iter().any(|missing| !missing.is_optional))
    }
}

#[derive(Debug)]
pub struct Report {
    pub ini_file: Option<PathBuf>,
    pub files: Vec<FileReport>,
    pub findings: Vec<Finding>,
    /// Set when Python could not start anyway.
    pub has_errors_of_the_environment: bool,
    /// Name and value of what the server would do.
    facts: Vec<(&'static str, String)>,
    pip: String,
}

impl Report {
    pub fn new(python_version: &str) -> Self {
        Self {
            ini_file: None,
            files: Vec::new(),
            findings: Vec::new(),
            has_errors_of_the_environment: false,
            facts: vec![("python", python_version.to_owned())],
            pip: "pip".to_owned(),
        }
    }

    /// Takes up what the server would do with a configuration.
    pub fn describe(&mut self, config: &Config) {
        let settings = &config.settings;
        let scheme = if settings.tls.is_some() { "HTTPS" } else { "HTTP" };
        let listen: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
        self.facts.insert(0, ("plugins", settings.plugins_dir.display().to_string()));
        self.facts.insert(0, ("listens", format!("{} ({scheme})", listen.join(", "))));
        let packages = match &settings.python.venv {
            Some(venv) => {
                self.pip = format!("{}/bin/python -m pip", venv.display());
                format!("virtual environment {}", venv.display())
            }
            None => "no virtual environment; set [python] venv= or VIRTUAL_ENV for packages".to_owned(),
        };
        self.facts.push(("packages", packages));
    }

    pub fn error(&mut self, message: impl Into<String>) {
        self.found(Level::Error, message, None, None);
    }

    pub fn warning(&mut self, message: impl Into<String>) {
        self.found(Level::Warning, message, None, None);
    }

    pub fn note(&mut self, message: impl Into<String>) {
        self.found(Level::Note, message, None, None);
    }

    fn found(&mut self, level: Level, message: impl Into<String>, file: Option<&Path>, line: Option<usize>) {
        self.findings.push(Finding { level, message: message.into(), file: file.map(Path::to_owned), line });
    }

    /// A finding in the INI file.
    pub fn at(&mut self, level: Level, file: &Path, line: usize, message: impl Into<String>) {
        self.found(level, message, Some(file), Some(line));
    }

    pub fn config_error(&mut self, problem: &ConfigError) {
        let place = problem.place.as_ref().map(|(section, key)| format!("[{section}] {key}: "));
        let message = place.unwrap_or_default() + &problem.message;
        self.found(Level::Error, message, Some(&problem.file), problem.line);
    }

    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
            || self.files.iter().any(FileReport::has_failed)
    }

    fn count(&self, level: Level) -> usize {
        let failed = self.files.iter().filter(|file| file.has_failed() && level == Level::Error).count();
        failed + self.findings.iter().filter(|finding| finding.level == level).count()
    }

    pub fn to_json(&self, status: i32) -> String {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        let report = json!({
            "ini_file": self.ini_file,
            "exit_status": status,
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warning),
            "notes": self.count(Level::Note),
            "facts": facts,
            "files": self.files,
            "findings": self.findings,
        });
        format!("{report:#}\n")
    }

    /// Findings in the order of the INI file's lines.
    fn sorted(&self, level: Level) -> Vec<&Finding> {
        let mut found: Vec<&Finding> = self.findings.iter().filter(|finding| finding.level == level).collect();
        found.sort_by_key(|finding| finding.line.unwrap_or(usize::MAX));
        found
    }

    pub fn to_text(&self, status: i32) -> String {
        let mut text = String::new();
        if let Some(ini) = &self.ini_file {
            let _ = writeln!(text, "{}", ini.display());
        }
        for (name, value) in &self.facts {
            let _ = writeln!(text, "  {name:<9} {value}");
        }
        if !self.files.is_empty() {
            let _ = writeln!(text, "\nplugin files");
        }
        for file in &self.files {
            self.write_file(&mut text, file);
        }
        for (level, title) in [(Level::Error, "errors"), (Level::Warning, "warnings"), (Level::Note, "notes")] {
            let found = self.sorted(level);
            if !found.is_empty() {
                let _ = writeln!(text, "\n{title}");
            }
            for finding in found {
                let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
                let place = finding.file.as_ref().map(|file| format!("{}{line}: ", file.display())).unwrap_or_default();
                let _ = writeln!(text, "  {place}{}", one_line(&finding.message));
            }
        }
        let verdict = match status {
            exit_status::CLEAN => "this would work",
            exit_status::USAGE => "the server would not start",
            _ => "not everything would work",
        };
        let _ = writeln!(
            text,
            "\n{verdict}: {}, {}, {}",
            counted(self.count(Level::Error), "error"),
            counted(self.count(Level::Warning), "warning"),
            counted(self.count(Level::Note), "note")
        );
        text
    }

    fn write_file(&self, text: &mut String, file: &FileReport) {
        for plugin in &file.plugins {
            let place = format!("{}:{}", file.name(), plugin.line.unwrap_or(1));
            let kind = if plugin.is_async { "async" } else { "plain, on a thread" };
            let key = if plugin.key == "none" { String::new() } else { format!(", key: {}", plugin.key) };
            let _ = writeln!(text, "  ok     {place:<24} {:<20} {} ({kind}{key})", plugin.route, plugin.class);
        }
        if let Some(error) = &file.error {
            let place = match (&error.file, error.line) {
                (Some(path), Some(line)) => {
                    format!("{}:{line}", path.file_name().unwrap_or_default().to_string_lossy())
                }
                _ => file.name(),
            };
            let _ = writeln!(text, "  error  {place:<24} {}: {}", error.kind, one_line(&error.message));
        } else if file.is_only_read {
            let _ = writeln!(text, "  read   {}", file.name());
        } else if file.plugins.is_empty() {
            let _ = writeln!(text, "  -      {:<24} serves nothing with this configuration", file.name());
        }
        for missing in &file.missing {
            let place = format!("{}:{}", file.name(), missing.line);
            let need = if missing.is_optional { "the file may do without it" } else { "needed" };
            let _ = writeln!(text, "         {place:<24} no module `{}` ({need})", missing.module);
            let _ = writeln!(text, "         {:<24} {} install {}", "", self.pip, missing.package);
        }
    }
}

/// Text of others, unable to break a line or to paint a terminal.
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
