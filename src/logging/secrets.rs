//! Keys that no line may show, whatever text they turn up in.

use std::sync::{PoisonError, RwLock};

/// Keys that are hidden, the longest first.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// A key that must never be written: it is replaced by `***` wherever it turns up, also after it has been changed.
/// One of less than four letters is not hidden: it would be found in every other word.
pub fn hide(secret: &str) {
    if secret.chars().count() < 4 {
        return;
    }
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if !secrets.iter().any(|known| known == secret) {
        secrets.push(secret.to_owned());
        // The longest first: one may begin another.
        secrets.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }
}

/// A text for another log, with every configured key replaced.
pub fn without_secrets(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
        clean = clean.replace(secret.as_str(), "***");
    }
    clean
}
