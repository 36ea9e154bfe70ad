//! Colours for a terminal that wants them: none for a pipe, nor where `NO_COLOR` or a dumb terminal says so.

use std::io::{self, IsTerminal};

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    Good,
    Doubtful,
    Bad,
    /// What stands beside the matter.
    Faint,
    /// What the eye should find.
    Strong,
    Address,
}

/// How texts are coloured.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    is_coloured: bool,
}

impl Palette {
    /// For standard output.
    pub fn of_stdout() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        // https://no-color.org
        Self { is_coloured: io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb }
    }

    /// Without colours.
    pub fn plain() -> Self {
        Self { is_coloured: false }
    }

    /// Whether it adds nothing.
    pub fn is_plain(self) -> bool {
        !self.is_coloured
    }

    /// The text in its colour, by ECMA-48, 8.3.117.
    pub fn paint(self, ink: Ink, text: &str) -> String {
        if !self.is_coloured || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Good => "32",
            Ink::Doubtful => "33",
            Ink::Bad => "31",
            Ink::Faint => "2",
            Ink::Strong => "1",
            Ink::Address => "36",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_coloured_palette_adds_anything() {
        assert_eq!(Palette::plain().paint(Ink::Bad, "x"), "x");
        assert_eq!(Palette { is_coloured: true }.paint(Ink::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(Palette { is_coloured: true }.paint(Ink::Bad, ""), "");
    }
}
