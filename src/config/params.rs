//! The text of a `[plugin_parms]` key -> constructor arguments and the JSON file that adds to them.

use std::path::{Path, PathBuf};

/// What a plugin file's constructors get beside the usual.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Params {
    pub inline: Vec<(String, String)>,
    pub json_file: Option<PathBuf>,
}

/// Reads `key=value&key=value` in URL query syntax: the first value of a repeated key counts, blank ones are
/// dropped. `json=FILE` and `json:FILE` name a file in the plugins folder.
pub fn parse(text: &str, plugins_dir: &Path) -> Params {
    let mut params = Params::default();
    for piece in text.split('&') {
        if let Some(file) = piece.trim().strip_prefix("json:") {
            params.json_file.get_or_insert_with(|| plugins_dir.join(file.trim()));
            continue;
        }
        for (name, value) in form_urlencoded::parse(piece.trim().as_bytes()) {
            if value.is_empty() || params.inline.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if name == "json" {
                params.json_file.get_or_insert_with(|| plugins_dir.join(value.trim()));
            }
            params.inline.push((name.into_owned(), value.into_owned()));
        }
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_syntax_with_first_values_and_no_blanks() {
        let params = parse("a=1&a=2&b=&c=x+y&d=%41", Path::new("/p"));
        let expected = [("a", "1"), ("c", "x y"), ("d", "A")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(params.inline, expected);
        assert_eq!(params.json_file, None);
    }

    #[test]
    fn both_spellings_of_the_json_file() {
        assert_eq!(parse("json:x.json&a=1", Path::new("/p")).json_file, Some("/p/x.json".into()));
        assert_eq!(parse("a=1&json=x.json", Path::new("/p")).json_file, Some("/p/x.json".into()));
    }
}
