//! A key that compares in constant time and never prints itself, and the rule that says which key a plugin asks for.

use std::fmt;

use subtle::ConstantTimeEq;

/// An API key. `Debug` shows that there is one and nothing of it; there is no `Display`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// `None` for an empty key: an empty key would be an open door.
    pub fn new(key: String) -> Option<Self> {
        (!key.is_empty()).then_some(Self(key))
    }

    /// Compares without telling by its duration how much of the candidate is right (its length may show).
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// The key itself, for the two places that need it: the plugin's own attributes and the log's mask.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(***)")
    }
}

/// Who may call a plugin.
#[derive(Debug, Clone)]
pub enum KeyRule {
    /// Anybody.
    Open,
    /// `auth_type=global`: whoever has `[auth] apikey`.
    Global,
    /// `auth_type=plugin`: whoever has the plugin's own key.
    Own(Secret),
    /// The plugin's own `_check_auth` decides, in Python.
    Custom,
    /// Nobody: the plugin asked for a check that does not exist.
    Never,
}

impl KeyRule {
    /// Which key a call needs, in a word or two.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Open => "none",
            Self::Global => "global",
            Self::Own(_) => "own",
            Self::Custom => "decided by the plugin",
            Self::Never => "nobody may call it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_and_hides() {
        let key = Secret::new("opensesame".into()).expect("not empty");
        assert!(key.matches(b"opensesame"));
        assert!(!key.matches(b"opensesam") && !key.matches(b"opensesamf") && !key.matches(b""));
        assert_eq!(format!("{key:?}"), "Secret(***)");
        assert!(Secret::new(String::new()).is_none());
    }
}
