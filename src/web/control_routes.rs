//! `/plugins`, `/reload/<plugin>`, `/reload/all`, `/load/<file stem>`, `/unload/<plugin>`: behind the global key.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::Site;
use super::fields::decode_path;
use super::reply::{ApiError, json_reply, python_error};
use crate::exchange::PluginRequest;
use crate::plugins::ControlError;
use crate::python::PythonError;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum ControlRoute {
    Plugins,
    ReloadAll,
    Reload(String),
    Load(String),
    Unload(String),
}

impl ControlRoute {
    /// The control route of an encoded path. Names may have slashes, encoded or not.
    pub fn parse(raw_path: &str) -> Option<Self> {
        if raw_path == "/plugins" {
            return Some(Self::Plugins);
        }
        let (action, name) = raw_path.strip_prefix('/')?.split_once('/')?;
        let name = decode_path(name);
        match action {
            _ if name.is_empty() => None,
            "reload" if name == "all" => Some(Self::ReloadAll),
            "reload" => Some(Self::Reload(name)),
            "load" => Some(Self::Load(name)),
            "unload" => Some(Self::Unload(name)),
            _ => None,
        }
    }
}

/// Does what is asked for; the key has been checked.
pub async fn answer(site: &Site, route: ControlRoute, request: &PluginRequest) -> Result<Response, ApiError> {
    let body = match route {
        ControlRoute::Plugins => {
            let is_verbose = request.query.iter().any(|(name, value)| name == "verbose" && value != "0");
            if is_verbose { verbose_list(site) } else { json!({"loaded_plugins": loaded(site)}) }
        }
        ControlRoute::ReloadAll => reload_all(site).await?,
        ControlRoute::Reload(name) => {
            let (plugins, id) = (Arc::clone(&site.plugins), name.clone());
            to_the_end(async move { plugins.reload(&id).await }).await?;
            json!({"reloaded": name, "success": true})
        }
        ControlRoute::Load(stem) => {
            let (plugins, file) = (Arc::clone(&site.plugins), stem.clone());
            let ids = to_the_end(async move { plugins.load(&file).await }).await?;
            json!({"loaded": stem, "success": true, "plugins": ids})
        }
        ControlRoute::Unload(name) => {
            let (plugins, id) = (Arc::clone(&site.plugins), name.clone());
            to_the_end(async move { plugins.unload(&id).await }).await?;
            json!({"unloaded": name, "success": true})
        }
    };
    Ok(json_reply(StatusCode::OK, &body))
}

/// Runs a change in a task of its own: a client that hangs up in the middle must not leave it half done.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(problem) => Err(ControlError::Failed(PythonError::new("Panic", problem.to_string()))),
    }
}

fn loaded(site: &Site) -> Vec<String> {
    site.plugins.registry().ids().into_iter().map(str::to_owned).collect()
}

async fn reload_all(site: &Site) -> Result<Value, ApiError> {
    let plugins = Arc::clone(&site.plugins);
    let failed = to_the_end(async move { plugins.reload_all().await }).await?;
    if failed.is_empty() {
        return Ok(json!({"status": "All plugins reloaded", "loaded_plugins": loaded(site)}));
    }
    let failed: Map<String, Value> = failed
        .iter()
        .map(|(path, error)| {
            (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), python_error(error, false))
        })
        .collect();
    let status = "Plugins reloaded, except for those that failed";
    Ok(json!({"status": status, "loaded_plugins": loaded(site), "failed": failed}))
}

/// Every file with its plugins and its last error.
fn verbose_list(site: &Site) -> Value {
    let registry = site.plugins.registry();
    let files: Vec<Value> = registry
        .files()
        .map(|(path, state)| {
            let plugins: Vec<Value> = state
                .ids
                .iter()
                .filter_map(|id| registry.get(id))
                .map(|plugin| {
                    json!({
                        "name": plugin.id(),
                        "route": format!("/{}", plugin.id()),
                        "async": plugin.instance().is_async(),
                        "calls": plugin.calls_inside(),
                    })
                })
                .collect();
            let error = state.error.as_ref().map(|error| python_error(error, false));
            json!({"file": path.display().to_string(), "plugins": plugins, "error": error})
        })
        .collect();
    json!({"loaded_plugins": loaded(site), "files": files})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes_and_escapes() {
        assert_eq!(ControlRoute::parse("/reload/api/v1"), Some(ControlRoute::Reload("api/v1".into())));
        assert_eq!(ControlRoute::parse("/reload/api%2Fv1"), Some(ControlRoute::Reload("api/v1".into())));
        assert_eq!(ControlRoute::parse("/reload/all"), Some(ControlRoute::ReloadAll));
        for path in ["/plugins/", "/reload", "/reload/", "/other/x", "/"] {
            assert_eq!(ControlRoute::parse(path), None, "{path}");
        }
    }
}
