//! `${section:key}`, `${key}`, `${ENV:NAME}` and `$$`, resolved to any sane depth, with cycles found.

use std::collections::HashMap;

use super::ini::{DEFAULT_SECTION, Entry, IniText};
use super::value::{self, Value};

/// The pseudo-section whose keys are environment variables.
const ENVIRONMENT: &str = "ENV";

/// A value after resolution: what it is, and the text that another value gets which mentions it inside text.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub value: Value,
    pub text: String,
}

/// What is wrong with one value: where it stands and why. The caller adds the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    pub section: String,
    pub key: String,
    pub line: usize,
    pub message: String,
}

/// References that lead to references: more than anybody writes, and little enough for every thread's stack.
const DEEPEST_CHAIN: usize = 100;

/// What all values together may come to, in bytes, when those are put in that they refer to: more than anybody writes,
/// and little enough for every machine's memory. Ten lines that each mention the next one ten times would be too much.
const LARGEST_TABLE: usize = 4 << 20;

type Place = (String, String);

/// Resolves values of one file, each once.
pub struct Resolver<'a> {
    sections: HashMap<&'a str, HashMap<&'a str, &'a Entry>>,
    defaults: HashMap<&'a str, &'a Entry>,
    environment: &'a dyn Fn(&str) -> Option<String>,
    done: HashMap<Place, Resolved>,
    under_way: Vec<Place>,
    /// The size of what is done.
    done_bytes: usize,
}

impl std::fmt::Debug for Resolver<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Resolver").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl<'a> Resolver<'a> {
    /// `environment` looks a variable up; tests give their own.
    pub fn new(ini: &'a IniText, environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        fn by_key(entries: &[Entry]) -> HashMap<&str, &Entry> {
            entries.iter().map(|entry| (entry.key.as_str(), entry)).collect()
        }
        let sections = ini.sections.iter().map(|section| (section.name.as_str(), by_key(&section.entries))).collect();
        let (defaults, done, under_way) = (by_key(&ini.defaults), HashMap::new(), Vec::new());
        Self { sections, defaults, environment, done, under_way, done_bytes: 0 }
    }

    /// The value of `key` as seen in `section` (its own or that of `[DEFAULT]`).
    pub fn resolve(&mut self, section: &str, key: &str) -> Result<Resolved, Unresolved> {
        let place = (section.to_owned(), key.to_owned());
        if let Some(resolved) = self.done.get(&place) {
            return Ok(resolved.clone());
        }
        let entry = self.entry(section, key).expect("callers ask for keys that exist");
        if self.under_way.contains(&place) {
            let chain: Vec<String> =
                self.under_way.iter().chain([&place]).map(|(section, key)| format!("{section}:{key}")).collect();
            return Err(unresolved(section, entry, format!("refers to itself: {}", chain.join(" -> "))));
        }
        if self.under_way.len() == DEEPEST_CHAIN {
            let message = format!("references go more than {DEEPEST_CHAIN} deep; write the value itself somewhere");
            return Err(unresolved(section, entry, message));
        }
        self.under_way.push(place.clone());
        let resolved = self.resolve_entry(section, entry);
        self.under_way.pop();
        let resolved = resolved?;
        self.done_bytes += place.0.len() + place.1.len() + resolved.text.len();
        if self.done_bytes > LARGEST_TABLE {
            return Err(too_large(section, entry));
        }
        self.done.insert(place, resolved.clone());
        Ok(resolved)
    }

    fn resolve_entry(&mut self, section: &str, entry: &Entry) -> Result<Resolved, Unresolved> {
        let text = self.with_environment(section, entry)?;
        let pieces = pieces(&text).map_err(|message| unresolved(section, entry, message))?;
        if let [Piece::Reference(reference)] = pieces.as_slice() {
            return self.follow(section, entry, reference);
        }
        let mut plain = String::new();
        for piece in &pieces {
            match piece {
                Piece::Text(text) => plain.push_str(text),
                Piece::Dollar => plain.push('$'),
                Piece::Reference(reference) => plain.push_str(&self.follow(section, entry, reference)?.text),
            }
            if plain.len() > LARGEST_TABLE {
                return Err(too_large(section, entry));
            }
        }
        let value = value::parse(&plain).map_err(|problem| {
            let message = if may_hold_key(section, &entry.key) { problem.without_text() } else { problem.to_string() };
            unresolved(section, entry, message)
        })?;
        Ok(Resolved { value, text: value::plain_text(&plain).to_owned() })
    }

    /// Puts the environment in, before anything else is looked at: what it holds may be a type or a reference.
    fn with_environment(&self, section: &str, entry: &Entry) -> Result<String, Unresolved> {
        if !entry.value.contains('$') {
            return Ok(entry.value.clone());
        }
        let pieces = pieces(&entry.value).map_err(|message| unresolved(section, entry, message))?;
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Dollar => text.push_str("$$"),
                Piece::Reference(reference) => match reference.split_once(':') {
                    Some((ENVIRONMENT, name)) => text.push_str(&(self.environment)(name).unwrap_or_default()),
                    _ => text.push_str(&format!("${{{reference}}}")),
                },
            }
        }
        Ok(text)
    }

    fn follow(&mut self, section: &str, entry: &Entry, reference: &str) -> Result<Resolved, Unresolved> {
        let (target_section, target_key) = match reference.split_once(':') {
            Some((ENVIRONMENT, name)) => {
                let text = (self.environment)(name).unwrap_or_default();
                return Ok(Resolved { value: Value::Text(text.clone()), text });
            }
            Some((target_section, key)) => (target_section, key),
            None => (section, reference),
        };
        let target_key = target_key.trim().to_lowercase();
        if self.entry(target_section, &target_key).is_none() {
            let message = if self.sections.contains_key(target_section) || target_section == DEFAULT_SECTION {
                format!("${{{reference}}} refers to a key that is not there; add `{target_key}` to [{target_section}]")
            } else {
                format!("${{{reference}}} refers to a section that is not there; add [{target_section}]")
            };
            return Err(unresolved(section, entry, message));
        }
        self.resolve(target_section, &target_key)
    }

    fn entry(&self, section: &str, key: &str) -> Option<&'a Entry> {
        let own = self.sections.get(section).and_then(|entries| entries.get(key));
        let known = section == DEFAULT_SECTION || self.sections.contains_key(section);
        own.or_else(|| self.defaults.get(key).filter(|_| known)).copied()
    }
}

/// Values that are never quoted in an error.
fn may_hold_key(section: &str, key: &str) -> bool {
    let section = section.trim().to_lowercase();
    section == "auth"
        || section == "plugin_parms"
        || ["key", "pass", "secret", "token"].iter().any(|word| key.contains(word))
}

fn unresolved(section: &str, entry: &Entry, message: String) -> Unresolved {
    Unresolved { section: section.to_owned(), key: entry.key.clone(), line: entry.line, message }
}

fn too_large(section: &str, entry: &Entry) -> Unresolved {
    let message = format!("makes the values larger than {LARGEST_TABLE} bytes together; refer to less");
    unresolved(section, entry, message)
}

enum Piece<'t> {
    Text(&'t str),
    Dollar,
    Reference(&'t str),
}

/// Cuts a value at its dollar signs. Errs on a dollar that starts nothing.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            found.push(Piece::Text(&rest[..at]));
        }
        let behind = &rest[at + 1..];
        if let Some(after) = behind.strip_prefix('$') {
            found.push(Piece::Dollar);
            rest = after;
        } else if let Some(inside) = behind.strip_prefix('{') {
            let end =
                inside.find('}').ok_or("`${` has no closing `}`; write ${section:key}, or $$ for a dollar sign")?;
            if inside[..end].trim().is_empty() {
                return Err("`${}` names nothing; write ${section:key}, or $$ for a dollar sign".to_owned());
            }
            found.push(Piece::Reference(&inside[..end]));
            rest = &inside[end + 1..];
        } else {
            return Err("a lone `$`; write $$ for a dollar sign, ${section:key} for a reference".to_owned());
        }
    }
    if !rest.is_empty() || found.is_empty() {
        found.push(Piece::Text(rest));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::ini;
    use super::*;

    fn resolve(text: &str, section: &str, key: &str) -> Result<Resolved, Unresolved> {
        let ini = ini::parse(text).expect("readable");
        let environment = |name: &str| match name {
            "PORT" => Some("int:81".to_owned()),
            "REF" => Some("${b:port}".to_owned()),
            _ => None,
        };
        Resolver::new(&ini, &environment).resolve(section, key)
    }

    #[test]
    fn a_single_reference_keeps_the_type_and_text_takes_the_plain_form() {
        let text = "[a]\nx=${b:port}\ny=at ${b:port}/${b:on}\n[b]\nport=int:81\non=bool:true\n";
        assert_eq!(resolve(text, "a", "x").expect("x").value, Value::Int(81));
        assert_eq!(resolve(text, "a", "y").expect("y").value, Value::Text("at 81/true".into()));
    }

    #[test]
    fn the_environment_comes_first_and_may_carry_types_and_references() {
        let text = "[a]\nx=${ENV:PORT}\ny=${ENV:REF}\nz=<${ENV:NONE}>\nw=$${ENV:PORT}\n[b]\nport=int:82\n";
        assert_eq!(resolve(text, "a", "x").expect("x").value, Value::Int(81));
        assert_eq!(resolve(text, "a", "y").expect("y").value, Value::Int(82));
        assert_eq!(resolve(text, "a", "z").expect("z").value, Value::Text("<>".into()));
        assert_eq!(resolve(text, "a", "w").expect("w").value, Value::Text("${ENV:PORT}".into()));
    }

    #[test]
    fn references_inside_typed_values_and_defaults() {
        let text = "[DEFAULT]\nbase=/srv\n[a]\nport=80\nx=int:${PORT}\np=${base}/${a:base}\n";
        assert_eq!(resolve(text, "a", "x").expect("x").value, Value::Int(80));
        assert_eq!(resolve(text, "a", "p").expect("p").value, Value::Text("/srv//srv".into()));
    }

    #[test]
    fn references_that_multiply_are_refused_before_they_fill_the_memory() {
        let mut text = "[a]\nx0=0123456789\n".to_owned();
        for level in 1..=50 {
            text.push_str(&format!("x{level}={}\n", format!("${{x{}}}", level - 1).repeat(10)));
        }
        let problem = resolve(&text, "a", "x50").expect_err("too much");
        assert!(problem.message.contains("larger than"), "{}", problem.message);
    }

    #[test]
    fn cycles_missing_keys_and_lone_dollars_are_named() {
        let text = "[a]\nx=${y}\ny=${a:x}\nm=${b:no}\nn=${no}\nd=5$\no=${x\n";
        for (key, needle) in [("x", "itself"), ("m", "[b]"), ("n", "`no`"), ("d", "$$"), ("o", "closing")] {
            let problem = resolve(text, "a", key).expect_err(key);
            assert!(problem.message.contains(needle), "{key}: {}", problem.message);
        }
    }
}
