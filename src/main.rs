//! Reads the command line and the configuration, picks what to do, and turns the end into an exit status.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use pserve::cli::{Cli, Command, NotServing};
use pserve::config::Config;
use pserve::handoff::Seat;
use pserve::{call, check, choice, dev, exit_status, generate, listing, python, scaffold, supervisor, top, worker};

fn main() {
    exit_status::leave(match Cli::from_command_line() {
        Ok(cli) => run(&cli),
        Err(NotServing::Answer(text)) => status_of(answer(&text), exit_status::CLEAN),
        Err(NotServing::Version) => {
            let version = env!("CARGO_PKG_VERSION");
            let text = format!("pserve {version} (CPython {})\n", python::version());
            status_of(answer(&text), exit_status::CLEAN)
        }
        Err(NotServing::Mistake(mistake)) => {
            exit_status::complain(&mistake);
            exit_status::USAGE
        }
    })
}

fn run(cli: &Cli) -> i32 {
    match &cli.command {
        None if cli.print_config => with_config(cli, |config| Ok(answer(&config.to_string())?)),
        None | Some(Command::Dev(_)) => match Seat::take() {
            Ok(Some(seat)) => worker::run(cli, seat),
            Ok(None) => serve(cli),
            // Whoever started this worker has gone.
            Err(_) => exit_status::CANNOT_START,
        },
        Some(Command::Check(arguments)) if arguments.child => {
            let config = choice::configuration(cli, arguments.child_folder.as_deref());
            done_with(config, |config| check::run_child(cli, arguments, config))
        }
        Some(Command::Check(arguments)) => {
            let outcome = check::run(arguments, cli.ini_path());
            status_of(answer(&outcome.text), outcome.status)
        }
        Some(Command::Call(arguments)) => call::run(cli, arguments),
        Some(Command::Plugins(arguments)) => {
            let config = choice::configuration(cli, arguments.folder.as_deref());
            ending_with(config, |config| Ok(status_of(answer(&listing::text(arguments, &config)?), exit_status::CLEAN)))
        }
        Some(Command::New(arguments)) => {
            let written = cli.named_ini().and_then(|ini| scaffold::write(arguments, ini.as_deref()));
            done_with(written, |words| Ok(answer(&words)?))
        }
        Some(Command::Python { arguments }) => script(cli, arguments),
        Some(Command::Top(arguments)) => with_config(cli, |config| top::run(arguments, &config.settings)),
        Some(Command::Generate(what)) => status_of(answer(&generate::text(*what)), exit_status::CLEAN),
        Some(Command::Stubs { folder }) => match python::write_plugincore(folder) {
            Ok(files) => {
                let list: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
                status_of(answer(&list), exit_status::CLEAN)
            }
            Err(problem) => {
                exit_status::complain(&format!("{}: {problem}", folder.display()));
                exit_status::FAILURE
            }
        },
    }
}

/// Serves: this process becomes the supervisor.
fn serve(cli: &Cli) -> i32 {
    let mut status = exit_status::CLEAN;
    let ended = match &cli.command {
        Some(Command::Dev(arguments)) => {
            let plan = cli.named_ini().and_then(|ini| dev::plan(arguments, ini.as_deref()));
            done_with(plan, |plan| {
                status = supervisor::run_dev(cli, plan)?;
                Ok(())
            })
        }
        _ => with_config(cli, |config| {
            status = supervisor::run(cli, config)?;
            Ok(())
        }),
    };
    if ended == exit_status::CLEAN { status } else { ended }
}

/// Runs Python with the packages and the plugins folder of the INI file, if there is one.
fn script(cli: &Cli, arguments: &[OsString]) -> i32 {
    let config = match (cli.ini_path(), cli.ini_file.is_some()) {
        (Ok(path), true) => Config::load(&path).map_err(|problem| problem.to_string()).map(Some),
        // One that just lies there may belong to another program.
        (Ok(path), false) => {
            Ok(Config::load(&path).inspect_err(|problem| exit_status::complain(&problem.to_string())).ok())
        }
        (Err(_), false) => Ok(None),
        (Err(problem), true) => Err(problem),
    };
    let config = match config {
        Ok(config) => config,
        Err(problem) => {
            exit_status::complain(&problem);
            return exit_status::USAGE;
        }
    };
    let settings = config.map(|config| config.settings);
    let of_environment = std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from);
    let venv = settings.as_ref().map_or(of_environment, |settings| settings.python.venv.clone());
    let usual = || dev::folder::usual_in(&std::env::current_dir().ok()?);
    let folder = settings.map(|settings| settings.plugins_dir).or_else(usual);
    python::run_script(arguments, venv.as_deref(), folder.as_deref()).unwrap_or_else(|problem| {
        exit_status::complain(&format!("{problem:#}"));
        exit_status::FAILURE
    })
}

/// Does something with the configuration; the exit status tells how it went.
fn with_config(cli: &Cli, work: impl FnOnce(Config) -> anyhow::Result<()>) -> i32 {
    done_with(cli.ini_path().and_then(|path| Config::load(&path).map_err(|problem| problem.to_string())), work)
}

/// As [`with_config`], with whatever was read.
fn done_with<T>(read: Result<T, String>, work: impl FnOnce(T) -> anyhow::Result<()>) -> i32 {
    match read.map(work) {
        Err(problem) => {
            exit_status::complain(&problem);
            exit_status::USAGE
        }
        Ok(Err(problem)) => {
            exit_status::complain(&format!("{problem:#}"));
            exit_status::FAILURE
        }
        Ok(Ok(())) => exit_status::CLEAN,
    }
}

/// As [`done_with`], for work that knows its exit status.
fn ending_with<T>(read: Result<T, String>, work: impl FnOnce(T) -> anyhow::Result<i32>) -> i32 {
    let mut status = exit_status::CLEAN;
    let ended = done_with(read, |read| {
        status = work(read)?;
        Ok(())
    });
    if ended == exit_status::CLEAN { status } else { ended }
}

fn answer(text: &str) -> std::io::Result<()> {
    write!(std::io::stdout(), "{text}")?;
    std::io::stdout().flush()
}

/// The status of a command whose answer must have been written.
fn status_of(written: std::io::Result<()>, status: i32) -> i32 {
    match written {
        Ok(()) => status,
        Err(problem) => {
            exit_status::complain(&format!("the answer cannot be written: {problem}"));
            exit_status::FAILURE
        }
    }
}
