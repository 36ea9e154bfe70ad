//! `pserve new`: writes a plugin with its test, and says how to serve, call and test it. Overwrites nothing.

mod names;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::NewArguments;
use crate::config::Config;
use crate::dev::folder;
use names::{check_name, class_name, is_importable};

/// A plugin and its test as they are, but for their names.
const PLUGIN: &str = include_str!("plugin.py");
const TEST: &str = include_str!("test.py");

/// Before this line of the plugin a route of its own is set, where the class would have another.
const BEFORE_HANDLER: &str = "    async def request_handler";

/// Where the two files go, and how they are found there.
struct Places {
    plugin: PathBuf,
    test: PathBuf,
    /// What comes after `pserve` to serve them.
    serve: String,
    /// A command that runs the test.
    run_test: String,
}

/// Writes both files. The answer is what to tell; the error is the line to show.
pub fn write(arguments: &NewArguments, ini: Option<&Path>) -> Result<String, String> {
    let name = arguments.name.as_str();
    check_name(name)?;
    let places = places(arguments, ini)?;
    for path in [&places.plugin, &places.test] {
        if path.exists() {
            return Err(format!("{} is there already; nothing was written", path.display()));
        }
    }
    if let Some(module) = is_importable(name) {
        let module = if module.is_empty() { String::new() } else { format!(" ({module})") };
        return Err(format!("Python has a module `{name}` already{module}; give the plugin another name"));
    }
    let class = class_name(name);
    let plugin = with_route(PLUGIN, name, &class).replace("Example", &class).replace("example", name);
    create(&places.plugin, &plugin)?;
    if let Err(problem) = create(&places.test, &TEST.replace("Example", &class).replace("example", name)) {
        return Err(format!("{problem}; {} was written", places.plugin.display()));
    }
    Ok(format!(
        "wrote {}\nwrote {}\n\nserve it:  pserve {}\ncall it:   curl 'http://127.0.0.1:9192/{name}?name=Ada'\n\
         test it:   {}   (with pytest in your virtual environment)\n",
        places.plugin.display(),
        places.test.display(),
        places.serve,
        places.run_test,
    ))
}

fn places(arguments: &NewArguments, ini: Option<&Path>) -> Result<Places, String> {
    let (file, test) = (format!("{}.py", arguments.name), format!("test_{}.py", arguments.name));
    if let Some(ini) = ini {
        let config = Config::load(ini).map_err(|problem| problem.to_string())?;
        let folder = arguments
            .folder
            .as_deref()
            .map_or(Ok(config.settings.plugins_dir), |named| folder::to_serve(Some(named)))?;
        let test = beside(&folder).join("tests").join(test);
        let run_test = format!("pserve -i {} python -m pytest {}", ini.display(), test.display());
        return Ok(Places { plugin: folder.join(file), test, serve: format!("dev -i {}", ini.display()), run_test });
    }
    let Some(named) = &arguments.folder else {
        let here = Path::new(".");
        let folder = folder::usual_in(here).unwrap_or_else(|| here.join(folder::USUAL_NAMES[0]));
        let (plugin, test) = (short(&folder.join(file)), short(&here.join("tests").join(test)));
        let run_test = format!("pserve python -m pytest {}", test.display());
        return Ok(Places { plugin, test, serve: "dev".to_owned(), run_test });
    };
    let folder = folder::to_serve(Some(named))?;
    let around = beside(&folder);
    let run_test = format!("cd {} && pserve python -m pytest tests/{test}", around.display());
    let serve = format!("dev {}", named.display());
    Ok(Places { plugin: folder.join(file), test: around.join("tests").join(test), serve, run_test })
}

/// Where the tests of a folder are: beside it when it goes by a usual name, else in it. Python files in the folder itself
/// would be loaded as plugins.
fn beside(folder: &Path) -> &Path {
    let is_usual = folder::USUAL_NAMES.iter().any(|name| folder.ends_with(name));
    folder.parent().filter(|_| is_usual).unwrap_or(folder)
}

/// Without the dot that stands for the current folder.
fn short(path: &Path) -> PathBuf {
    path.strip_prefix(".").unwrap_or(path).to_owned()
}

/// Sets the route where the name of the class in lower case is another one.
fn with_route(plugin: &str, name: &str, class: &str) -> String {
    if class.to_lowercase() == name {
        return plugin.to_owned();
    }
    let constructor = "    def __init__(self, **kwargs):\n        super().__init__(**kwargs)\n        \
                       self._plugin_id = \"example\"\n\n";
    plugin.replace(BEFORE_HANDLER, &format!("{constructor}{BEFORE_HANDLER}"))
}

/// Writes a file that must not be there, with its folder.
fn create(path: &Path, text: &str) -> Result<(), String> {
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
    };
    write().map_err(|problem| format!("{}: {problem}", path.display()))
}
