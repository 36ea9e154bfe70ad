//! Every key that the server reads: its type, default, unit and meaning, once. The table in `docs/configuration.md`, the
//! man page, the warnings about unknown keys and the variables of the environment are made from it.
//!
//! A new key gets a line in `table.rs`, its reading in `sections.rs` and its showing in `display.rs`; then `make docs`.
//! The tests below find what is missing, and defaults that are not the real ones.

mod table;

use std::fmt;

pub use table::SECTIONS;

/// One section that the server reads.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    pub name: &'static str,
    pub names: Names,
    pub keys: &'static [Key],
}

/// Which keys a section may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Those that are listed; another one is a warning.
    Ours,
    /// Others may be the user's own: the Python program has the section too.
    AlsoTheirs,
    /// One for each plugin file, whose text is of the form that the only key tells.
    OfFiles,
    /// One for each plugin; those that are listed stand in its text, as `name=value&name=value`.
    OfPlugins,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: DefaultValue,
    /// What a number counts; empty where there is nothing to count.
    pub unit: &'static str,
    /// In Markdown, with links as seen from `docs/`.
    pub meaning: &'static str,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A whole number.
    Number,
    /// A number that may have a fraction.
    Decimal,
    Truth,
    List,
    /// A file or a folder.
    Path,
    /// A file's mode, in octal digits.
    Mode,
    OneOf(&'static [&'static str]),
}

/// What counts when a key is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// It must be set.
    Needed,
    /// Nothing: what the key is for does not happen.
    Unset,
    /// As `--print-config` shows it.
    Is(&'static str),
    /// It depends on the machine or on another key; in words, in Markdown.
    Depends(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Number => "int",
            Self::Decimal => "float",
            Self::Truth => "bool",
            Self::List => "list",
            Self::Path => "path",
            Self::Mode => "octal",
            Self::OneOf(words) => return formatter.write_str(&words.join(" or ")),
        })
    }
}

/// The section of that name, whatever its case.
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name.eq_ignore_ascii_case(name))
}

/// The names of every section that the server reads.
pub fn section_names() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|section| section.name)
}

/// Sections whose keys have names of their own, and those names.
pub fn named_keys() -> impl Iterator<Item = (&'static Section, Vec<&'static str>)> {
    let fixed = SECTIONS.iter().filter(|section| matches!(section.names, Names::Ours | Names::AlsoTheirs));
    fixed.map(|section| (section, section.key_names()))
}

impl Section {
    pub fn key_names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// A key as people write about it: `[limits] body`, `[plugin_options] <name>: threads`.
    pub fn title_of(&self, key: &Key) -> String {
        match self.names {
            Names::OfPlugins => format!("[{}] <name>: {}", self.name, key.name),
            _ => format!("[{}] {}", self.name, key.name),
        }
    }
}
