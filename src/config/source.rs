//! Where a configuration comes from, so that it can be read again: an INI file, or nothing but the command line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ini::IniText;
use super::{ConfigError, overrides, path_text, read_text};

/// A configuration's origin; a worker gets it with the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The INI file. A configuration that has none goes by this name in messages.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Whether there is such a file.
    pub has_file: bool,
    /// What holds whatever the file and the environment say.
    pub fixed: Vec<FixedKey>,
}

/// A key that the command line sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedKey {
    pub section: String,
    pub key: String,
    /// As it would stand in a file.
    pub value: String,
}

impl FixedKey {
    /// The value is taken as it is: a dollar sign in it refers to nothing.
    pub fn new(section: &str, key: &str, value: &str) -> Self {
        Self { section: section.to_owned(), key: key.to_owned(), value: value.replace('$', "$$") }
    }
}

impl Source {
    /// An INI file and nothing else.
    pub fn of_file(path: &Path) -> Self {
        Self { path: path.to_owned(), has_file: true, fixed: Vec::new() }
    }

    /// The text as it is now.
    pub(super) fn read(&self) -> Result<String, ConfigError> {
        if self.has_file { read_text(&self.path) } else { Ok(String::new()) }
    }

    pub(super) fn apply_fixed(&self, ini: &mut IniText) {
        for fixed in &self.fixed {
            overrides::set(ini, &fixed.section, &fixed.key, fixed.value.clone());
        }
    }
}
