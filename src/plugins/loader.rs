//! Which plugin files there are, in which order, and what their constructors get.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Settings, params};
use crate::python::FileToLoad;

/// Every `*.py` directly in the folder, sorted by name, dot files left out. Errs when the folder cannot be read.
pub fn plugin_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".py") && !name.starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A plugin file with its parameters, whatever the case of its stem: INI keys are folded to lower case.
pub fn with_params(path: PathBuf, settings: &Settings) -> FileToLoad {
    let text = settings.plugin_params.get(&stem(&path).to_lowercase()).map_or("", String::as_str);
    let params = params::parse(text, &settings.plugins_dir);
    FileToLoad { path, params: params.inline, json_file: params.json_file }
}

/// The name that a plugin file goes by.
pub fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
