//! `pserve top`: what plugins and workers do, from `/metrics` of the server that the INI file names, looked at again and
//! again. `sample` reads the text, `rates` compares two looks, `view` lays them out, `terminal` shows them and hears keys.

mod rates;
mod sample;
mod terminal;
mod view;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::TopArguments;
use crate::client::Client;
use crate::config::Settings;
use crate::palette::Palette;
use rates::Rates;
use sample::Sample;
use terminal::{Key, Terminal};
use view::View;

/// Looks at the server until somebody has seen enough; once, when nobody sits at a terminal.
pub fn run(arguments: &TopArguments, settings: &Settings) -> anyhow::Result<()> {
    let client = Client::for_settings(settings)?;
    let interval = Duration::from_secs_f64(arguments.interval);
    let view = View::new(client.place(), arguments.sort, Palette::of_stdout());
    if arguments.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return once(&client, interval, &view);
    }
    watch(&client, interval, view)
}

/// A look, with when it was taken.
struct Look {
    sample: Sample,
    at: Instant,
}

fn look(client: &Client) -> anyhow::Result<Look> {
    let answer = client.get("/metrics")?;
    let at = Instant::now();
    let sample = if answer.is_success() { Sample::parse(&answer.text()) } else { None };
    match sample {
        Some(sample) => Ok(Look { sample, at }),
        None if answer.is_success() => bail!("{}/metrics are not those of pserve", client.place()),
        None => bail!("{}/metrics answered {}", client.place(), answer.status),
    }
}

/// What has happened between two looks, as text.
fn once(client: &Client, interval: Duration, view: &View) -> anyhow::Result<()> {
    let before = look(client)?;
    std::thread::sleep(interval);
    let now = look(client)?;
    let rates = Rates::between(&before.sample, &now.sample, now.at - before.at);
    let mut text = view.report(&rates).join("\n");
    text.push('\n');
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("the answer cannot be written")
}

/// Shows what happens, until a key or a signal ends it. Errs at once when there is no server; one that goes away
/// later may come back.
fn watch(client: &Client, interval: Duration, mut view: View) -> anyhow::Result<()> {
    let mut before = look(client)?;
    let mut terminal = Terminal::open().context("the terminal cannot be used")?;
    // The first numbers come soon; then as often as was asked for.
    let mut due = before.at + interval.min(Duration::from_millis(500));
    let mut rates = None;
    loop {
        terminal.show(&view.screen(rates.as_ref(), terminal.size()))?;
        match terminal.next_key(due.saturating_duration_since(Instant::now()))? {
            Some(Key::Quit) => return Ok(()),
            Some(key) => view.press(key),
            None if Instant::now() < due => {}
            None => {
                match look(client) {
                    Ok(now) => {
                        rates = Some(Rates::between(&before.sample, &now.sample, now.at - before.at));
                        view.trouble = None;
                        before = now;
                    }
                    Err(problem) => view.trouble = Some(format!("{problem:#}")),
                }
                due = Instant::now() + interval;
            }
        }
    }
}
