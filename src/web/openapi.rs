//! `/-/openapi.json`: what the plugins of this worker take and answer, as OpenAPI 3.1 has it, for tools that call them.
//!
//! Plugins check nothing of what is described here and may answer as they like: the description is their word and not
//! the server's. The parts that are the same for every server are in `openapi_parts`.

use std::collections::HashSet;

use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::Site;
use super::openapi_parts as parts;
use super::plugin_route::open_methods;
use super::probes::Probe;
use super::reply::json_reply;
use crate::config::{KeyRule, Settings};
use crate::exchange::PluginRequest;
use crate::plugins::Plugin;
use crate::python::{Parameter, ParameterPlace};

/// Where it is.
pub const PATH: &str = "/-/openapi.json";

/// What of a plugin's id stands in a path as it is.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The methods that the format knows.
const DESCRIBED: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];

/// Those of them whose body means something (RFC 9110, 9.3).
const WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];

/// Answers with the description; the key has been checked.
pub fn answer(site: &Site, request: &PluginRequest) -> Response {
    let mut response = json_reply(StatusCode::OK, &document(site, request));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn document(site: &Site, request: &PluginRequest) -> Value {
    let settings = &site.config.get().settings;
    let registry = site.plugins.registry();
    let mut paths = Map::new();
    let mut names = Names::default();
    let mut rules = vec![if settings.global_key.is_some() { KeyRule::Global } else { KeyRule::Open }];
    for plugin in registry.ids().into_iter().filter_map(|id| registry.get(id)) {
        let path = format!("/{}", utf8_percent_encode(plugin.id(), IN_PATH));
        let rule = plugin.instance().key_rule();
        if plugin.instance().description().takes_subpath {
            let mut item = path_item(plugin, &rule, settings, &mut names, "_subpath");
            item.insert("parameters".to_owned(), json!([parts::subpath()]));
            paths.insert(path.clone() + "/{subpath}", item.into());
        }
        paths.insert(path, path_item(plugin, &rule, settings, &mut names, "").into());
        rules.push((*rule).clone());
    }
    paths.extend(parts::control_routes(&rules[0]));
    paths.extend(parts::probes(|probe: Probe| registry.get(probe.name()).is_none()));
    paths.insert(PATH.to_owned(), parts::itself(&rules[0]));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Plugins of this server",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What the plugins tell of themselves: docstrings, `parameters`, hints. The version is the server's.",
        },
        "servers": [{"url": server_url(request)}],
        "tags": parts::tags(),
        "paths": paths,
        "components": parts::components(&rules),
    })
}

/// This server as whoever asks sees it.
fn server_url(request: &PluginRequest) -> String {
    let named = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let named = request.forwarded_host.as_deref().or(named);
    let host = named.map_or_else(|| request.local.to_string(), str::to_owned);
    format!("{}://{host}", request.scheme)
}

/// Everything that a plugin takes at one path.
fn path_item(
    plugin: &Plugin,
    rule: &KeyRule,
    settings: &Settings,
    names: &mut Names,
    suffix: &str,
) -> Map<String, Value> {
    let own = plugin.instance().methods();
    let mut item = Map::new();
    for method in open_methods(own).into_iter().filter(|method| DESCRIBED.contains(method)) {
        // HEAD and OPTIONS are open everywhere: only a plugin that asks for them has something of its own to say.
        if matches!(method, "HEAD" | "OPTIONS") && !own.iter().any(|name| name == method) {
            continue;
        }
        let mut operation = operation(plugin, rule, settings, method);
        operation["operationId"] = names.unique(method, plugin.id(), suffix).into();
        item.insert(method.to_lowercase(), operation);
    }
    item
}

fn operation(plugin: &Plugin, rule: &KeyRule, settings: &Settings, method: &str) -> Value {
    let described = plugin.instance().description();
    let has_body = WITH_BODY.contains(&method);
    let in_body = |field: &&Parameter| has_body && field.place != ParameterPlace::Query;
    let in_query = |field: &&Parameter| if has_body { !in_body(field) } else { field.place != ParameterPlace::Body };
    let mut operation = json!({"operationId": "", "tags": ["plugins"]});
    if let Some(summary) = described.description.lines().map(str::trim).find(|line| !line.is_empty()) {
        operation["summary"] = summary.into();
    }
    let mut description = described.description.clone();
    if matches!(rule, KeyRule::Custom) {
        description.push_str("\n\nThe plugin has a check of its own for who may call it.");
    }
    if !description.is_empty() {
        operation["description"] = description.trim_start().into();
    }
    let query: Vec<Value> = described.parameters.iter().filter(in_query).map(query_parameter).collect();
    if !query.is_empty() {
        operation["parameters"] = query.into();
    }
    if has_body {
        let fields: Vec<&Parameter> = described.parameters.iter().filter(in_body).collect();
        operation["requestBody"] = request_body(&fields);
    }
    let timeout = plugin.instance().timeout().unwrap_or(settings.limits.request_timeout);
    let occasions = parts::Occasions {
        has_body,
        has_key: !matches!(rule, KeyRule::Open),
        has_time_limit: !timeout.is_zero(),
        is_legacy: settings.server.legacy_status,
    };
    operation["responses"] = parts::plugin_responses(&occasions);
    operation["security"] = parts::security(rule);
    operation
}

fn query_parameter(field: &Parameter) -> Value {
    let mut parameter = json!({"name": field.name, "in": "query", "required": field.required});
    if !field.description.is_empty() {
        parameter["description"] = field.description.clone().into();
    }
    let mut schema = field.schema.clone();
    let is_of_any_type =
        ["type", "enum", "const", "anyOf", "oneOf", "allOf"].iter().all(|key| schema.get(key).is_none());
    if is_of_any_type && schema.get("default").is_none_or(Value::is_string) && schema.is_object() {
        // Whatever is put into a query is text.
        schema["type"] = "string".into();
    }
    parameter["schema"] = schema;
    parameter
}

/// A body as JSON, with every field, and as a form, with those that a form can hold.
fn request_body(fields: &[&Parameter]) -> Value {
    let is_nested = |field: &Parameter| field.place == ParameterPlace::Body || field.schema.get("anyOf").is_some();
    let of_form: Vec<&Parameter> = fields.iter().copied().filter(|field| !is_nested(field)).collect();
    let mut content = json!({"application/json": {"schema": body_schema(fields)}});
    if !fields.iter().any(|field| field.required && is_nested(field)) {
        content["application/x-www-form-urlencoded"] = json!({"schema": body_schema(&of_form)});
    }
    json!({"required": fields.iter().any(|field| field.required), "content": content})
}

fn body_schema(fields: &[&Parameter]) -> Value {
    let mut schema = json!({"type": "object"});
    if fields.is_empty() {
        return schema;
    }
    let property = |field: &&Parameter| {
        let mut property = field.schema.clone();
        if !field.description.is_empty() && property.is_object() {
            property["description"] = field.description.clone().into();
        }
        (field.name.clone(), property)
    };
    schema["properties"] = fields.iter().map(property).collect::<Map<_, _>>().into();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// Names of operations, which tools make functions of: each there once.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    fn unique(&mut self, method: &str, id: &str, suffix: &str) -> String {
        let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let name = format!("{}_{id}{suffix}", method.to_lowercase());
        let mut found = name.clone();
        let mut count = 1;
        while !self.0.insert(found.clone()) {
            count += 1;
            found = format!("{name}_{count}");
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_operations_are_unique() {
        let mut names = Names::default();
        assert_eq!(names.unique("GET", "api/v1", ""), "get_api_v1");
        assert_eq!(names.unique("GET", "api_v1", ""), "get_api_v1_2");
        assert_eq!(names.unique("POST", "é", "_subpath"), "post___subpath");
    }
}
