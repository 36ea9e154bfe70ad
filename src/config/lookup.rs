//! One value of the configuration as the server wants it: text, number, time, truth, list or path, typed or plain.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::value::{self, Value};
use super::{ConfigError, Table, TableEntry, TableSection};
use super::{in_file, overrides};

/// Looks values up in a table; errors name the file.
pub(super) struct Reader<'a> {
    pub(super) table: &'a Table,
    pub(super) file: &'a Path,
    /// Whether files and folders must be there. Those of a configuration that is in force already may have gone since.
    pub(super) insists_on_files: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn entry(&self, section: &str, key: &str) -> Option<(&'a TableSection, &'a TableEntry)> {
        let section = self.table.section(section)?;
        Some((section, section.entry(key)?))
    }

    /// The text of a key that is set to something.
    pub(super) fn text(&self, section: &str, key: &str) -> Option<&'a str> {
        let (_, entry) = self.entry(section, key)?;
        Some(entry.resolved.text.trim()).filter(|text| !text.is_empty())
    }

    pub(super) fn error(&self, section: &str, key: &str, message: impl Into<String>) -> ConfigError {
        let found = self.entry(section, key);
        let section = found.map_or(section, |(section, _)| section.name.as_str());
        let mut message = message.into();
        let line = found.and_then(|(_, entry)| in_file(entry.line));
        if found.is_some() && line.is_none() {
            message.push_str(&format!(" (it is set by {} in the environment)", overrides::variable_of(section, key)));
        }
        let place = Some((section.to_owned(), key.to_owned()));
        ConfigError { file: self.file.to_owned(), line, place, message }
    }

    /// A whole number within bounds, typed or as a plain string.
    pub(super) fn number(
        &self,
        section: &str,
        key: &str,
        default: u64,
        bounds: (u64, u64),
    ) -> Result<u64, ConfigError> {
        let Some((_, entry)) = self.entry(section, key) else {
            return Ok(default);
        };
        let number = match &entry.resolved.value {
            Value::Int(number) => Some(*number),
            _ => value::parse_int(&entry.resolved.text),
        };
        let (least, most) = bounds;
        number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| {
                let text = &entry.resolved.text;
                self.error(section, key, format!("`{text}` will not do; give a whole number from {least} to {most}"))
            })
    }

    pub(super) fn seconds(&self, section: &str, key: &str, default: f64) -> Result<Duration, ConfigError> {
        let Some((_, entry)) = self.entry(section, key) else {
            return Ok(Duration::from_secs_f64(default));
        };
        let text = &entry.resolved.text;
        parse_seconds(text)
            .ok_or_else(|| self.error(section, key, format!("`{text}` is not a time; give seconds, for example 10")))
    }

    pub(super) fn truth(&self, section: &str, key: &str) -> bool {
        self.entry(section, key).is_some_and(|(_, entry)| match &entry.resolved.value {
            Value::Bool(truth) => *truth,
            _ => value::is_true_word(&entry.resolved.text),
        })
    }

    /// The items of a list, typed or as text with the given separators.
    pub(super) fn items(&self, section: &str, key: &str, separators: &[char]) -> Vec<String> {
        let Some(text) = self.text(section, key) else {
            return Vec::new();
        };
        let items = text.split(|c: char| c.is_whitespace() || separators.contains(&c));
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// The current folder's, when it is there, else the one beside the INI file.
    pub(super) fn existing_path(&self, text: &str) -> PathBuf {
        let path = expand_home(text);
        if path.is_absolute() || path.exists() {
            return absolute(&path);
        }
        let beside = self.ini_dir().join(&path);
        if beside.exists() { beside } else { absolute(&path) }
    }

    /// As [`Reader::existing_path`], for a file that may not be there yet: its folder decides.
    pub(super) fn path_to_create(&self, section: &str, key: &str) -> Option<PathBuf> {
        self.text(section, key).map(|text| self.created_path(text))
    }

    pub(super) fn created_path(&self, text: &str) -> PathBuf {
        let path = expand_home(text);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if path.is_absolute() || parent.is_none_or(Path::exists) {
            return absolute(&path);
        }
        let beside = self.ini_dir().join(&path);
        if beside.parent().is_some_and(Path::exists) { beside } else { absolute(&path) }
    }

    fn ini_dir(&self) -> PathBuf {
        absolute(self.file).parent().map(Path::to_owned).unwrap_or_default()
    }
}

/// The known name that is most like a misspelt one, whatever its case, and how like it is (1 is the same).
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    let likeness = |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase());
    known.map(|known| (known, likeness(known))).max_by(|a, b| a.1.total_cmp(&b.1))
}

/// A time in seconds.
pub(super) fn parse_seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds.map(Duration::from_secs_f64)
}

pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// `~` and `~/...` are the user's home.
fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix('~'), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(&home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    }
}

/// Made absolute while the current folder is still the one the user started in: a plugin may change it later.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
