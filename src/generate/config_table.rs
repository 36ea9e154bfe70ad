//! The table of all keys in Markdown, as it stands in `docs/configuration.md`.

use std::fmt::Write;

use crate::config::keys::{DefaultValue, Names, SECTIONS};

pub fn table() -> String {
    let mut table = "| key | type | default | unit | meaning |\n|---|---|---|---|---|\n".to_owned();
    for section in &SECTIONS {
        for key in section.keys {
            let default = match key.default {
                DefaultValue::Needed => "needed".to_owned(),
                DefaultValue::Unset if section.names == Names::OfFiles => String::new(),
                DefaultValue::Unset => "none".to_owned(),
                DefaultValue::Is(text) => format!("`{text}`"),
                DefaultValue::Depends(words) => words.to_owned(),
            };
            let (title, kind) = (section.title_of(key), key.kind.to_string().replace('|', "\\|"));
            let meaning = key.meaning.replace('|', "\\|");
            let _ = writeln!(table, "| `{title}` | {kind} | {default} | {} | {meaning} |", key.unit);
        }
    }
    table
}
