//! `/plugins`, `/reload/<plugin>`, `/reload/all`, `/load/<file stem>`, `/unload/<plugin>`: behind the global key.

use http::StatusCode;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::Site;
use super::fields::decode_path;
use super::plugin_route::open_methods;
use super::reply::{ApiError, json_reply, python_error};
use crate::exchange::{Change, PluginRequest};

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
        let name = || decode_path(name).into_owned();
        let route = match action {
            "reload" => Self::Reload(name()),
            "load" => Self::Load(name()),
            "unload" => Self::Unload(name()),
            _ => return None,
        };
        match route {
            Self::Reload(name) if name == "all" => Some(Self::ReloadAll),
            Self::Reload(ref name) | Self::Load(ref name) | Self::Unload(ref name) if name.is_empty() => None,
            named => Some(named),
        }
    }
}

/// Does what is asked for, on every worker; the key has been checked.
pub async fn answer(site: &Site, route: ControlRoute, request: &PluginRequest) -> Result<Response, ApiError> {
    let body = match route {
        ControlRoute::Plugins => {
            let is_verbose = request.query().any(|(name, value)| name == "verbose" && value != "0");
            list(site, is_verbose).await
        }
        ControlRoute::ReloadAll => reload_all(site).await?,
        ControlRoute::Reload(name) => {
            site.link.change(Change::Reload(name.clone())).await?;
            json!({"reloaded": name, "success": true})
        }
        ControlRoute::Load(stem) => {
            let changed = site.link.change(Change::Load(stem.clone())).await?;
            json!({"loaded": stem, "success": true, "plugins": changed.ids})
        }
        ControlRoute::Unload(name) => {
            site.link.change(Change::Unload(name.clone())).await?;
            json!({"unloaded": name, "success": true})
        }
    };
    Ok(json_reply(StatusCode::OK, &body))
}

/// What all workers serve together.
async fn list(site: &Site, is_verbose: bool) -> Value {
    let mut own = verbose_list(site);
    // A supervisor that does not answer is no reason not to.
    let overview = site.link.overview().await.unwrap_or_default();
    let reports = overview.workers.iter().filter_map(|worker| worker.plugins.as_ref());
    let others: Vec<&Value> = reports.collect();
    if let Some(names) = own["loaded_plugins"].as_array_mut() {
        for name in others.iter().filter_map(|list| list["loaded_plugins"].as_array()).flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    if !is_verbose {
        return json!({"loaded_plugins": own["loaded_plugins"]});
    }
    add_calls(&mut own, &others);
    own["workers"] = overview
        .workers
        .iter()
        .map(|worker| {
            json!({
                "number": worker.number,
                "pid": worker.pid,
                "state": worker.state,
                "age_seconds": worker.age_seconds,
                "restarts": worker.restarts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "answers": worker.plugins.is_some(),
            })
        })
        .collect();
    let quarantined = overview
        .quarantined
        .iter()
        .map(|entry| json!({"file": entry.path.display().to_string(), "plugins": entry.ids, "reason": entry.reason}));
    own["quarantine"] = quarantined.collect();
    own["last_reload_failure"] = overview.last_failure.clone().into();
    own
}

/// Sums the calls of each plugin up over the workers. Each of them has told of itself, this one too.
fn add_calls(own: &mut Value, reports: &[&Value]) {
    if reports.is_empty() {
        return;
    }
    let Some(files) = own["files"].as_array_mut() else { return };
    for plugin in files.iter_mut().filter_map(|file| file["plugins"].as_array_mut()).flatten() {
        let of_same_name = |found: &&Value| found["name"] == plugin["name"];
        let sum: u64 = reports
            .iter()
            .filter_map(|list| list["files"].as_array())
            .flatten()
            .filter_map(|file| file["plugins"].as_array())
            .flatten()
            .filter(of_same_name)
            .filter_map(|found| found["calls"].as_u64())
            .sum();
        plugin["calls"] = sum.into();
    }
}

fn loaded(site: &Site) -> Vec<String> {
    site.plugins.registry().ids().into_iter().map(str::to_owned).collect()
}

async fn reload_all(site: &Site) -> Result<Value, ApiError> {
    let failed = site.link.change(Change::ReloadAll).await?.failed;
    if failed.is_empty() {
        return Ok(json!({"status": "All plugins reloaded", "loaded_plugins": loaded(site)}));
    }
    let failed: Map<String, Value> = failed
        .iter()
        .filter_map(|file| {
            let stem = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Some((stem, python_error(file.error.as_ref()?, false)))
        })
        .collect();
    let status = "Plugins reloaded, except for those that failed";
    Ok(json!({"status": status, "loaded_plugins": loaded(site), "failed": failed}))
}

/// Every file with its plugins and its last error.
pub fn verbose_list(site: &Site) -> Value {
    let config = site.config.get();
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
                        "class": plugin.instance().class_name(),
                        "key": plugin.instance().key_rule().words(),
                        "async": plugin.instance().is_async(),
                        "calls": plugin.calls_inside(),
                        "methods": open_methods(plugin.instance().methods()),
                        "description": plugin.instance().description().description,
                        "parameters": plugin.instance().description().parameters,
                    })
                })
                .collect();
            let error = state.error.as_ref().map(|error| python_error(error, false));
            let arguments = config.settings.argument_names(path);
            json!({"file": path.display().to_string(), "plugins": plugins, "error": error, "arguments": arguments})
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
