//! The little Markdown that meanings of keys are written in -> plain text: links lose their targets, code its quotes.

/// The same words without marks.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['`', '[']) {
        plain.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match (rest.as_bytes()[at], after.find('`')) {
            (b'`', Some(end)) => {
                plain.push_str(&after[..end]);
                &after[end + 1..]
            }
            (b'[', _) => match link(after) {
                Some((words, behind)) => {
                    plain.push_str(&self::plain(words));
                    behind
                }
                None => {
                    plain.push('[');
                    after
                }
            },
            _ => {
                plain.push('`');
                after
            }
        };
    }
    plain + rest
}

/// The words of `words](target)`, and what follows.
fn link(text: &str) -> Option<(&str, &str)> {
    let (words, rest) = text.split_once("](")?;
    let (_, behind) = rest.split_once(')')?;
    (!words.contains(['[', ']'])).then_some((words, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_words_stay() {
        assert_eq!(plain("see [`/readyz`](usage.md#probes), `[cors] acl` [x]"), "see /readyz, [cors] acl [x]");
        assert_eq!(plain("a ` b [c](d"), "a ` b [c](d");
    }
}
