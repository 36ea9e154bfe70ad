//! The man page: what the command line's definition and the table of keys say, and what stands in neither.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command};
use roff::{Inline, Roff, bold, italic, roman};

use super::markdown::plain;
use crate::cli::Cli;
use crate::config::keys::{DefaultValue, Key, SECTIONS, Section};

const FILES: [(&str, &str); 5] = [
    (
        "pserve.ini, config.ini",
        "The INI file that is taken, in this order, from the current folder when -i names none.",
    ),
    ("/etc/pserve/pserve.ini", "Where the unit for systemd looks for it."),
    ("/etc/pserve/environment", "Variables for the service, keys above all; it may be missing."),
    (
        "/run/pserve, /var/lib/pserve, /var/log/pserve",
        "Sockets and the pidfile, the current folder, and logs of the service.",
    ),
    ("PREFIX/share/doc/pserve/examples/pserve.ini", "An INI file to begin with."),
];

const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGHUP, SIGUSR1",
        "The INI file is read again and new workers start with it; when they have loaded their plugins they take over, \
         and the old ones finish what they have. No request is lost. Log files are opened again. When the new ones \
         cannot start, the old ones go on.",
    ),
    (
        "SIGTERM, SIGINT, SIGABRT",
        "No connection is accepted any more, requests in flight are finished, plugins are terminated, and the server \
         ends. A second signal ends it at once.",
    ),
    ("SIGUSR2", "The status and the stacks of every Python thread and task go to the log."),
];

const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "A signal asked for the end, or the command did what it is for."),
    (
        "1",
        "It could not run: the port is in use, Python does not start, a file cannot be written. Of commands: something \
         would not work, or the answer is an error.",
    ),
    ("2", "The command line or the configuration cannot work; one line on standard error says what is wrong where."),
];

const ENVIRONMENT: [(&str, &str); 5] = [
    (
        "PSERVE_<SECTION>_<KEY>",
        "Takes the place of a key of the INI file, in capitals and with an underscore for everything that is no letter \
         or digit: PSERVE_NETWORK_PORT=81, PSERVE_AUTH_APIKEY=... Keys of the server need not be in the file, your \
         own must be.",
    ),
    ("PORT", "The port, where neither the file nor PSERVE_NETWORK_PORT names one."),
    ("VIRTUAL_ENV", "The virtual environment, where [python] venv is not set."),
    ("NO_COLOR", "Set to anything: no colours on the terminal."),
    ("NOTIFY_SOCKET, LISTEN_FDS, WATCHDOG_USEC", "What systemd tells a service, see sd_notify(3)."),
];

/// The page in roff.
pub fn page() -> String {
    let mut definition = Cli::definition();
    definition.build();
    // Without a date: the same program gives the same page on every day.
    let title = format!(".TH PSERVE 1 \"\" \"pserve {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman("pserve - Python plugins as HTTP endpoints")]);
    roff.control("SH", ["SYNOPSIS"]);
    for command in std::iter::once(&definition).chain(commands_of(&definition)) {
        roff.text([bold(usage(command))]);
        roff.control("br", []);
    }
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(definition.get_about().map(ToString::to_string).unwrap_or_default())]);
    roff.control("SH", ["OPTIONS"]);
    arguments(&definition, &mut roff);
    roff.control("SH", ["COMMANDS"]);
    roff.text([roman("Without one of these it serves.")]);
    for command in commands_of(&definition) {
        roff.control("SS", [usage(command).as_str()]);
        roff.text([roman(format!("{}.", command.get_about().map(ToString::to_string).unwrap_or_default()))]);
        arguments(command, &mut roff);
        if let Some(more) = command.get_after_help() {
            roff.control("PP", []);
            roff.text([roman(more.to_string())]);
        }
    }
    configuration(&mut roff);
    list("FILES", &FILES, &mut roff);
    list("ENVIRONMENT", &ENVIRONMENT, &mut roff);
    list("SIGNALS", &SIGNALS, &mut roff);
    roff.text([roman("Signals go to the process whose number is in the log and the pidfile.")]);
    list("EXIT STATUS", &EXIT_STATUS, &mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("systemd.service(5), sched(7), python3(1)")]);
    title + &roff.render()
}

fn commands_of(definition: &Command) -> impl Iterator<Item = &Command> {
    definition.get_subcommands().filter(|command| command.get_name() != "help")
}

fn arguments(command: &Command, roff: &mut Roff) {
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
        roff.control("TP", []);
        roff.text(title(argument));
        roff.text([roman(help(argument))]);
    }
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned()
}

fn takes_values(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

fn title(argument: &Arg) -> Vec<Inline> {
    let (short, long) = (argument.get_short(), argument.get_long());
    let names = [short.map(|short| format!("-{short}")), long.map(|long| format!("--{long}"))];
    let names: Vec<String> = names.into_iter().flatten().collect();
    let values = argument.get_value_names().filter(|_| takes_values(argument)).unwrap_or_default();
    let values = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match (names.is_empty(), values.is_empty()) {
        (true, _) => vec![italic(values)],
        (false, true) => vec![bold(names.join(", "))],
        (false, false) => vec![bold(names.join(", ")), roman(" "), italic(values)],
    }
}

fn help(argument: &Arg) -> String {
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes_values(argument) && !defaults.is_empty() {
        let _ = write!(help, " [default: {}]", defaults.join(" "));
    }
    help
}

/// Every key, section by section.
fn configuration(roff: &mut Roff) {
    roff.control("SH", ["CONFIGURATION"]);
    roff.text([roman(
        "An INI file, as Python's configparser reads one. Values may have a type (int:42, float:3.14, bool:true, \
         list:a b), and refer to others as ${section:key}, ${key} or ${ENV:NAME}; $$ is a dollar sign. --print-config \
         shows the result.",
    )]);
    for section in &SECTIONS {
        roff.control("SS", [format!("[{}]", section.name).as_str()]);
        for key in section.keys {
            roff.control("TP", []);
            roff.text(vec![bold(key.name), roman(format!(" ({})", facts(section, key)))]);
            roff.text([roman(plain(key.meaning))]);
        }
    }
}

/// The type, the unit and the default of a key.
fn facts(section: &Section, key: &Key) -> String {
    let unit = if key.unit.is_empty() { String::new() } else { format!(", {}", key.unit) };
    let default = match key.default {
        DefaultValue::Needed => "needed".to_owned(),
        DefaultValue::Unset => "not set by default".to_owned(),
        DefaultValue::Is(text) => format!("default {text}"),
        DefaultValue::Depends(words) => format!("default: {}", plain(words)),
    };
    let place = if section.title_of(key).contains(": ") { "in the value of <name>; " } else { "" };
    format!("{place}{}{unit}; {default}", key.kind)
}

fn list(title: &str, entries: &[(&str, &str)], roff: &mut Roff) {
    roff.control("SH", [title]);
    for (name, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*meaning)]);
    }
    roff.control("PP", []);
}
