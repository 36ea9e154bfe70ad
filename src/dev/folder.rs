//! Which folder is meant when nobody names one, or only the one around it.

use std::path::{Path, PathBuf};

/// Folders that are looked for, in this order.
const USUAL_NAMES: [&str; 2] = ["plugins", "python_plugins"];

/// The folder to serve. One that is named is meant itself when it holds Python files, else a usual one in it; without a
/// name it is a usual one in the current folder, else that folder itself.
pub fn to_serve(named: Option<&Path>) -> Result<PathBuf, String> {
    let around = named.unwrap_or(Path::new("."));
    if !around.is_dir() {
        let what = if around.exists() { "is a file; name the folder that it is in" } else { "no such folder" };
        return Err(format!("{}: {what}", around.display()));
    }
    let is_meant = named.is_some() && holds_python(around);
    let folder = usual_in(around).filter(|_| !is_meant).unwrap_or_else(|| around.to_owned());
    folder.canonicalize().map_err(|problem| format!("{}: {problem}", folder.display()))
}

/// A folder for plugins that goes by a usual name.
pub fn usual_in(around: &Path) -> Option<PathBuf> {
    USUAL_NAMES.iter().map(|name| around.join(name)).find(|folder| folder.is_dir())
}

fn holds_python(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".py"))
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
        assert!(to_serve(Some(&root.join("hello.py"))).expect_err("a file").contains("name the folder"));
        assert!(to_serve(Some(&root.join("none"))).expect_err("nothing").contains("no such folder"));
    }
}
