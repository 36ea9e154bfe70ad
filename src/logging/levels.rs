//! From which level on a logger's lines are written: the server's own level, and those of single plugins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

use super::Severity;

/// Names that loggers have beside their plugin's. Plugins that take another name at each load must not fill the memory.
const MOST_ALIASES: usize = 10_000;

/// Logger -> the plugins that use it, all in lower case.
static ALIASES: RwLock<BTreeMap<String, BTreeSet<String>>> = RwLock::new(BTreeMap::new());

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// Of everything that has no level of its own.
    pub general: Severity,
    /// Logger or plugin in lower case -> its own level.
    pub by_name: HashMap<String, Severity>,
}

impl Levels {
    /// The level of a logger: its own, that of the plugin it belongs to, or that of the logger above it (`a` is above
    /// `a.b`).
    pub fn of_logger(&self, name: &str) -> Option<Severity> {
        if self.by_name.is_empty() {
            return None;
        }
        let aliases = ALIASES.read().unwrap_or_else(PoisonError::into_inner);
        let name = name.to_lowercase();
        let mut rest = Some(name.as_str());
        while let Some(name) = rest {
            // Of two plugins in one file the one that wants to see more gets its lines.
            let of_plugins = || aliases.get(name)?.iter().filter_map(|plugin| self.by_name.get(plugin)).min();
            if let Some(level) = self.by_name.get(name).or_else(of_plugins) {
                return Some(*level);
            }
            rest = name.rsplit_once('.').map(|(above, _)| above);
        }
        None
    }

    /// The level of a record: of its logger, else of the plugin whose code has made it.
    pub(super) fn of_record(&self, logger: &str, plugin: Option<&str>) -> Severity {
        let of_plugin = || plugin.and_then(|plugin| self.of_logger(plugin));
        self.of_logger(logger).or_else(of_plugin).unwrap_or(self.general)
    }

    /// The lowest level that anybody has.
    pub(super) fn lowest(&self) -> Severity {
        self.by_name.values().copied().fold(self.general, Severity::min)
    }
}

/// From now on the logger has the level of the plugin: it is named after the plugin's class or file.
pub fn belongs_to(logger: &str, plugin: &str) {
    let (logger, plugin) = (logger.to_lowercase(), plugin.to_lowercase());
    let mut aliases = ALIASES.write().unwrap_or_else(PoisonError::into_inner);
    let count: usize = aliases.values().map(BTreeSet::len).sum();
    if count < MOST_ALIASES {
        aliases.entry(logger).or_default().insert(plugin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(by_name: &[(&str, Severity)]) -> Levels {
        Levels {
            general: Severity::Info,
            by_name: by_name.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect(),
        }
    }

    #[test]
    fn a_logger_has_its_own_level_or_that_of_the_one_above() {
        let levels = levels(&[("noisy", Severity::Warning), ("noisy.part", Severity::Debug)]);
        assert_eq!(levels.of_record("Noisy", None), Severity::Warning);
        assert_eq!(levels.of_record("noisy.other.x", None), Severity::Warning);
        assert_eq!(levels.of_record("noisy.part.x", None), Severity::Debug);
        assert_eq!(levels.of_record("noisyother", None), Severity::Info);
        assert_eq!(levels.lowest(), Severity::Debug);
    }

    #[test]
    fn a_logger_of_a_library_has_the_level_of_the_plugin_that_uses_it() {
        let levels = levels(&[("quiet", Severity::Error), ("lib", Severity::Debug)]);
        assert_eq!(levels.of_record("other", Some("quiet")), Severity::Error);
        assert_eq!(levels.of_record("lib", Some("quiet")), Severity::Debug);
        assert_eq!(levels.of_record("other", Some("talker")), Severity::Info);
    }

    #[test]
    fn a_logger_with_the_name_of_the_file_has_the_plugins_level() {
        let levels = levels(&[("levels/route", Severity::Debug)]);
        assert_eq!(levels.of_logger("Levels_File"), None);
        belongs_to("Levels_File", "Levels/Route");
        assert_eq!(levels.of_logger("levels_file.x"), Some(Severity::Debug));
    }
}
