//! An error of a plugin file with the lines of source around it, for the terminal and for the endpoint's answer.

use std::fs;
use std::path::Path;

use crate::exchange::PythonError;

/// Lines shown before and after the one that is meant.
const LINES_AROUND: usize = 3;

/// Source files are shown from up to this size: what is larger was not written by hand.
const LARGEST_SOURCE: u64 = 4 << 20;

/// Some lines of a file, one of which is meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The file as it is named to people: relative to the plugins folder.
    pub file: String,
    pub line: u32,
    /// `> 7 | text`, the line that is meant marked.
    pub lines: Vec<String>,
}

/// The source around an error's place; `None` when it has none, or when it cannot be read.
pub fn excerpt(error: &PythonError, folder: &Path) -> Option<Excerpt> {
    let (path, line) = (Path::new(error.file.as_ref()?), error.line?);
    if fs::metadata(path).ok()?.len() > LARGEST_SOURCE {
        return None;
    }
    let source = String::from_utf8_lossy(&fs::read(path).ok()?).into_owned();
    let lines = around(&source, line, caret(&error.traceback))?;
    Some(Excerpt { file: short_name(path, folder), line, lines })
}

/// An error with its place, in one line.
pub fn in_one_line(error: &PythonError, folder: &Path) -> String {
    let message = error.message.lines().next().unwrap_or_default();
    let text = format!("{}: {message}", error.kind);
    match (&error.file, error.line) {
        // Python names the place of a syntax error itself.
        (Some(file), Some(line)) if !message.ends_with(&format!(", line {line})")) => {
            format!("{text} ({}, line {line})", short_name(Path::new(file), folder))
        }
        _ => text,
    }
}

/// How a file is called where everybody knows the folder.
pub fn short_name(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

fn around(source: &str, line: u32, caret: Option<Caret>) -> Option<Vec<String>> {
    let index = (line as usize).checked_sub(1)?;
    let all: Vec<&str> = source.lines().collect();
    // An unfinished file is at fault one line after its end.
    if index > all.len() || all.is_empty() {
        return None;
    }
    let last = (index + LINES_AROUND + 1).min(all.len());
    let width = last.to_string().len();
    let mut lines = Vec::new();
    for (at, text) in all.iter().enumerate().take(last).skip(index.saturating_sub(LINES_AROUND)) {
        let mark = if at == index { '>' } else { ' ' };
        let text = text.replace('\t', "    ");
        lines.push(format!("{mark} {:>width$} | {text}", at + 1).trim_end().to_owned());
        if let Some(caret) = caret.as_ref().filter(|_| at == index) {
            let indent = text.len() - text.trim_start().len() + caret.column;
            lines.push(format!("  {:>width$} | {}{}", "", " ".repeat(indent), caret.marks));
        }
    }
    Some(lines)
}

/// Where in its line Python points to.
struct Caret {
    /// From the first letter of the line.
    column: usize,
    marks: String,
}

/// The carets under the last line of source in a traceback.
fn caret(traceback: &str) -> Option<Caret> {
    let lines: Vec<&str> = traceback.lines().collect();
    let is_caret = |line: &str| line.contains('^') && line.chars().all(|c| matches!(c, ' ' | '^' | '~'));
    let at = lines.iter().rposition(|line| is_caret(line))?;
    let source = lines.get(at.checked_sub(1)?)?;
    let indent = source.len() - source.trim_start().len();
    let marks = lines[at].trim();
    let column = (lines[at].len() - lines[at].trim_start().len()).checked_sub(indent)?;
    // The whole line is marked: that says nothing.
    (marks.len() < source.trim().len()).then(|| Caret { column, marks: marks.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "one\ntwo\n    return {\nfour\nfive\nsix\nseven\neight\n";

    #[test]
    fn the_line_that_is_meant_is_marked() {
        let traceback = "  File \"x.py\", line 3\n    return {\n           ^\nSyntaxError: '{' was never closed\n";
        let lines = around(SOURCE, 3, caret(traceback)).expect("lines");
        let expected = [
            "  1 | one",
            "  2 | two",
            "> 3 |     return {",
            "    |            ^",
            "  4 | four",
            "  5 | five",
            "  6 | six",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_line_after_the_end_shows_the_end_and_one_far_after_it_nothing() {
        assert_eq!(around("one\ntwo", 3, None).expect("lines"), ["  1 | one", "  2 | two"]);
        assert_eq!(around("one\ntwo", 9, None), None);
        assert_eq!(around("", 1, None), None);
        assert_eq!(around("one", 0, None), None);
    }
}
