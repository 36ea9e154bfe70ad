//! What is made from the program's own definitions, so that it cannot say anything else: the man page and the shells'
//! completions from the command line's, the table of `docs/configuration.md` from the keys'.

mod config_table;
mod man;
mod markdown;

use clap::Command;
use clap_complete::Shell;

use crate::cli::{Cli, Generated};

/// The text that is asked for.
pub fn text(what: Generated) -> String {
    match what {
        Generated::Man => man::page(),
        Generated::ConfigTable => config_table::table(),
        Generated::Completions { shell } => {
            let mut definition = Cli::definition();
            if shell == Shell::Zsh {
                definition = with_escaped_colons(definition);
            }
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut definition, "pserve", &mut script);
            String::from_utf8_lossy(&script).into_owned()
        }
    }
}

/// zsh takes what follows a colon in a value's name for a command to run; clap escapes those of descriptions only.
fn with_escaped_colons(command: Command) -> Command {
    let escape = |arg: clap::Arg| match arg.get_value_names() {
        Some(names) if names.iter().any(|name| name.contains(':')) => {
            let escaped: Vec<String> = names.iter().map(|name| name.replace(':', "\\:")).collect();
            arg.value_names(escaped)
        }
        _ => arg,
    };
    command.mut_args(escape).mut_subcommands(with_escaped_colons)
}
