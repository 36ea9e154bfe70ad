//! `pserve dev` shows every request as it comes: one line with status, method, time, size and address, keys masked.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, header};

use super::access_line::masked;
use super::body::Outgoing;
use crate::console::Console;
use crate::dev::terminal::{confession, in_words, now};
use crate::logging;
use crate::palette::{Ink, Palette};

/// What the server's own page asks for again and again.
const OWN_PAGE: &str = "/-/";

/// Where the lines go.
#[derive(Debug)]
pub struct RequestLines {
    console: Mutex<Console>,
    palette: Palette,
}

/// A request whose answer is not known yet.
#[derive(Debug)]
pub struct Begun {
    method: Method,
    target: String,
    since: Instant,
}

impl RequestLines {
    pub fn of_stdout() -> io::Result<Self> {
        Ok(Self { console: Mutex::new(Console::new(io::stdout())?), palette: Palette::of_stdout() })
    }

    /// Shows one that has been answered.
    fn show(&self, begun: &Begun, status: u16, body_bytes: u64) {
        let time = self.palette.paint(Ink::Faint, &now());
        let line = format!("{time}  {}\n", line(self.palette, begun, status, begun.since.elapsed(), body_bytes));
        self.console.lock().unwrap_or_else(PoisonError::into_inner).write(&line, confession);
    }
}

impl Begun {
    pub fn new<B>(request: &Request<B>) -> Self {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        Self { method: request.method().clone(), target: target.to_owned(), since: Instant::now() }
    }
}

impl Begun {
    /// Shows it, once its body has gone to its end.
    pub fn answered<B: http_body::Body>(
        self,
        lines: std::sync::Arc<RequestLines>,
        response: &mut Response<Outgoing<B>>,
    ) {
        let status = response.status().as_u16();
        if self.target.starts_with(OWN_PAGE) && status < 400 {
            return;
        }
        let announced = response.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        match response.body_mut() {
            Outgoing::Flowing(body) => body.at_end(move |sent_bytes| lines.show(&self, status, sent_bytes)),
            Outgoing::Whole(body) => {
                let size = body.size_hint().exact().or(announced).unwrap_or(0);
                lines.show(&self, status, size);
            }
        }
    }
}

fn line(palette: Palette, begun: &Begun, status: u16, took: Duration, body_bytes: u64) -> String {
    let ink = match status {
        0..400 => Ink::Good,
        400..500 => Ink::Doubtful,
        _ => Ink::Bad,
    };
    let status = palette.paint(ink, &status.to_string());
    let method = palette.paint(Ink::Strong, &format!("{:<7}", begun.method.as_str()));
    let numbers = format!("{:>7}  {:>8}", in_words(took), size_in_words(body_bytes));
    let target = logging::presentable(&masked(&begun.target));
    format!("{status}  {method} {}  {target}", palette.paint(Ink::Faint, &numbers))
}

fn size_in_words(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let amount = bytes as f64;
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.0} kB", amount / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", amount / 1e6),
        _ => format!("{:.1} GB", amount / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_was_asked_and_answered_but_no_key() {
        let request = Request::get("/a/b?apikey=secret&x=1").body(()).expect("a request");
        let text = line(Palette::plain(), &Begun::new(&request), 404, Duration::from_micros(1500), 12_345);
        assert_eq!(text, "404  GET      1.5 ms     12 kB  /a/b?apikey=***&x=1");
    }

    #[test]
    fn sizes_have_few_digits() {
        assert_eq!([17, 9999, 10_000, 1_500_000].map(size_in_words), ["17 B", "9999 B", "10 kB", "1.5 MB"]);
    }
}
