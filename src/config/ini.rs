//! INI text -> sections and keys, each with the line it stands on, by the rules of Python's `configparser`.
//!
//! rust-ini splits keys from values. What it leaves open is decided here, before it sees the text: comments,
//! continuation lines, keys folded to lower case, `[DEFAULT]`, duplicates, and lines that are neither.

use std::collections::{HashMap, HashSet};

use ini::{Ini, ParseOption};

/// Stands for a line break inside a value while rust-ini reads it, so that every value is one line to it.
/// Like the two below a noncharacter of Unicode, which no text is exchanged with.
const LINE_BREAK: char = '\u{fdd0}';

/// What rust-ini gives a meaning of its own even with escapes switched off, or at the start of a line, and what stands
/// for it meanwhile.
const STAND_INS: [(char, char); 2] = [('\\', '\u{fdd1}'), ('[', '\u{fdd2}')];

/// The section whose keys every other section inherits.
pub const DEFAULT_SECTION: &str = "DEFAULT";

/// One key as written: folded to lower case, its value trimmed, nothing resolved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    pub line: usize,
}

/// One `[section]` with its own keys (those of `[DEFAULT]` not mixed in), in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub line: usize,
    pub entries: Vec<Entry>,
}

/// A whole file as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IniText {
    pub sections: Vec<Section>,
    pub defaults: Vec<Entry>,
}

/// A line that cannot be read; `line` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct IniError {
    pub line: usize,
    pub message: String,
}

/// Reads the text. Errs at the first line that is neither a section, a key, a continuation nor a comment,
/// and at the second of two equal sections or keys.
pub fn parse(text: &str) -> Result<IniText, IniError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let scanned = scan(text)?;
    let split = split_keys(&scanned)?;
    assemble(scanned, split)
}

/// A section header with the logical lines under it: a key's line with its continuation lines joined.
struct ScannedSection {
    name: String,
    line: usize,
    keys: Vec<(usize, String)>,
}

fn scan(text: &str) -> Result<Vec<ScannedSection>, IniError> {
    let mut sections: Vec<ScannedSection> = Vec::new();
    let mut indent_of_key = 0;
    let mut key_is_open = false;
    for (index, raw) in lines(text).enumerate() {
        let line = index + 1;
        let content = raw.trim();
        if content.starts_with(['#', ';']) {
            continue;
        }
        if content.is_empty() {
            if let (true, Some((_, joined))) = (key_is_open, last_key(&mut sections)) {
                joined.push(LINE_BREAK);
            }
            continue;
        }
        let indent = raw.chars().take_while(|c| c.is_whitespace()).count();
        if key_is_open && indent > indent_of_key {
            if let Some((_, joined)) = last_key(&mut sections) {
                joined.push(LINE_BREAK);
                joined.push_str(content);
            }
            continue;
        }
        indent_of_key = indent;
        if let Some(name) = section_name(content) {
            sections.push(ScannedSection { name: name.to_owned(), line, keys: Vec::new() });
            key_is_open = false;
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(error(line, "stands before the first section; put a line such as [main] above it".to_owned()));
        };
        check_key_line(content, line)?;
        section.keys.push((line, content.to_owned()));
        key_is_open = true;
    }
    Ok(sections)
}

/// Lines as Python reads them: `\n`, `\r\n` and a lone `\r` all end one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

fn last_key(sections: &mut [ScannedSection]) -> Option<&mut (usize, String)> {
    sections.last_mut()?.keys.last_mut()
}

/// `[name]` with anything behind the last bracket ignored, as `configparser` does.
fn section_name(content: &str) -> Option<&str> {
    let inside = content.strip_prefix('[')?;
    let end = inside.rfind(']')?;
    (end > 0).then(|| &inside[..end])
}

/// The line is not quoted in the error: it may be the rest of a key that was broken in two.
fn check_key_line(content: &str, line: usize) -> Result<(), IniError> {
    let message = match content.find(['=', ':']) {
        None => "is neither a [section] nor a key; write `key = value`",
        Some(0) => "has no key before the delimiter; write `key = value`",
        Some(_) => return Ok(()),
    };
    Err(error(line, message.to_owned()))
}

/// Lets rust-ini split every logical line. Sections go by number, because it ends a name at the first bracket.
fn split_keys(sections: &[ScannedSection]) -> Result<Ini, IniError> {
    let mut plain = String::new();
    for (number, section) in sections.iter().enumerate() {
        plain.push_str(&format!("[{number}]\n"));
        for (_, text) in &section.keys {
            plain.extend(
                text.chars().map(|c| STAND_INS.iter().find(|(real, _)| *real == c).map_or(c, |(_, other)| *other)),
            );
            plain.push('\n');
        }
    }
    let options = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        enabled_indented_mutiline_value: true,
        ..ParseOption::default()
    };
    Ini::load_from_str_opt(&plain, options).map_err(|problem| {
        let line = written_line(sections, problem.line);
        error(line, format!("cannot be read: {}", problem.msg))
    })
}

/// The line in the user's file for a line of the text given to rust-ini (both from 1).
fn written_line(sections: &[ScannedSection], plain_line: usize) -> usize {
    let lines: Vec<usize> = sections
        .iter()
        .flat_map(|section| std::iter::once(section.line).chain(section.keys.iter().map(|(line, _)| *line)))
        .collect();
    lines.get(plain_line.saturating_sub(1)).or(lines.last()).copied().unwrap_or(1)
}

fn assemble(scanned: Vec<ScannedSection>, split: Ini) -> Result<IniText, IniError> {
    let mut result = IniText::default();
    let mut first_seen: HashMap<String, usize> = HashMap::new();
    for (number, section) in scanned.into_iter().enumerate() {
        let properties = split.section(Some(number.to_string()));
        let pairs = properties.into_iter().flat_map(|properties| properties.iter());
        let mut entries = Vec::with_capacity(section.keys.len());
        for ((line, _), (key, value)) in section.keys.iter().zip(pairs) {
            let key = restored(key).trim().to_lowercase();
            let value = restored(value).trim_end().to_owned();
            entries.push(Entry { key, value, line: *line });
        }
        if section.name == DEFAULT_SECTION {
            result.defaults.extend(entries);
            refuse_duplicate_keys(DEFAULT_SECTION, &result.defaults)?;
            continue;
        }
        if let Some(first) = first_seen.insert(section.name.clone(), section.line) {
            return Err(error(
                section.line,
                format!("section [{}] is here for the second time (first on line {first}); join the two", section.name),
            ));
        }
        refuse_duplicate_keys(&section.name, &entries)?;
        result.sections.push(Section { name: section.name, line: section.line, entries });
    }
    Ok(result)
}

fn restored(text: &str) -> String {
    let real = |c| STAND_INS.iter().find(|(_, other)| *other == c).map_or(c, |(real, _)| *real);
    text.chars().map(|c| if c == LINE_BREAK { '\n' } else { real(c) }).collect()
}

fn refuse_duplicate_keys(section: &str, entries: &[Entry]) -> Result<(), IniError> {
    let mut seen: HashSet<&str> = HashSet::new();
    for entry in entries {
        if !seen.insert(&entry.key) {
            return Err(error(
                entry.line,
                format!("[{section}] {} is here for the second time; keep one of the two", entry.key),
            ));
        }
    }
    Ok(())
}

fn error(line: usize, message: String) -> IniError {
    IniError { line, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, String)> {
        let ini = parse(text).expect("readable text");
        ini.sections[0].entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    }

    #[test]
    fn both_delimiters_and_folded_keys() {
        let pairs = values("[a]\nKey = 1\nother: x=y\nempty=\n");
        assert_eq!(pairs, [("key", "1"), ("other", "x=y"), ("empty", "")].map(|(k, v)| (k.into(), v.into())));
    }

    #[test]
    fn continuation_lines_keep_blank_lines_and_lose_comments() {
        assert_eq!(values("[a]\nk = one\n  two\n# not this\n\n  three\n\n")[0].1, "one\ntwo\n\nthree");
    }

    #[test]
    fn a_value_that_begins_on_the_next_line_keeps_the_break() {
        assert_eq!(values("[a]\nk =\n  one\n  two\n")[0].1, "\none\ntwo");
    }

    #[test]
    fn quotes_backslashes_and_signs_are_ordinary() {
        assert_eq!(values("[a]\nk = \"q\\n\" 'x' # ; y\n")[0].1, "\"q\\n\" 'x' # ; y");
    }

    #[test]
    fn backslashes_and_brackets_mean_nothing() {
        let pairs = values("[a]\nfolder=C:\\data\\\nnext=1\n[k=2\n\\=3\nx]y=[z]\\");
        let expected = [("folder", "C:\\data\\"), ("next", "1"), ("[k", "2"), ("\\", "3"), ("x]y", "[z]\\")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.into(), value.into())));
    }

    #[test]
    fn a_line_without_delimiter_is_an_error_with_its_line() {
        assert_eq!(parse("[a]\nx=1\nlonely\n").unwrap_err().line, 3);
    }

    #[test]
    fn duplicates_are_errors() {
        assert_eq!(parse("[a]\nx=1\nX=2\n").unwrap_err().line, 3);
        assert_eq!(parse("[a]\n[b]\n[a]\n").unwrap_err().line, 3);
    }

    #[test]
    fn an_error_never_shows_what_stands_behind_the_delimiter() {
        let message = parse("apikey=secret\n").unwrap_err().to_string();
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn byte_order_mark_and_carriage_returns() {
        assert_eq!(values("\u{feff}[a]\r\nk=v\r\n")[0], ("k".into(), "v".into()));
    }
}
