//! What is shown: two tables, in the order that is asked for, cut to the room that there is.

use std::cmp::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::rates::{PluginRates, Rates, WorkerRates};
use super::terminal::Key;
use crate::cli::SortBy;
use crate::palette::{Ink, Palette};

/// The room on a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub columns: usize,
}

impl Default for Size {
    /// What every terminal has.
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// Columns of plugins beside the name: the key that sorts by it, its head and its width.
const COLUMNS: [(SortBy, char, &str, usize); 6] = [
    (SortBy::Requests, 'r', "REQ/S", 9),
    (SortBy::P50, '5', "P50", 9),
    (SortBy::P99, '9', "P99", 9),
    (SortBy::Errors, 'e', "ERR/S", 9),
    (SortBy::Running, 'u', "RUNNING", 9),
    (SortBy::Waiting, 'w', "WAITING", 9),
];

/// The heads of the workers' columns with their widths.
const WORKER_COLUMNS: [(&str, usize); 9] = [
    ("WORKER", 6),
    ("PID", 9),
    ("UP", 10),
    ("MEMORY", 9),
    ("LAG", 8),
    ("CONNS", 8),
    ("REQ/S", 9),
    ("THREADS", 9),
    ("RESTARTS", 10),
];

const LEAST_NAME_WIDTH: usize = 12;

/// From which lag of the event loop on somebody should look, and from which on nobody can overlook it, in seconds.
const DOUBTFUL_LAG: f64 = 0.1;
const BAD_LAG: f64 = 1.0;

const HELP: &str = "q quit   sort: n name  r req/s  5 p50  9 p99  e errors  u running  w waiting";

/// What somebody at the terminal has chosen, and what is wrong at the moment.
#[derive(Debug)]
pub struct View {
    place: String,
    palette: Palette,
    sort: SortBy,
    is_reversed: bool,
    /// Plugins that are above the first one shown.
    above: usize,
    /// Plugins that there were room for when it was last shown.
    room: usize,
    /// Why the last look has failed.
    pub trouble: Option<String>,
}

impl View {
    pub fn new(place: String, sort: SortBy, palette: Palette) -> Self {
        Self { place, palette, sort, is_reversed: false, above: 0, room: 1, trouble: None }
    }

    /// Does what a key stands for.
    pub fn press(&mut self, key: Key) {
        let all: Vec<SortBy> = std::iter::once(SortBy::Name).chain(COLUMNS.map(|(column, ..)| column)).collect();
        let now = all.iter().position(|column| *column == self.sort).unwrap_or(0);
        match key {
            Key::Letter('n') => self.sort_by(SortBy::Name),
            Key::Letter(letter) => {
                if let Some((column, ..)) = COLUMNS.into_iter().find(|(_, key, ..)| *key == letter) {
                    self.sort_by(column);
                }
            }
            Key::Left => self.sort_by(all[(now + all.len() - 1) % all.len()]),
            Key::Right => self.sort_by(all[(now + 1) % all.len()]),
            Key::Up => self.above = self.above.saturating_sub(1),
            Key::Down => self.above += 1,
            Key::PageUp => self.above = self.above.saturating_sub(self.room),
            Key::PageDown => self.above += self.room,
            Key::Home => self.above = 0,
            Key::Quit => {}
        }
    }

    /// The same column again turns the order round.
    fn sort_by(&mut self, column: SortBy) {
        self.is_reversed = self.sort == column && !self.is_reversed;
        self.sort = column;
        self.above = 0;
    }

    /// Everything, for a file or a script.
    pub fn report(&self, rates: &Rates) -> Vec<String> {
        let longest = rates.plugins.iter().map(|plugin| plugin.name.chars().count()).max().unwrap_or(0);
        let width = longest.max(Size::default().columns - fixed_width());
        let mut lines = self.heading(rates);
        lines.push(String::new());
        lines.push(self.plugin_heads(width));
        lines.extend(self.sorted(rates).into_iter().map(|plugin| self.plugin_row(plugin, width)));
        lines.push(String::new());
        lines.push(self.worker_heads());
        lines.extend(rates.workers.iter().map(|worker| self.worker_row(worker)));
        lines
    }

    /// As much as there is room for: the last line says which keys there are.
    pub fn screen(&mut self, rates: Option<&Rates>, size: Size) -> Vec<String> {
        let help = self.palette.paint(Ink::Faint, &cut(HELP, size.columns));
        let Some(rates) = rates else {
            return vec![self.trouble_or(&format!("looking at {}", self.place), size.columns), help];
        };
        let width = size.columns.saturating_sub(fixed_width()).max(LEAST_NAME_WIDTH);
        let heading = self.heading(rates);
        // Two heads, two empty lines and the help.
        let room = size.rows.saturating_sub(heading.len() + 5).max(2);
        let workers = rates.workers.len().min((room / 2).max(room.saturating_sub(rates.plugins.len())));
        self.room = room - workers;
        self.above = self.above.min(rates.plugins.len().saturating_sub(self.room));
        let sorted = self.sorted(rates);
        let mut lines = heading;
        lines.push(self.trouble_or("", size.columns));
        lines.push(self.plugin_heads(width));
        lines.extend(sorted.into_iter().skip(self.above).take(self.room).map(|plugin| self.plugin_row(plugin, width)));
        lines.push(self.palette.paint(Ink::Faint, &self.left_out(rates.plugins.len())));
        lines.push(self.worker_heads());
        lines.extend(rates.workers.iter().take(workers).map(|worker| self.worker_row(worker)));
        while lines.len() + 1 < size.rows {
            lines.push(String::new());
        }
        lines.truncate(size.rows.saturating_sub(1));
        lines.push(help);
        if self.palette.is_plain() {
            lines.iter_mut().for_each(|line| *line = cut(line, size.columns));
        }
        lines
    }

    fn left_out(&self, count: usize) -> String {
        let last = (self.above + self.room).min(count);
        if last - self.above < count {
            format!("{} to {last} of {count} plugins", self.above + 1)
        } else {
            String::new()
        }
    }

    fn trouble_or(&self, other: &str, width: usize) -> String {
        match &self.trouble {
            Some(trouble) => self.palette.paint(Ink::Bad, &cut(trouble, width)),
            None => cut(other, width),
        }
    }

    fn heading(&self, rates: &Rates) -> Vec<String> {
        let now = &rates.now;
        let title = format!("pserve {}, Python {}", now.version, now.python);
        let errors: f64 = rates.plugins.iter().map(|plugin| plugin.errors).sum();
        let connections: f64 = now.workers.values().filter_map(|worker| worker.connections).sum();
        let restarts: f64 = now.workers.values().map(|worker| worker.restarts).sum();
        let broken = now.workers.values().map(|worker| worker.broken_files).fold(0.0, f64::max);
        let mut facts = vec![format!("{} answers/s", rate(rates.responses))];
        let errors_text = format!("{} errors/s", rate(errors));
        facts.push(if errors > 0.0 { self.palette.paint(Ink::Bad, &errors_text) } else { errors_text });
        facts.push(counted(connections, "connection"));
        facts.push(counted(rates.workers.len() as f64, "worker"));
        facts.push(counted(restarts, "restart"));
        if broken > 0.0 {
            facts.push(self.palette.paint(Ink::Bad, &counted(broken, "broken file")));
        }
        vec![
            format!("{}  {}  up {}", self.palette.paint(Ink::Strong, &title), self.place, age(now.started)),
            facts.join("  "),
        ]
    }

    fn plugin_heads(&self, width: usize) -> String {
        let head = |column: SortBy, text: &str| {
            self.palette.paint(if column == self.sort { Ink::Address } else { Ink::Strong }, text)
        };
        let mut line = head(SortBy::Name, &format!("{:width$}", "PLUGIN"));
        for (column, _, text, width) in COLUMNS {
            line.push_str(&head(column, &format!("{text:>width$}")));
        }
        line
    }

    fn plugin_row(&self, plugin: &PluginRates, width: usize) -> String {
        let name = format!("{:width$}", cut(&harmless(&plugin.name), width));
        let is_idle = plugin.requests == 0.0 && plugin.running == 0.0 && plugin.waiting == 0.0;
        let mut line = if is_idle { self.palette.paint(Ink::Faint, &name) } else { name };
        for (column, _, _, width) in COLUMNS {
            let (text, ink) = match column {
                SortBy::Name => continue,
                SortBy::Requests => (rate(plugin.requests), None),
                SortBy::P50 => (duration(plugin.half), None),
                SortBy::P99 => (duration(plugin.slowest), None),
                SortBy::Errors => (rate(plugin.errors), (plugin.errors > 0.0).then_some(Ink::Bad)),
                SortBy::Running => (count(plugin.running), None),
                SortBy::Waiting => (count(plugin.waiting), (plugin.waiting > 0.0).then_some(Ink::Doubtful)),
            };
            let ink = ink.or(is_idle.then_some(Ink::Faint));
            line.push_str(&self.in_ink(ink, &format!("{text:>width$}")));
        }
        line
    }

    fn worker_heads(&self) -> String {
        let heads = WORKER_COLUMNS.map(|(text, width)| format!("{text:>width$}"));
        self.palette.paint(Ink::Strong, &heads.concat())
    }

    fn worker_row(&self, worker: &WorkerRates) -> String {
        let now = &worker.now;
        let lag = now.loop_lag.unwrap_or(0.0);
        let of_lag = (lag >= BAD_LAG).then_some(Ink::Bad).or((lag >= DOUBTFUL_LAG).then_some(Ink::Doubtful));
        let known = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), text);
        let cells = [
            (worker.number.to_string(), None),
            (if now.pid.is_empty() { "-".to_owned() } else { harmless(&now.pid) }, None),
            (known(now.started, age), None),
            (known(now.memory, size), None),
            (duration(now.loop_lag), of_lag),
            (known(now.connections, count), None),
            (rate(worker.requests), None),
            (known(now.threads, count), None),
            (count(now.restarts), (now.restarts > 0.0).then_some(Ink::Doubtful)),
        ];
        let cells = cells.into_iter().zip(WORKER_COLUMNS);
        cells.map(|((text, ink), (_, width))| self.in_ink(ink, &format!("{text:>width$}"))).collect()
    }

    fn in_ink(&self, ink: Option<Ink>, text: &str) -> String {
        ink.map_or_else(|| text.to_owned(), |ink| self.palette.paint(ink, text))
    }

    /// The largest first, names from A to Z; where they are equal, names decide.
    fn sorted<'a>(&self, rates: &'a Rates) -> Vec<&'a PluginRates> {
        let mut plugins: Vec<&PluginRates> = rates.plugins.iter().collect();
        plugins.sort_by(|one, other| {
            let order = compare(self.sort, one, other);
            let order = if self.is_reversed { order.reverse() } else { order };
            order.then_with(|| one.name.cmp(&other.name))
        });
        plugins
    }
}

fn compare(by: SortBy, one: &PluginRates, other: &PluginRates) -> Ordering {
    let value = |plugin: &PluginRates| match by {
        SortBy::Name => 0.0,
        SortBy::Requests => plugin.requests,
        // Those without any call come last.
        SortBy::P50 => plugin.half.unwrap_or(-1.0),
        SortBy::P99 => plugin.slowest.unwrap_or(-1.0),
        SortBy::Errors => plugin.errors,
        SortBy::Running => plugin.running,
        SortBy::Waiting => plugin.waiting,
    };
    if by == SortBy::Name { one.name.cmp(&other.name) } else { value(other).total_cmp(&value(one)) }
}

/// What the columns beside the name take.
fn fixed_width() -> usize {
    COLUMNS.iter().map(|(.., width)| width).sum()
}

fn counted(number: f64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1.0 { "" } else { "s" })
}

fn rate(number: f64) -> String {
    if number < 10_000.0 { format!("{number:.1}") } else { count(number) }
}

fn count(number: f64) -> String {
    match number {
        n if n < 1e6 => format!("{n:.0}"),
        n if n < 1e9 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.is_infinite() => ">10s".to_owned(),
        Some(seconds) if seconds >= 1.0 => format!("{seconds:.2}s"),
        Some(seconds) if seconds >= 0.1 => format!("{:.0}ms", seconds * 1e3),
        Some(seconds) => format!("{:.1}ms", seconds * 1e3),
    }
}

fn size(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    if mebibytes < 1024.0 { format!("{mebibytes:.1}M") } else { format!("{:.2}G", mebibytes / 1024.0) }
}

/// How long ago a Unix time was.
fn age(since: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    let seconds = (now - since).max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        _ if days > 0 => format!("{days}d{:02}h", hours % 24),
        _ if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{minutes}m{:02}s", seconds % 60),
    }
}

/// The text, or its beginning with a sign that it goes on.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A name that cannot move the cursor.
fn harmless(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::top::sample::{Sample, Worker};

    fn plugin(name: &str, requests: f64, slowest: Option<f64>) -> PluginRates {
        let name = name.to_owned();
        PluginRates { name, requests, half: slowest, slowest, errors: 0.0, running: 0.0, waiting: 0.0, total: 0.0 }
    }

    fn rates(plugins: Vec<PluginRates>) -> Rates {
        let worker = Worker { pid: "42".to_owned(), memory: Some(5e7), ..Worker::default() };
        let now = Sample { workers: BTreeMap::from([(1, worker.clone())]), ..Sample::default() };
        Rates { now, responses: 3.0, plugins, workers: vec![WorkerRates { number: 1, requests: 3.0, now: worker }] }
    }

    fn view() -> View {
        View::new("http://127.0.0.1:9192".to_owned(), SortBy::Requests, Palette::plain())
    }

    fn names(view: &mut View, rates: &Rates, size: Size) -> Vec<String> {
        let lines = view.screen(Some(rates), size);
        let rows = lines.iter().skip_while(|line| !line.starts_with("PLUGIN")).skip(1);
        let rows = rows.take_while(|line| line.contains("ms") || line.contains(" - "));
        rows.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn keys_choose_the_order() {
        let rates = rates(vec![plugin("a", 1.0, Some(0.01)), plugin("b", 3.0, None), plugin("c", 2.0, Some(0.02))]);
        let (mut view, size) = (view(), Size::default());
        assert_eq!(names(&mut view, &rates, size), ["b", "c", "a"]);
        view.press(Key::Letter('9'));
        assert_eq!(names(&mut view, &rates, size), ["c", "a", "b"]);
        view.press(Key::Letter('n'));
        assert_eq!(names(&mut view, &rates, size), ["a", "b", "c"]);
        view.press(Key::Letter('n'));
        assert_eq!(names(&mut view, &rates, size), ["c", "b", "a"]);
        view.press(Key::Right);
        assert_eq!(names(&mut view, &rates, size), ["b", "c", "a"]);
    }

    #[test]
    fn nothing_is_wider_or_higher_than_the_terminal() {
        let many = (0..50).map(|number| plugin(&format!("{}{number}", "long".repeat(30)), 1e9, Some(9.99)));
        let rates = rates(many.collect());
        for (rows, columns) in [(24, 80), (10, 80), (60, 200), (8, 80)] {
            let lines = view().screen(Some(&rates), Size { rows, columns });
            assert_eq!(lines.len(), rows);
            assert!(lines.iter().all(|line| line.chars().count() <= columns), "{lines:#?}");
        }
    }

    #[test]
    fn what_does_not_fit_can_be_scrolled_to() {
        let rates = rates((10..60).map(|number| plugin(&format!("p{number}"), 0.0, Some(0.001))).collect());
        let (mut view, size) = (view(), Size { rows: 12, columns: 80 });
        let first = names(&mut view, &rates, size);
        assert_eq!(first[0], "p10");
        view.press(Key::PageDown);
        assert_eq!(names(&mut view, &rates, size)[0], format!("p{}", 10 + first.len()));
        for _ in 0..100 {
            view.press(Key::Down);
        }
        assert_eq!(names(&mut view, &rates, size).last().map(String::as_str), Some("p59"));
    }

    #[test]
    fn numbers_keep_their_columns() {
        assert_eq!([0.04, 9999.94, 123_456.0, 2.5e6].map(rate), ["0.0", "9999.9", "123456", "2.5M"]);
        assert_eq!(
            [None, Some(0.0004), Some(0.25), Some(2.0), Some(f64::INFINITY)].map(duration),
            ["-", "0.4ms", "250ms", "2.00s", ">10s"]
        );
        assert_eq!([52_428_800.0, 3e9].map(size), ["50.0M", "2.79G"]);
        assert_eq!(harmless("a\u{1b}[2J"), "a?[2J");
    }
}
