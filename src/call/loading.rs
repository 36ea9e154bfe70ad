//! Loads the plugin that is to be called, and as few others as it takes: its file, else all until it is there.

use crate::config::nearest;
use crate::config::settings::CONTROL_ROUTES;
use crate::exchange::ControlError;
use crate::plugins;
use crate::web::Site;
use std::borrow::Cow;

/// How alike a name must be to be offered.
const LIKENESS: f64 = 0.75;

/// Why a plugin cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum NotCallable {
    #[error("no plugin `{name}`{hint}")]
    Unknown { name: String, hint: String },
    #[error("/{name} is a route of the server itself; pserve call is for plugins")]
    OfTheServer { name: String },
    #[error("{file} does not load: {problem}")]
    Broken { file: String, problem: ControlError },
    #[error("{0}")]
    Folder(ControlError),
}

/// Loads until the plugin is there. What else does not load is told in the log.
pub async fn load(site: &Site, name: &str) -> Result<(), NotCallable> {
    let first = name.split('/').next().unwrap_or_default();
    if CONTROL_ROUTES.contains(&first) {
        return Err(NotCallable::OfTheServer { name: name.to_owned() });
    }
    let mut stems: Vec<String> = plugins::plugin_files(&site.config.get())
        .map_err(NotCallable::Folder)?
        .iter()
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    // The file of that name is the likeliest.
    stems.sort_by_key(|stem| !stem.eq_ignore_ascii_case(first));
    let mut broken = None;
    for stem in stems {
        if let Err(problem) = site.plugins.load(&stem).await
            && stem.eq_ignore_ascii_case(first)
        {
            broken = Some(NotCallable::Broken { file: format!("{stem}.py"), problem });
            break;
        }
        if site.plugins.registry().get(name).is_some() {
            return Ok(());
        }
    }
    let registry = site.plugins.registry();
    let segments: Vec<&str> = name.split('/').collect();
    if broken.is_none() && registry.route(&segments, Cow::Borrowed).is_some() {
        return Ok(());
    }
    Err(broken.unwrap_or_else(|| NotCallable::Unknown { name: name.to_owned(), hint: hint(name, &registry.ids()) }))
}

fn hint(name: &str, ids: &[&str]) -> String {
    match nearest(name, ids.iter().copied()) {
        None => "; no plugin loads at all".to_owned(),
        Some((found, likeness)) if likeness >= LIKENESS => format!("; did you mean `{found}`?"),
        Some(_) => format!("; there are: {}", ids.join(", ")),
    }
}
