//! Settings from the environment: `PSERVE_<SECTION>_<KEY>` takes the place of a key of the INI file, as containers like
//! it. `PORT`, which hosting services set, counts only where nothing else names a port.

use super::ini::{Entry, IniText, Section};
use super::keys::named_keys;

/// The line of an entry that stands in no file.
pub const NO_LINE: usize = 0;

/// The variable of a key: `PSERVE_NETWORK_PORT` for `[network] port`.
pub fn variable_of(section: &str, key: &str) -> String {
    let upper = |text: &str| {
        let letters = text.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        letters.collect::<String>()
    };
    format!("PSERVE_{}_{}", upper(section), upper(key))
}

/// Puts what the environment says into the text of the file. Keys that the server knows need not be in the file;
/// others must be.
pub fn apply(ini: &mut IniText, environment: &dyn Fn(&str) -> Option<String>) {
    for section in &mut ini.sections {
        for entry in &mut section.entries {
            if let Some(value) = environment(&variable_of(&section.name, &entry.key)) {
                entry.value = value;
                entry.line = NO_LINE;
            }
        }
    }
    for (section, keys) in named_keys() {
        for key in keys {
            if let Some(value) = environment(&variable_of(section.name, key)) {
                set(ini, section.name, key, value);
            }
        }
    }
    let names_port =
        |section: &&Section| is_same(section, "network") && section.entries.iter().any(|e| e.key == "port");
    let is_named =
        ini.sections.iter().any(|section| names_port(&section)) || ini.defaults.iter().any(|e| e.key == "port");
    if let Some(port) = environment("PORT").filter(|port| !is_named && !port.trim().is_empty()) {
        set(ini, "network", "port", port);
    }
}

fn is_same(section: &Section, name: &str) -> bool {
    section.name.trim().eq_ignore_ascii_case(name)
}

pub(super) fn set(ini: &mut IniText, name: &str, key: &str, value: String) {
    let entry = Entry { key: key.to_owned(), value, line: NO_LINE };
    let Some(section) = ini.sections.iter_mut().find(|section| is_same(section, name)) else {
        ini.sections.push(Section { name: name.to_owned(), line: NO_LINE, entries: vec![entry] });
        return;
    };
    match section.entries.iter_mut().find(|known| known.key == key) {
        Some(known) => *known = entry,
        None => section.entries.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ini;

    fn with(text: &str, variables: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let mut parsed = ini::parse(text).expect("good text");
        apply(&mut parsed, &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        let sections = parsed.sections.into_iter();
        sections
            .flat_map(|section| section.entries.into_iter().map(move |e| (section.name.clone(), e.key, e.value)))
            .collect()
    }

    fn triple(section: &str, key: &str, value: &str) -> (String, String, String) {
        (section.to_owned(), key.to_owned(), value.to_owned())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_adds_to_it() {
        let text = "[Network]\nport=1\n[my-own]\nthe.key=2\n";
        let variables = [
            ("PSERVE_NETWORK_PORT", "81"),
            ("PSERVE_MY_OWN_THE_KEY", "int:3"),
            ("PSERVE_LIMITS_BODY", "5"),
            ("PSERVE_MY_OWN_NEW", "not in the file"),
            ("PORT", "99"),
        ];
        let expected =
            [triple("Network", "port", "81"), triple("my-own", "the.key", "int:3"), triple("limits", "body", "5")];
        assert_eq!(with(text, &variables), expected);
    }

    #[test]
    fn port_counts_where_no_other_is_named() {
        assert_eq!(with("", &[("PORT", "99")]), [triple("network", "port", "99")]);
        assert_eq!(with("[network]\nport=1\n", &[("PORT", "99")]), [triple("network", "port", "1")]);
        let both = [("PORT", "99"), ("PSERVE_NETWORK_PORT", "81")];
        assert_eq!(with("", &both), [triple("network", "port", "81")]);
    }
}
