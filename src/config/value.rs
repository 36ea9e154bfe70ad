//! `int:42`, `float:3.14`, `bool:true`, `list:a b int:3` -> a typed [`Value`]; anything else is a string.

/// A value of the configuration as plugins see it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Int(i128),
    Float(f64),
    Bool(bool),
    List(Vec<Value>),
}

/// Why a typed value cannot be read; the caller adds file, section and key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("`{0}` is not a whole number; write for example int:42")]
    NotAnInt(String),
    #[error("`{0}` is not a number; write for example float:3.14")]
    NotAFloat(String),
}

impl ValueError {
    /// The same without the value, which may be a key.
    pub fn without_text(&self) -> String {
        match self {
            Self::NotAnInt(_) => "is not a whole number; write for example int:42".to_owned(),
            Self::NotAFloat(_) => "is not a number; write for example float:3.14".to_owned(),
        }
    }
}

/// The words that mean true, in any case; every other word is false.
const TRUE_WORDS: [&str; 6] = ["true", "enabled", "on", "1", "enable", "yes"];

/// Reads a value whose references are already resolved.
pub fn parse(text: &str) -> Result<Value, ValueError> {
    let Some((kind, rest)) = split_type(text) else {
        return Ok(Value::Text(text.to_owned()));
    };
    match kind {
        Kind::Int => parse_int(rest).map(Value::Int).ok_or_else(|| ValueError::NotAnInt(rest.trim().to_owned())),
        Kind::Float => parse_float(rest).map(Value::Float).ok_or_else(|| ValueError::NotAFloat(rest.trim().to_owned())),
        Kind::Bool => Ok(Value::Bool(is_true_word(rest))),
        Kind::List => {
            let mut items = Vec::new();
            for item in rest.split_whitespace() {
                match parse(item)? {
                    Value::List(inner) => items.extend(inner),
                    single => items.push(single),
                }
            }
            Ok(Value::List(items))
        }
    }
}

/// The text of a value without its type: what another value gets that mentions it inside text.
pub fn plain_text(text: &str) -> &str {
    split_type(text).map_or(text, |(_, rest)| rest.trim())
}

/// Whether the word means true to `bool:` and to the server's own switches.
pub fn is_true_word(word: &str) -> bool {
    TRUE_WORDS.contains(&word.trim().to_lowercase().as_str())
}

/// A whole number as Python's `int()` reads it: spaces around it, a sign, single underscores between digits.
pub fn parse_int(text: &str) -> Option<i128> {
    without_underscores(text.trim())?.parse().ok()
}

fn parse_float(text: &str) -> Option<f64> {
    without_underscores(text.trim())?.parse().ok()
}

fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |index: Option<usize>| index.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    for (index, byte) in bytes.iter().enumerate() {
        if *byte == b'_' && !(is_digit(index.checked_sub(1)) && is_digit(Some(index + 1))) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

#[derive(Clone, Copy)]
enum Kind {
    Int,
    Float,
    Bool,
    List,
}

fn split_type(text: &str) -> Option<(Kind, &str)> {
    let (name, rest) = text.split_once(':')?;
    let kind = match name {
        "int" => Kind::Int,
        "float" => Kind::Float,
        "bool" => Kind::Bool,
        "list" => Kind::List,
        _ => return None,
    };
    Some((kind, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_values() {
        assert_eq!(parse("int: 4_2 "), Ok(Value::Int(42)));
        assert_eq!(parse("float:1e3"), Ok(Value::Float(1000.0)));
        assert_eq!(parse("bool:Enabled"), Ok(Value::Bool(true)));
        assert_eq!(parse("bool:maybe"), Ok(Value::Bool(false)));
        assert_eq!(
            parse("list:a & int:3"),
            Ok(Value::List(vec![Value::Text("a".into()), Value::Text("&".into()), Value::Int(3)]))
        );
        assert_eq!(parse("list:"), Ok(Value::List(vec![])));
    }

    #[test]
    fn other_prefixes_are_text() {
        assert_eq!(parse("http://x"), Ok(Value::Text("http://x".into())));
        assert_eq!(parse("INT:4"), Ok(Value::Text("INT:4".into())));
    }

    #[test]
    fn numbers_that_do_not_parse_are_errors() {
        for text in ["int:", "int:4x", "int:4__2", "float:x", "list:a int:b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
