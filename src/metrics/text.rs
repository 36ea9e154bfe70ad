//! The text format of Prometheus, version 0.0.4: families of samples, one after the other, each with its help and type.

use std::fmt::{Display, Write};

/// A text that grows by families.
#[derive(Debug, Default)]
pub struct Text(String);

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The samples of one family. Its help and type are written before the first of them: a family without any is left
/// out.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut Text,
    name: &'static str,
    help: &'static str,
    kind: Kind,
    is_begun: bool,
}

impl Text {
    /// All samples of a family have to come before the next family: the format asks for it.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family { text: self, name, help, kind, is_begun: false }
    }

    pub fn into_string(self) -> String {
        self.0
    }

    /// Writing to a `String` does not fail.
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample_of_part("", labels, value);
    }

    /// Adds a sample of a histogram's part: `_bucket`, `_sum` or `_count`.
    pub fn sample_of_part(&mut self, part: &str, labels: &[(&str, &str)], value: impl Display) {
        let name = self.name;
        if !self.is_begun {
            self.is_begun = true;
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            self.text.line(format_args!("# HELP {name} {}", self.help));
            self.text.line(format_args!("# TYPE {name} {kind}"));
        }
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        if labels.is_empty() {
            self.text.line(format_args!("{name}{part} {value}"));
        } else {
            self.text.line(format_args!("{name}{part}{{{}}} {value}", labels.join(",")));
        }
    }
}

/// A label's value: backslash, quote and line feed are the ones that the format escapes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_and_type_once_and_only_with_samples() {
        let mut text = Text::default();
        let mut family = text.family("a_total", Kind::Counter, "What it is.");
        family.sample(&[], 1);
        family.sample(&[("x", "y"), ("z", "")], 0.5);
        text.family("b", Kind::Gauge, "Nothing.");
        assert_eq!(
            text.into_string(),
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total 1\na_total{x=\"y\",z=\"\"} 0.5\n"
        );
    }

    #[test]
    fn label_values_cannot_break_a_line() {
        assert_eq!(escaped("a\\b\"c\nd\u{e9}"), "a\\\\b\\\"c\\nd\u{e9}");
    }
}
