//! Flags as they were typed. Opens nothing and resolves nothing but which INI file is meant.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::logging::{Asked, Format, Severity};

/// Serves the Python plugin files of a folder as HTTP endpoints.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "pserve",
    version,
    infer_long_args = true,
    args_override_self = true,
    about = "Serves the Python plugin files of a folder as HTTP endpoints.",
    after_help = "Signals: SIGHUP or SIGUSR1 reads the INI file and reloads every plugin without losing a request;\n\
                  SIGTERM, SIGINT or SIGABRT finishes what is in flight and stops.\n\
                  Exit status: 0 stopped by a signal, 1 could not run, 2 command line or configuration is wrong."
)]
pub struct Cli {
    /// INI file [default: pserve.ini, else config.ini, in the current folder]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,

    /// Log file, written beside standard output
    #[arg(short = 'l', long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Form of the log: auto (text on a terminal, else systemd), text, systemd or json [default: [server] log_format]
    #[arg(long, value_name = "FORM", value_parser = parse_format)]
    pub log_format: Option<Format>,

    /// DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case [default: [server] log_level, else INFO]
    #[arg(short = 'v', long, value_name = "LEVEL", value_parser = parse_level)]
    pub level: Option<GivenLevel>,

    /// Show the settings in force, defaults included and keys masked, and end
    #[arg(long)]
    pub print_config: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program does. Without a subcommand it serves.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Say what would work and what would not, and what to do about it; serves nothing
    Check(CheckArguments),

    /// Call a plugin once, without a server, and print its answer
    Call(CallArguments),

    /// Serve a folder while you write in it: takes up what is saved, shows errors and requests
    Dev(DevArguments),

    /// Write a new plugin with its test
    New(NewArguments),

    /// List the plugins of the running server, or of the files where none runs
    Plugins(PluginsArguments),

    /// Run the Python inside: a script, -m MODULE, -c CODE, or a prompt, with plugincore to import
    #[command(disable_help_flag = true)]
    Python {
        /// As for python itself
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<OsString>,
    },

    /// Show in a live table what plugins and workers of a running server do, from its /metrics
    Top(TopArguments),

    /// Write plugincore with its types and descriptions into a folder, for editors and type checkers
    Stubs {
        /// Where editors look for them
        #[arg(default_value = "typings")]
        folder: PathBuf,
    },

    /// Write what is made from this program's own definitions: the man page, completions, the table of all keys
    #[command(hide = true, subcommand)]
    Generate(Generated),
}

/// `pserve generate`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Generated {
    /// pserve.1, for man
    Man,
    /// What a shell completes after `pserve`
    Completions { shell: Shell },
    /// The table of all keys, in Markdown
    ConfigTable,
}

/// `pserve call`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "The answer's body goes to standard output; logs, and what plugins print, to standard error.\n\
                  Exit status: 0 the answer is a success, 1 it is an error (400 and above) or there is none, \
                  2 the command line or the configuration is wrong.")]
pub struct CallArguments {
    /// Name of the plugin, as in the path of a request
    pub name: String,

    /// Fields of the query
    #[arg(value_name = "KEY=VALUE", value_parser = parse_field)]
    pub fields: Vec<(String, String)>,

    /// File with a JSON body; - is standard input
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// API key, sent as a Bearer token
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    /// Method of the request [default: GET, with --json POST]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,

    /// Header of the request; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,

    /// What follows the plugin's name in the path
    #[arg(long, value_name = "PATH")]
    pub subpath: Option<String>,

    /// Print the status and the headers of the answer before its body
    #[arg(long)]
    pub include: bool,

    /// INI file [default: pserve.ini, else config.ini, in the current folder, else none]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,

    /// Folder of plugin files [default: the INI file's; without one plugins, else python_plugins]
    #[arg(long = "plugins", value_name = "FOLDER")]
    pub folder: Option<PathBuf>,

    /// What of the log goes to standard error: DEBUG, INFO, WARNING, ERROR or CRITICAL [default: WARNING]
    #[arg(short = 'v', long, value_name = "LEVEL", value_parser = parse_level)]
    pub level: Option<GivenLevel>,
}

/// `pserve plugins`.
#[derive(Debug, Clone, Args)]
pub struct PluginsArguments {
    /// Write the list as JSON
    #[arg(long)]
    pub json: bool,

    /// Ask no server: try the files as they are now, in a process of their own
    #[arg(long)]
    pub files: bool,

    /// INI file [default: pserve.ini, else config.ini, in the current folder, else none]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,

    /// Folder of plugin files, which are tried [default: the INI file's; without one plugins, else python_plugins]
    #[arg(long = "plugins", value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// `pserve dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArguments {
    /// Folder of plugin files [default: plugins, else python_plugins, in the current folder]
    pub folder: Option<PathBuf>,

    /// Port on this machine [default: 9192 or the next free one, without an INI file]
    #[arg(short = 'p', long)]
    pub port: Option<u16>,

    /// INI file [default: none]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,

    /// Look at files again and again, where the system does not tell of changes
    #[arg(long)]
    pub poll: bool,
}

/// `pserve new`.
#[derive(Debug, Clone, Args)]
pub struct NewArguments {
    /// Name of the plugin: its file, its route
    pub name: String,

    /// Folder of plugin files [default: the one that `pserve dev` serves]
    pub folder: Option<PathBuf>,

    /// INI file that names the folder [default: none]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,
}

/// `pserve check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit status: 0 everything would work, 1 something would not, 2 the server would not start.")]
pub struct CheckArguments {
    /// INI file [default: pserve.ini, else config.ini, in the current folder]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,

    /// Write the report as JSON
    #[arg(long)]
    pub json: bool,

    /// Read the plugin files without running them
    #[arg(long)]
    pub no_run: bool,

    /// Be the child process, which tries files and reports to its standard input
    #[arg(long, hide = true)]
    pub child: bool,

    /// Folder of plugin files that the child process works with in place of the INI file's
    #[arg(long = "child-folder", hide = true)]
    pub child_folder: Option<PathBuf>,

    /// What the child process tries
    #[arg(long = "child-file", hide = true)]
    pub child_files: Vec<PathBuf>,
}

/// `pserve top`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without a terminal it shows one table and ends, as with --once. Exit status: 0, or 1 when there is no server."
)]
pub struct TopArguments {
    /// INI file of the server [default: pserve.ini, else config.ini, in the current folder]
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ini_file: Option<PathBuf>,

    /// Show what happens within one interval, and end
    #[arg(long)]
    pub once: bool,

    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = parse_interval)]
    pub interval: f64,

    /// Column to sort by
    #[arg(long, value_name = "COLUMN", default_value = "requests")]
    pub sort: SortBy,
}

/// A column of `pserve top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    Name,
    Requests,
    P50,
    P99,
    Errors,
    Running,
    Waiting,
}

fn parse_interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "give seconds from 0.1 to 3600".to_owned())
}

/// A level with the spelling that was typed, since plugins read that from `prog_args.level`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenLevel {
    pub severity: Severity,
    pub as_typed: String,
}

fn parse_level(text: &str) -> Result<GivenLevel, String> {
    let severity = Severity::from_name(text).ok_or_else(|| format!("give {}", Severity::NAMES))?;
    Ok(GivenLevel { severity, as_typed: text.to_owned() })
}

fn parse_format(text: &str) -> Result<Format, String> {
    Format::from_name(text).ok_or_else(|| format!("give {}", Format::NAMES))
}

fn parse_field(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or_else(|| "give KEY=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| "give 'NAME: VALUE'".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// What the command line amounts to when it is no order to serve.
#[derive(Debug, PartialEq, Eq)]
pub enum NotServing {
    /// `--help`: the text to print.
    Answer(String),
    /// `--version`.
    Version,
    /// A mistake, in one line.
    Mistake(String),
}

impl Cli {
    /// Reads the process's command line.
    pub fn from_command_line() -> Result<Self, NotServing> {
        Self::try_parse().map_err(|problem| {
            if problem.kind() == ErrorKind::DisplayVersion {
                return NotServing::Version;
            }
            let text = problem.to_string();
            if !problem.use_stderr() {
                return NotServing::Answer(text);
            }
            let mut lines = text.lines();
            let mut first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            // What is missing stands on the lines below.
            if first.ends_with(':') {
                let named = lines.map_while(|line| line.strip_prefix("  ").map(str::trim));
                first = format!("{first} {}", named.collect::<Vec<_>>().join(", "));
            }
            NotServing::Mistake(format!("{first} (pserve --help lists the options)"))
        })
    }

    /// The command line as it is meant for people, without what only this program says to itself.
    pub fn definition() -> clap::Command {
        without_hidden(&Self::command())
    }

    /// The INI file that was typed, with the command or before it.
    fn given_ini(&self) -> Option<&PathBuf> {
        let of_command = match &self.command {
            Some(Command::Call(arguments)) => arguments.ini_file.as_ref(),
            Some(Command::Check(arguments)) => arguments.ini_file.as_ref(),
            Some(Command::Dev(arguments)) => arguments.ini_file.as_ref(),
            Some(Command::New(arguments)) => arguments.ini_file.as_ref(),
            Some(Command::Plugins(arguments)) => arguments.ini_file.as_ref(),
            Some(Command::Top(arguments)) => arguments.ini_file.as_ref(),
            _ => None,
        };
        of_command.or(self.ini_file.as_ref())
    }

    /// The INI file that is meant: the one given, else `pserve.ini`, else `config.ini`.
    /// The error is the line to show.
    pub fn ini_path(&self) -> Result<PathBuf, String> {
        if let Some(given) = self.given_ini() {
            if given.exists() {
                return Ok(given.clone());
            }
            return Err(format!("{}: no such INI file; give one with -i FILE", given.display()));
        }
        let usual = ["pserve.ini", "config.ini"].map(Path::new);
        let found = usual.into_iter().find(|path| path.exists()).map(Path::to_owned);
        found.ok_or_else(|| "neither pserve.ini nor config.ini in the current folder; give one with -i FILE".to_owned())
    }

    /// The INI file that was named; one that just lies there does not count. The error is the line to show.
    pub fn named_ini(&self) -> Result<Option<PathBuf>, String> {
        self.given_ini().map(|_| self.ini_path()).transpose()
    }

    /// Whether somebody writes plugins while they are served.
    pub fn is_dev(&self) -> bool {
        matches!(self.command, Some(Command::Dev(_)))
    }

    /// What is said here about the log; the INI file says the rest.
    pub fn asked_of_log(&self) -> Asked {
        let given = match &self.command {
            Some(Command::Call(arguments)) => arguments.level.as_ref(),
            _ => None,
        };
        let level = given.or(self.level.as_ref()).map(|level| level.severity);
        // Whoever calls a plugin wants its answer; what the server's log shows is another matter.
        let is_call = matches!(self.command, Some(Command::Call(_)));
        Asked { level: level.or(is_call.then_some(Severity::Warning)), format: self.log_format }
    }
}

fn without_hidden(command: &clap::Command) -> clap::Command {
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut visible = clap::Command::new(command.get_name().to_owned())
        .disable_help_flag(command.is_disable_help_flag_set())
        .args(arguments)
        .subcommands(commands.map(without_hidden));
    if let Some(version) = command.get_version() {
        visible = visible.version(version.to_owned());
    }
    if let Some(about) = command.get_about() {
        visible = visible.about(about.clone());
    }
    if let Some(more) = command.get_after_help() {
        visible = visible.after_help(more.clone());
    }
    visible
}
