//! What the files are like that matter, so that two looks at them tell what has been saved in between.
//!
//! Editors write temporary files, rename them, and write twice: only what a file holds in the end counts.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Config;

/// Folders that are looked into at most, and how deep: what holds more than that is no plugins folder.
const MOST_FOLDERS: usize = 500;
const DEEPEST: usize = 8;

/// Folders that hold no modules of the user's own.
const SKIPPED_FOLDERS: [&str; 2] = ["__pycache__", "node_modules"];

/// Which files matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// With every `*.py` in it and in the packages there.
    pub folder: PathBuf,
    pub ini: Option<PathBuf>,
    pub parameters: Vec<PathBuf>,
}

impl Targets {
    pub fn of(config: &Config) -> Self {
        let ini = config.source.has_file.then(|| absolute(&config.source.path));
        let mut parameters = config.settings.parameter_files();
        parameters.sort();
        parameters.dedup();
        Self { folder: config.settings.plugins_dir.clone(), ini, parameters }
    }
}

impl Targets {
    /// Whether a file is one of those that matter, if it is there.
    fn cover(&self, path: &Path) -> bool {
        path.starts_with(&self.folder) || self.named().any(|named| named == path)
    }

    /// The files that matter wherever they are.
    pub fn named(&self) -> impl Iterator<Item = &PathBuf> {
        self.parameters.iter().chain(&self.ini)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Print {
    /// Changes with every write.
    stamp: (u64, u64, i64, i64, u64),
    content: u64,
}

/// One look at the files.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    files: BTreeMap<PathBuf, Print>,
    /// The folders whose entries decide what is in it.
    pub folders: BTreeSet<PathBuf>,
    /// Set when there were more folders than are looked into.
    pub is_cut: bool,
}

impl Snapshot {
    /// Looks at the files. Those that have not been written since the look before are not read again. `None` while the
    /// folder is not there: it may be on its way back.
    pub fn take(targets: &Targets, before: &Self) -> Option<Self> {
        if !targets.folder.is_dir() {
            return None;
        }
        let mut snapshot = Self::default();
        let mut seen = BTreeSet::new();
        snapshot.look_into(&targets.folder, before, DEEPEST, &mut seen);
        for path in targets.named() {
            snapshot.look_at(path, before);
            if let Some(folder) = path.parent() {
                snapshot.folders.insert(folder.to_owned());
            }
        }
        if let Some(above) = targets.folder.parent() {
            snapshot.folders.insert(above.to_owned());
        }
        Some(snapshot)
    }

    /// Files that are not what they were, those that are new, and those that have gone.
    pub fn changes_since(&self, before: &Self) -> Vec<PathBuf> {
        let content = |snapshot: &Self, path: &PathBuf| snapshot.files.get(path).map(|print| print.content);
        let all: BTreeSet<&PathBuf> = self.files.keys().chain(before.files.keys()).collect();
        all.into_iter().filter(|path| content(self, path) != content(before, path)).cloned().collect()
    }

    /// A first look at other targets. What nobody watched before counts as known, since whoever names it has just read
    /// it; of the rest is known what was known, so that no save is lost.
    pub fn of_other_targets(targets: &Targets, before: &Self, targets_before: &Targets) -> Option<Self> {
        let mut snapshot = Self::take(targets, before)?;
        snapshot.files.retain(|path, _| !targets_before.cover(path));
        let kept = before.files.iter().filter(|(path, _)| targets.cover(path));
        snapshot.files.extend(kept.map(|(path, print)| (path.clone(), print.clone())));
        Some(snapshot)
    }

    fn look_into(&mut self, folder: &Path, before: &Self, depth: usize, seen: &mut BTreeSet<(u64, u64)>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        // A link may lead back to where it stands.
        let is_new = fs::metadata(folder).is_ok_and(|found| seen.insert((found.dev(), found.ino())));
        if !is_new {
            return;
        }
        if seen.len() > MOST_FOLDERS || depth == 0 {
            self.is_cut = true;
            return;
        }
        self.folders.insert(folder.to_owned());
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.starts_with('.') {
                continue;
            }
            if name.ends_with(".py") && path.is_file() {
                self.look_at(&path, before);
            } else if may_be_package(&path, &name) {
                self.look_into(&path, before, depth - 1, seen);
            }
        }
    }

    fn look_at(&mut self, path: &Path, before: &Self) {
        let Ok(found) = fs::metadata(path) else { return };
        let stamp = stamp_of(&found);
        let known = before.files.get(path).filter(|print| print.stamp == stamp).cloned();
        let print = known.or_else(|| {
            let mut hasher = DefaultHasher::new();
            fs::read(path).ok()?.hash(&mut hasher);
            Some(Print { stamp, content: hasher.finish() })
        });
        let Some(print) = print else { return };
        self.files.insert(path.to_owned(), print);
        // What a link leads to is written to elsewhere.
        if let Ok(real) = path.canonicalize()
            && let Some(folder) = real.parent().filter(|folder| Some(*folder) != path.parent())
        {
            self.folders.insert(folder.to_owned());
        }
    }
}

fn stamp_of(found: &Metadata) -> (u64, u64, i64, i64, u64) {
    (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len())
}

/// Whether modules may be imported from a folder: Python has to be able to name it, and it is no virtual environment.
fn may_be_package(path: &Path, name: &str) -> bool {
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_name && !SKIPPED_FOLDERS.contains(&name) && path.is_dir() && !path.join("pyvenv.cfg").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(folder: &Path) -> Targets {
        Targets { folder: folder.to_owned(), ini: None, parameters: vec![folder.join("p.json")] }
    }

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn only_what_files_hold_in_the_end_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        fs::create_dir_all(dir.path().join("pkg/deep")).expect("made");
        fs::create_dir_all(dir.path().join("node_modules")).expect("made");
        write("a.py", "1");
        write("pkg/deep/b.py", "1");
        write("p.json", "{}");
        let targets = targets(dir.path());
        let first = Snapshot::take(&targets, &Snapshot::default()).expect("a folder");
        write("a.py", "1");
        write("a.py~", "1");
        write(".#a.py", "1");
        write("notes.txt", "1");
        write("node_modules/x.py", "1");
        let second = Snapshot::take(&targets, &first).expect("a folder");
        assert_eq!(second.changes_since(&first), Vec::<PathBuf>::new());
        write("new.py", "1");
        write("p.json", "[]");
        write("pkg/deep/b.py", "2");
        fs::remove_file(dir.path().join("a.py")).expect("removed");
        let third = Snapshot::take(&targets, &second).expect("a folder");
        assert_eq!(names(&third.changes_since(&second)), ["a.py", "new.py", "p.json", "b.py"]);
    }

    #[test]
    fn other_targets_lose_no_save_of_the_ones_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        write("a.py", "1");
        write("q.json", "1");
        let before = targets(dir.path());
        let first = Snapshot::take(&before, &Snapshot::default()).expect("a folder");
        write("a.py", "2");
        write("new.py", "1");
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("q.json"), "1").expect("written");
        let after = Targets { parameters: vec![outside.path().join("q.json")], ..before.clone() };
        let known = Snapshot::of_other_targets(&after, &first, &before).expect("a folder");
        let second = Snapshot::take(&after, &known).expect("a folder");
        assert_eq!(names(&second.changes_since(&known)), ["a.py", "new.py"]);
    }

    #[test]
    fn a_link_that_leads_back_ends_the_way_there() {
        let dir = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).expect("linked");
        fs::write(dir.path().join("a.py"), "1").expect("written");
        let snapshot = Snapshot::take(&targets(dir.path()), &Snapshot::default()).expect("a folder");
        assert_eq!(snapshot.files.len(), 1);
        assert!(!snapshot.is_cut);
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_look() {
        assert!(Snapshot::take(&targets(Path::new("/nowhere/at/all")), &Snapshot::default()).is_none());
    }
}
