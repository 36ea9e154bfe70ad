//! From INI text to what the program means: the typed table that plugins see, and [`Settings`] for the server.
//!
//! Reading a configuration opens no socket and starts nothing.

mod display;
pub mod ini;
pub mod interpolate;
pub mod keys;
pub mod live;
mod lookup;
mod overrides;
pub mod params;
pub mod path_text;
pub mod secret;
mod sections;
pub mod settings;
mod source;
pub mod value;

use std::fmt;
use std::path::{Path, PathBuf};

pub use interpolate::Resolved;
use interpolate::Resolver;
pub use lookup::nearest;
pub use secret::{KeyRule, Secret};
use serde::{Deserialize, Serialize};
pub use settings::Settings;
pub use source::{FixedKey, Source};
pub use value::Value;

/// One error of the configuration, told in one line: file, place, what is wrong, what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    #[serde(with = "path_text")]
    pub file: PathBuf,
    pub line: Option<usize>,
    /// `[section] key`, when the error belongs to one.
    pub place: Option<(String, String)>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        if let Some((section, key)) = &self.place {
            write!(formatter, ": [{section}] {key}")?;
        }
        write!(formatter, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// One resolved key. `is_default` tells that it came from `[DEFAULT]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TableEntry {
    pub key: String,
    pub resolved: Resolved,
    pub line: usize,
    pub is_default: bool,
}

/// One resolved section, the keys of `[DEFAULT]` included.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSection {
    pub name: String,
    pub line: usize,
    pub entries: Vec<TableEntry>,
}

/// A whole file with every value resolved and typed, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    pub sections: Vec<TableSection>,
}

/// What a start or a reload works with: the table for the plugins, the settings for the server.
#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    /// The file as it was read.
    pub text: String,
    pub table: Table,
    pub settings: Settings,
}

impl Config {
    /// Reads and checks a file; environment variables come from this process.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read(Source::of_file(path))
    }

    /// As [`Config::load`], for any origin.
    pub fn read(source: Source) -> Result<Self, ConfigError> {
        Self::from_text(source.read()?, source, &environment)
    }

    /// The same one as it is now.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        Self::read(self.source.clone())
    }

    /// As [`Config::load`], with the text of a file that has been read and checked before. Folders that it names may have
    /// gone since: that is no reason not to go on with it.
    pub fn from_known_text(text: &str, source: &Source) -> Result<Self, ConfigError> {
        let table = Self::table(text, source, &environment)?;
        let settings = Settings::from_known_table(&table, &source.path)?;
        Ok(Self { source: source.clone(), text: text.to_owned(), table, settings })
    }

    /// As [`Config::load`], with the text and the environment given by the caller.
    pub fn parse(text: &str, path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::from_text(text.to_owned(), Source::of_file(path), environment)
    }

    fn from_text(
        text: String,
        source: Source,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let table = Self::table(&text, &source, environment)?;
        let settings = Settings::from_table(&table, &source.path)?;
        Ok(Self { source, text, table, settings })
    }

    fn table(text: &str, source: &Source, environment: &dyn Fn(&str) -> Option<String>) -> Result<Table, ConfigError> {
        let mut ini = parse_ini(text, &source.path)?;
        overrides::apply(&mut ini, environment);
        source.apply_fixed(&mut ini);
        Table::from_ini(&ini, &source.path, environment)
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn parse_ini(text: &str, path: &Path) -> Result<ini::IniText, ConfigError> {
    ini::parse(text).map_err(|problem| ConfigError {
        file: path.to_owned(),
        line: Some(problem.line),
        place: None,
        message: problem.message,
    })
}

/// A line that can be shown: what came from the environment stands on none.
fn in_file(line: usize) -> Option<usize> {
    (line != overrides::NO_LINE).then_some(line)
}

/// Reads an INI file as UTF-8 text.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let whole_file = |message: String| ConfigError { file: path.to_owned(), line: None, place: None, message };
    let bytes = std::fs::read(path).map_err(|problem| whole_file(format!("cannot be read: {problem}")))?;
    String::from_utf8(bytes).map_err(|problem| {
        let good = &problem.as_bytes()[..problem.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        ConfigError { line: Some(line), ..whole_file("is not UTF-8 text; save the file as UTF-8".to_owned()) }
    })
}

impl Table {
    /// Reads and resolves INI text. `path` only names the file in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, path, &environment)
    }

    /// As [`Table::parse`], with the environment given by the caller.
    pub fn parse_with(
        text: &str,
        path: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::from_ini(&parse_ini(text, path)?, path, environment)
    }

    fn from_ini(
        ini: &ini::IniText,
        path: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut resolver = Resolver::new(ini, environment);
        let mut sections = Vec::with_capacity(ini.sections.len());
        for section in &ini.sections {
            let inherited =
                ini.defaults.iter().filter(|default| section.entries.iter().all(|own| own.key != default.key));
            let own = section.entries.iter().map(|entry| (entry, false));
            let mut entries = Vec::new();
            for (entry, is_default) in own.chain(inherited.map(|entry| (entry, true))) {
                let resolved = resolver.resolve(&section.name, &entry.key).map_err(|problem| ConfigError {
                    file: path.to_owned(),
                    line: in_file(problem.line),
                    place: Some((problem.section, problem.key)),
                    message: problem.message,
                })?;
                entries.push(TableEntry { key: entry.key.clone(), resolved, line: entry.line, is_default });
            }
            sections.push(TableSection { name: section.name.clone(), line: section.line, entries });
        }
        Ok(Self { sections })
    }

    /// A section by name, whatever its case: how the server looks its own sections up.
    pub fn section(&self, name: &str) -> Option<&TableSection> {
        let exact = self.sections.iter().find(|section| section.name == name);
        exact.or_else(|| self.sections.iter().find(|section| section.name.trim().eq_ignore_ascii_case(name)))
    }
}

impl TableSection {
    /// A key of this section, its own or inherited.
    pub fn entry(&self, key: &str) -> Option<&TableEntry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}
