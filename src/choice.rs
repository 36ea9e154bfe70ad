//! Which configuration a command works with that serves nothing and does without an INI file.

use std::path::{Path, PathBuf};

use crate::cli::Cli;
use crate::config::{Config, FixedKey, Source};
use crate::dev::folder;

/// What a configuration without an INI file goes by in messages and to plugins.
const NO_FILE: &str = "pserve.ini";

/// The INI file that is named, else the folder that is, else an INI file that lies in the current folder, else a folder
/// there that goes by a usual name. Never the current folder itself: whatever lies there may be programs, and to load
/// them would be to run them. A folder that is named takes the place of the INI file's. The error is the line to show.
pub fn configuration(cli: &Cli, folder: Option<&Path>) -> Result<Config, String> {
    let named = cli.named_ini()?;
    let ini = match (named, folder) {
        (Some(named), _) => Some(named),
        (None, Some(_)) => None,
        (None, None) => cli.ini_path().ok(),
    };
    let mut source = match &ini {
        Some(path) => Source::of_file(path),
        None => Source { path: PathBuf::from(NO_FILE), has_file: false, fixed: Vec::new() },
    };
    if ini.is_none() || folder.is_some() {
        let found = match folder {
            Some(named) if named.is_dir() => named.canonicalize(),
            Some(named) => return Err(format!("{}: no such folder", named.display())),
            None => folder::usual_in(Path::new(".")).ok_or_else(nothing_here)?.canonicalize(),
        };
        let found = found.map_err(|problem| format!("the folder of plugins: {problem}"))?;
        let text = found.to_str().ok_or_else(|| format!("{}: its name is no text", found.display()))?;
        source.fixed.push(FixedKey::new("paths", "plugins", text));
    }
    Config::read(source).map_err(|problem| problem.to_string())
}

fn nothing_here() -> String {
    "neither pserve.ini nor config.ini nor a folder plugins or python_plugins in the current folder; give -i FILE or \
     --plugins FOLDER"
        .to_owned()
}
