//! How much a line matters: Python's levels, with their numbers in `logging`, in syslog and in the `log` crate.

/// How much a line matters, in Python's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl Severity {
    /// What a person writes for one, in any case; to be shown when it is none of them.
    pub const NAMES: &str = "DEBUG, INFO, WARNING, ERROR or CRITICAL";

    /// The one that a person means.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_uppercase().as_str() {
            "DEBUG" => Some(Self::Debug),
            "INFO" => Some(Self::Info),
            "WARN" | "WARNING" => Some(Self::Warning),
            "ERROR" => Some(Self::Error),
            "CRITICAL" => Some(Self::Critical),
            _ => None,
        }
    }

    /// The name in a log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// The number of Python's `logging` for it.
    pub fn python_number(self) -> i32 {
        match self {
            Self::Debug => 10,
            Self::Info => 20,
            Self::Warning => 30,
            Self::Error => 40,
            Self::Critical => 50,
        }
    }

    /// The severity of a number of Python's `logging`; one between two names counts as the lower.
    pub fn from_python_number(number: i32) -> Self {
        match number {
            50.. => Self::Critical,
            40.. => Self::Error,
            30.. => Self::Warning,
            20.. => Self::Info,
            _ => Self::Debug,
        }
    }

    /// The priority of syslog(3), which the journal reads from `<N>`.
    pub(super) fn priority(self) -> u8 {
        match self {
            Self::Debug => 7,
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
            Self::Critical => 2,
        }
    }

    pub(super) fn of_log_level(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warning,
            log::Level::Info => Self::Info,
            log::Level::Debug | log::Level::Trace => Self::Debug,
        }
    }

    pub(super) fn log_filter(self) -> log::LevelFilter {
        match self {
            Self::Debug => log::LevelFilter::Debug,
            Self::Info => log::LevelFilter::Info,
            Self::Warning => log::LevelFilter::Warn,
            Self::Error | Self::Critical => log::LevelFilter::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_python_levels_fold_down() {
        assert_eq!(Severity::from_python_number(45), Severity::Error);
        assert_eq!(Severity::from_python_number(5), Severity::Debug);
    }

    #[test]
    fn names_are_read_in_any_case() {
        assert_eq!(Severity::from_name("warn"), Some(Severity::Warning));
        assert_eq!(Severity::from_name(" Critical"), Some(Severity::Critical));
        assert_eq!(Severity::from_name("loud"), None);
    }
}
