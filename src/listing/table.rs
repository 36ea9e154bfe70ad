//! The list for people.

use std::fmt::Write;

use serde_json::Value;

use super::{Entry, FileEntry, Listing, State, short};
use crate::check::one_line;
use crate::palette::{Ink, Palette};

const TITLES: [&str; 6] = ["ROUTE", "STATE", "HANDLER", "KEY", "FIELDS", "FILE"];

/// One line for each plugin, one below it with what it is, and the files that fail.
pub fn text(listing: &Listing, palette: Palette) -> String {
    let count = listing.plugins.len();
    let plugins = if count == 1 { "1 plugin".to_owned() } else { format!("{count} plugins") };
    let origin = match listing.source {
        "server" => format!("{plugins} of the server at {}", listing.place),
        _ => format!("{plugins} in the files of {}, which were tried", short(&listing.place)),
    };
    let mut text = format!("{}\n", one_line(&origin));
    if !listing.plugins.is_empty() {
        write_plugins(&mut text, &listing.plugins, palette);
    }
    for file in &listing.files {
        write_error(&mut text, file, listing.source, palette);
    }
    text
}

fn write_plugins(text: &mut String, plugins: &[Entry], palette: Palette) {
    let rows: Vec<[String; 6]> = plugins.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([TITLES[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    let titles = TITLES.iter().zip(&widths).map(|(title, width)| format!("{title:<width$}")).collect::<Vec<_>>();
    let _ = writeln!(text, "\n{}", palette.paint(Ink::Faint, titles.join("  ").trim_end()));
    for (plugin, row) in plugins.iter().zip(&rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let ink = match (column, plugin.state) {
                (0, _) => Some(Ink::Strong),
                (1, State::Outdated) => Some(Ink::Doubtful),
                (1, _) => Some(Ink::Good),
                (5, _) => Some(Ink::Faint),
                _ => None,
            };
            let gap = if column + 1 == row.len() { 0 } else { widths[column] - cell.chars().count() + 2 };
            line.push_str(&ink.map_or_else(|| cell.clone(), |ink| palette.paint(ink, cell)));
            line.push_str(&" ".repeat(gap));
        }
        let _ = writeln!(text, "{}", line.trim_end());
        let about = plugin.description.lines().next().unwrap_or_default().trim();
        if !about.is_empty() {
            let _ = writeln!(text, "  {}", palette.paint(Ink::Faint, &one_line(about)));
        }
        if !plugin.arguments.is_empty() {
            let names = format!("[plugin_parms]: {}", plugin.arguments.join(", "));
            let _ = writeln!(text, "  {}", palette.paint(Ink::Faint, &one_line(&names)));
        }
    }
}

fn row(plugin: &Entry) -> [String; 6] {
    let state = match plugin.state {
        State::Serving => "serving",
        State::Outdated => "as before",
        State::Loads => "loads",
    };
    let kind = if plugin.is_async { "async" } else { "plain" };
    let methods = plugin.methods.iter().map(|method| format!(" +{method}")).collect::<String>();
    let line = plugin.line.map(|line| format!(":{line}")).unwrap_or_default();
    let fields = fields(&plugin.parameters);
    let cells = [
        plugin.route.clone(),
        state.to_owned(),
        format!("{kind}{methods}"),
        plugin.key.clone(),
        if fields.is_empty() { "-".to_owned() } else { fields },
        format!("{}{line}", short(&plugin.file)),
    ];
    cells.map(|cell| one_line(&cell))
}

/// `town* days=3 unit`: those with a star are needed, defaults follow their name.
fn fields(parameters: &Value) -> String {
    let field = |parameter: &Value| {
        let name = parameter["name"].as_str().unwrap_or_default();
        let star = if parameter["required"] == true { "*" } else { "" };
        let default = match &parameter["schema"]["default"] {
            Value::Null => String::new(),
            default => format!("={default}"),
        };
        format!("{name}{star}{default}")
    };
    parameters.as_array().into_iter().flatten().map(field).collect::<Vec<_>>().join(" ")
}

fn write_error(text: &mut String, file: &FileEntry, source: &str, palette: Palette) {
    let Some(error) = &file.error else { return };
    let place = match (error["file"].as_str(), error["line"].as_u64()) {
        (Some(path), Some(line)) => format!("{}:{line}", short(path)),
        _ => short(&file.file),
    };
    let words = format!(
        "{place}: {}: {}",
        error["type"].as_str().unwrap_or("Error"),
        error["message"].as_str().unwrap_or_default()
    );
    let verdict = match (file.plugins.is_empty(), source) {
        (true, _) => "does not load",
        (false, "server") => "does not load any more",
        (false, _) => "loads, with an error",
    };
    let _ = writeln!(text, "\n{} {verdict}", palette.paint(Ink::Bad, &one_line(&short(&file.file))));
    let _ = writeln!(text, "  {}", one_line(&words));
}
