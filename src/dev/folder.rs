//! Which folder is meant when nobody names one, or only the one around it.

use std::path::{Path, PathBuf};

/// Folders that are looked for, in this order.
pub const USUAL_NAMES: [&str; 2] = ["plugins", "python_plugins"];

/// The folder to serve. One that is named is meant itself when it holds Python files, else a usual one in it.
pub fn to_serve(named: Option<&Path>) -> Result<PathBuf, String> {
    let folder = match named {
        None => to_serve_here(Path::new("."))?,
        Some(named) if !named.is_dir() => {
            let what = if named.exists() { "is a file; name the folder that it is in" } else { "no such folder" };
            return Err(format!("{}: {what}", named.display()));
        }
        Some(named) if holds_python(named) => named.to_owned(),
        Some(named) => usual_in(named).unwrap_or_else(|| named.to_owned()),
    };
    folder.canonicalize().map_err(|problem| format!("{}: {problem}", folder.display()))
}

/// Without a name it is a usual one in the current folder. Never that folder itself: whatever lies there may be programs,
/// and to load them would be to run them.
fn to_serve_here(here: &Path) -> Result<PathBuf, String> {
    usual_in(here).ok_or_else(|| {
        "neither plugins nor python_plugins is in the current folder; name the folder (pserve dev . serves this one), or \
         begin with pserve new NAME"
            .to_owned()
    })
}

/// A folder for plugins that goes by a usual name.
pub fn usual_in(around: &Path) -> Option<PathBuf> {
    USUAL_NAMES.iter().map(|name| around.join(name)).find(|folder| folder.is_dir())
}

fn holds_python(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.path().extension().is_some_and(|end| end == "py"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_folder_is_found_and_a_named_one_with_python_files_is_meant_itself() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("a path");
        assert_eq!(to_serve(Some(&root)), Ok(root.clone()));
        std::fs::create_dir(root.join("python_plugins")).expect("made");
        assert_eq!(to_serve(Some(&root)), Ok(root.join("python_plugins")));
        std::fs::create_dir(root.join("plugins")).expect("made");
        assert_eq!(to_serve(Some(&root)), Ok(root.join("plugins")));
        std::fs::write(root.join("hello.py"), "").expect("written");
        assert_eq!(to_serve(Some(&root)), Ok(root.clone()));
        assert_eq!(to_serve_here(&root), Ok(root.join("plugins")));
        assert!(to_serve(Some(&root.join("hello.py"))).expect_err("a file").contains("name the folder"));
        assert!(to_serve(Some(&root.join("none"))).expect_err("nothing").contains("no such folder"));
    }

    #[test]
    fn programs_in_the_current_folder_are_not_run_unasked() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().to_owned();
        assert!(to_serve_here(&root).expect_err("nothing there").contains("name the folder"));
        // Among them one that mentions the package, as a script that tests plugins does.
        std::fs::write(root.join("clean_up.py"), "import plugincore, shutil").expect("written");
        assert!(to_serve_here(&root).expect_err("a program").contains("name the folder"));
        assert_eq!(to_serve(Some(&root)), root.canonicalize().map_err(|problem| problem.to_string()));
    }
}
