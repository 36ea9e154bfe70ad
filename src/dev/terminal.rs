//! What `pserve dev` writes: lines with the time before them, in colours where the terminal has them.

use std::io;
use std::time::Duration;

use crate::console::Console;
use crate::logging;
use crate::palette::{Ink, Palette};

/// Standard output, as a person reads it.
#[derive(Debug)]
pub struct Terminal {
    console: Console,
    palette: Palette,
}

impl Terminal {
    pub fn of_stdout() -> io::Result<Self> {
        Ok(Self { console: Console::new(io::stdout())?, palette: Palette::of_stdout() })
    }

    pub fn paint(&self, ink: Ink, text: &str) -> String {
        self.palette.paint(ink, &logging::presentable(text))
    }

    /// One line of what has happened. Its pieces have been painted.
    pub fn tell(&mut self, line: &str) {
        self.tell_more(line, "");
    }

    /// As [`Terminal::tell`], with lines below it.
    pub fn tell_more(&mut self, line: &str, below: &str) {
        let time = self.paint(Ink::Faint, &now());
        self.write(&format!("{time}  {line}\n{below}"));
    }

    /// Text of several lines as it is.
    pub fn write(&mut self, text: &str) {
        self.console.write(text, confession);
    }
}

/// The time as every line begins with it.
pub fn now() -> String {
    chrono::Local::now().format("%H:%M:%S").to_string()
}

/// What a reader is told who has not read for a while.
pub fn confession(lost_lines: u64) -> String {
    format!("lines left out here because nobody read them: {lost_lines}\n")
}

/// A duration as people take it in: three digits at most.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        10.0.. => format!("{seconds:.0} s"),
        1.0.. => format!("{seconds:.1} s"),
        0.01.. => format!("{:.0} ms", seconds * 1000.0),
        _ => format!("{:.1} ms", seconds * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_few_digits() {
        let texts = [340, 9_400, 14_200, 1_490_000, 61_000_000].map(|micros| in_words(Duration::from_micros(micros)));
        assert_eq!(texts, ["0.3 ms", "9.4 ms", "14 ms", "1.5 s", "61 s"]);
    }
}
