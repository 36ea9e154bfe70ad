//! Which names a new plugin can have: what Python can import, the server does not need itself, and no other module has.

use std::process::{Command, Stdio};

use crate::config::settings::CONTROL_ROUTES;

/// Words that are no names (Python's `keyword.kwlist`).
const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// Routes of the server that a plugin would take the place of.
const PROBES: [&str; 4] = ["livez", "readyz", "healthz", "metrics"];

/// The longest file name that every file system takes, less `test_` and `.py`.
const LONGEST: usize = 100;

/// Errs with what is wrong with a name, and what would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if name.is_empty() || !is_word || name.starts_with(|c: char| c.is_ascii_digit()) || name.len() > LONGEST {
        let hint = suggestion(name).map(|better| format!(", for example {better}")).unwrap_or_default();
        return Err(format!("`{name}` is no name for a plugin; give letters, digits and underscores{hint}"));
    }
    if KEYWORDS.contains(&name) {
        return Err(format!("`{name}` is a word of Python's own; give the plugin another name"));
    }
    if name.starts_with('_') || name.starts_with("test_") {
        return Err(format!("`{name}` looks like no plugin; let its name begin with a letter, and not with test_"));
    }
    if CONTROL_ROUTES.contains(&name) || PROBES.contains(&name) {
        return Err(format!("/{name} is a route of the server; give the plugin another name"));
    }
    Ok(())
}

/// What somebody may have meant.
fn suggestion(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".py").unwrap_or(name);
    let words: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let words = words.trim_matches(|c: char| c == '_' || c.is_ascii_digit()).to_owned();
    // What cannot be made a name of is no suggestion, and would be asked for one again.
    (!words.is_empty() && words != name && check_name(&words).is_ok()).then_some(words)
}

/// `my_tool` -> `MyTool`.
pub fn class_name(name: &str) -> String {
    let mut class = String::new();
    for word in name.split('_').filter(|word| !word.is_empty()) {
        let mut letters = word.chars();
        class.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        class.push_str(letters.as_str());
    }
    class
}

/// Where Python has a module of that name from, if it has one: the plugin's test could not import the plugin then.
pub fn is_importable(name: &str) -> Option<String> {
    let code = format!(
        "import importlib.util, sys\n\
         sys.path[:] = [place for place in sys.path if place]\n\
         spec = importlib.util.find_spec({name:?})\n\
         print(spec.origin or '' if spec else '-')"
    );
    let mut command = Command::new("/proc/self/exe");
    // Isolated: what lies in the current folder is not meant.
    let output = command.args(["python", "-I", "-c", &code]).stdin(Stdio::null()).output().ok()?;
    let origin = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && origin != "-").then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ones_that_python_can_import() {
        for name in ["greet", "my_tool", "Tool2"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "2fast", "a b", "a/b", "../x", "class", "None", "plugins", "metrics", "_x", "test_x", "größe"]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
        let complaint = check_name("my-tool.py").expect_err("no name");
        assert!(complaint.ends_with("for example my_tool"), "{complaint}");
    }

    #[test]
    fn classes_are_named_as_classes_are() {
        assert_eq!(["greet", "my_tool", "Tool2"].map(class_name), ["Greet", "MyTool", "Tool2"]);
    }
}
