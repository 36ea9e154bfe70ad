//! What is made from the program's own definitions, so that it cannot say anything else: the man page and the shells'
//! completions from the command line's, the table of `docs/configuration.md` from the keys'.

mod config_table;
mod man;
mod markdown;

use crate::cli::{Cli, Generated};

/// The text that is asked for.
pub fn text(what: Generated) -> String {
    match what {
        Generated::Man => man::page(),
        Generated::ConfigTable => config_table::table(),
        Generated::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::definition(), "pserve", &mut script);
            String::from_utf8_lossy(&script).into_owned()
        }
    }
}
