//! What the description at `/-/openapi.json` says of every server: its own routes, the ways to give a key, the forms of
//! its errors.

use serde_json::{Map, Value, json};

use super::openapi::PATH;
use super::probes::Probe;
use crate::config::KeyRule;
use crate::metrics;

/// What can happen to a request.
#[derive(Debug)]
pub struct Occasions {
    pub has_body: bool,
    pub has_key: bool,
    pub has_time_limit: bool,
    /// Refusals and exceptions are answered with 200.
    pub is_legacy: bool,
}

/// Errors by the name of their component: status, description.
const ERRORS: [(&str, u16, &str); 9] = [
    ("BadRequest", 400, "The head or the body of the request cannot be read."),
    ("Forbidden", 403, "The key is missing or wrong, or the origin is not allowed."),
    ("NotFound", 404, "There is no such plugin or file."),
    ("BodyTooSlow", 408, "The body did not come within its time."),
    ("BodyTooLarge", 413, "The body is larger than the server takes."),
    ("TooManyConnections", 429, "This client has too many connections open."),
    ("Failed", 500, "The plugin's code has raised."),
    ("Unavailable", 503, "Too many calls wait, or the plugin is not there at the moment."),
    ("TimedOut", 504, "The plugin gave no answer within its time."),
];

pub fn tags() -> Value {
    json!([
        {"name": "plugins", "description": "What this server is for."},
        {"name": "control", "description": "Plugins are listed, loaded and unloaded; with the global key, where one is set."},
        {"name": "probes", "description": "For whoever watches the server."},
    ])
}

/// The rest of a plugin's path.
pub fn subpath() -> Value {
    json!({
        "name": "subpath",
        "in": "path",
        "required": true,
        "description": "The rest of the path, which may have slashes.",
        "schema": {"type": "string", "minLength": 1},
    })
}

/// The answers of a plugin.
pub fn plugin_responses(occasions: &Occasions) -> Value {
    let mut responses = Map::new();
    let is_possible = |status: u16| match status {
        403 => occasions.has_key && !occasions.is_legacy,
        408 | 413 => occasions.has_body,
        500 => !occasions.is_legacy,
        504 => occasions.has_time_limit,
        404 => false,
        _ => true,
    };
    responses.insert("200".to_owned(), answer("The plugin's answer.", "*/*", &json!({})));
    for (name, status, _) in ERRORS.iter().filter(|(_, status, _)| is_possible(*status)) {
        responses.insert(status.to_string(), reference(name));
    }
    responses.insert("default".to_owned(), answer("Any other answer of the plugin's own.", "*/*", &json!({})));
    responses.into()
}

/// The ways to give the key that a rule asks for.
pub fn security(rule: &KeyRule) -> Value {
    match prefix(rule) {
        None => json!([]),
        Some(prefix) => WAYS.iter().map(|(way, _)| json!({format!("{prefix}_{way}"): []})).collect(),
    }
}

const WAYS: [(&str, &str); 3] = [
    ("bearer", "Authorization: Bearer KEY"),
    ("header", "X-Custom-Auth: KEY"),
    ("query", "apikey=KEY, here or in the body"),
];

fn prefix(rule: &KeyRule) -> Option<&'static str> {
    match rule {
        KeyRule::Open | KeyRule::Custom => None,
        KeyRule::Global => Some("global"),
        KeyRule::Own(_) | KeyRule::Never => Some("plugin"),
    }
}

/// What is referred to. Of the ways to give a key those that one of the rules asks for.
pub fn components(rules: &[KeyRule]) -> Value {
    let mut schemes = Map::new();
    for (prefix, whose) in [("global", "the server's own key"), ("plugin", "the key of this plugin")] {
        if rules.iter().all(|rule| self::prefix(rule) != Some(prefix)) {
            continue;
        }
        for (way, form) in WAYS {
            let mut scheme = match way {
                "bearer" => json!({"type": "http", "scheme": "bearer"}),
                "header" => json!({"type": "apiKey", "in": "header", "name": "X-Custom-Auth"}),
                _ => json!({"type": "apiKey", "in": "query", "name": super::auth::KEY_FIELD}),
            };
            scheme["description"] = format!("{form}: {whose}").into();
            schemes.insert(format!("{prefix}_{way}"), scheme);
        }
    }
    let responses: Map<String, Value> =
        ERRORS.iter().map(|(name, status, description)| ((*name).to_owned(), error(*status, description))).collect();
    json!({
        "schemas": {
            "Error": {
                "type": "object",
                "description": "An error of the server's own.",
                "properties": {
                    "error": {"type": "string", "description": "What is wrong, in words."},
                    "type": {"type": "string", "format": "uri-reference"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "instance": {"type": "string", "format": "uri-reference"},
                },
                "required": ["error", "type", "title", "status", "detail"],
            },
            "Exception": {
                "type": "object",
                "description": "An exception of a plugin's.",
                "properties": {
                    "status": {"const": "exception"},
                    "type": {"type": "string", "description": "The class of the exception."},
                    "message": {"type": "string"},
                },
                "required": ["status", "type", "message"],
            },
        },
        "responses": responses,
        "headers": {
            "RequestId": {"description": "What the log calls this request.", "schema": {"type": "string"}},
        },
        "securitySchemes": schemes,
    })
}

fn error(status: u16, description: &str) -> Value {
    let own = json!({"$ref": "#/components/schemas/Error"});
    let schema =
        if status == 500 { json!({"anyOf": [{"$ref": "#/components/schemas/Exception"}, own]}) } else { own.clone() };
    let mut error = answer(description, "application/json", &schema);
    error["content"][super::problem::PROBLEM_JSON] = json!({"schema": own});
    error
}

fn answer(description: &str, content_type: &str, schema: &Value) -> Value {
    let request_id = json!({"$ref": "#/components/headers/RequestId"});
    json!({
        "description": description,
        "headers": {"X-Request-Id": request_id},
        "content": {content_type: {"schema": schema}},
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/responses/{name}")})
}

/// One control route.
struct ControlRoute {
    path: &'static str,
    name: &'static str,
    summary: &'static str,
    /// The members of its answer: each with the name of its type.
    members: &'static [(&'static str, &'static str)],
}

const CONTROL_ROUTES: [ControlRoute; 5] = [
    ControlRoute {
        path: "/plugins",
        name: "list_plugins",
        summary: "The plugins that serve",
        members: &[("loaded_plugins", "names")],
    },
    ControlRoute {
        path: "/reload/all",
        name: "reload_all",
        summary: "Load every plugin file again",
        members: &[("status", "text"), ("loaded_plugins", "names")],
    },
    ControlRoute {
        path: "/reload/{plugin}",
        name: "reload_plugin",
        summary: "Load a plugin's file again",
        members: &[("reloaded", "text"), ("success", "true")],
    },
    ControlRoute {
        path: "/load/{file}",
        name: "load_file",
        summary: "Load a plugin file, named without `.py`",
        members: &[("loaded", "text"), ("success", "true"), ("plugins", "names")],
    },
    ControlRoute {
        path: "/unload/{plugin}",
        name: "unload_plugin",
        summary: "Take a plugin out of service",
        members: &[("unloaded", "text"), ("success", "true")],
    },
];

impl ControlRoute {
    fn parameters(&self) -> Value {
        if let Some((_, rest)) = self.path.split_once('{') {
            let name = rest.trim_end_matches('}');
            return json!([{"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}]);
        }
        if self.name != "list_plugins" {
            return json!([]);
        }
        let description = "With files, fields, workers and errors.";
        json!([{"name": "verbose", "in": "query", "description": description, "schema": {"enum": ["0", "1"]}}])
    }

    fn responses(&self, rule: &KeyRule) -> Value {
        let schema_of = |kind: &str| match kind {
            "names" => json!({"type": "array", "items": {"type": "string"}}),
            "true" => json!({"const": true}),
            _ => json!({"type": "string"}),
        };
        let properties: Map<String, Value> =
            self.members.iter().map(|(name, kind)| ((*name).to_owned(), schema_of(kind))).collect();
        let required: Vec<&str> = self.members.iter().map(|(name, _)| *name).collect();
        let schema = json!({"type": "object", "properties": properties, "required": required});
        let mut responses = json!({"200": answer("Done.", "application/json", &schema)});
        let is_possible = |status: u16| match status {
            403 => !matches!(rule, KeyRule::Open),
            404 => self.path.contains('{'),
            504 => false,
            _ => true,
        };
        for (name, status, _) in ERRORS.iter().filter(|(_, status, _)| is_possible(*status)) {
            responses[status.to_string()] = reference(name);
        }
        responses
    }
}

/// The control routes, behind the global key if there is one.
pub fn control_routes(rule: &KeyRule) -> Map<String, Value> {
    let mut paths = Map::new();
    for route in &CONTROL_ROUTES {
        let mut item = json!({"parameters": route.parameters()});
        for method in ["get", "post"] {
            item[method] = json!({
                "operationId": format!("{method}_{}", route.name),
                "tags": ["control"],
                "summary": route.summary,
                "responses": route.responses(rule),
                "security": security(rule),
            });
        }
        paths.insert(route.path.to_owned(), item);
    }
    paths
}

/// The probes that no plugin has taken the place of.
pub fn probes(is_there: impl Fn(Probe) -> bool) -> Map<String, Value> {
    let mut paths = Map::new();
    for probe in Probe::ALL.into_iter().filter(|probe| is_there(*probe)) {
        let (summary, content_type) = match probe {
            Probe::Live => ("Whether the process serves", "application/json"),
            Probe::Ready => ("Whether it should get requests", "application/json"),
            Probe::Health => ("How it is", "application/json"),
            Probe::Metrics => ("What it has counted, for Prometheus", metrics::CONTENT_TYPE),
        };
        let schema = match probe {
            Probe::Metrics => json!({"type": "string"}),
            _ => {
                json!({"type": "object", "properties": {"status": {"enum": ["ok", "unavailable"]}}, "required": ["status"]})
            }
        };
        let mut responses =
            json!({"200": answer("All is well.", content_type, &schema), "400": reference("BadRequest")});
        if matches!(probe, Probe::Ready | Probe::Health) {
            responses["503"] = answer("Something is not as it should be.", content_type, &schema);
        }
        let name = probe.name();
        let operation = json!({
            "operationId": format!("get_{name}"),
            "tags": ["probes"],
            "summary": summary,
            "responses": responses,
            "security": [],
        });
        paths.insert(format!("/{name}"), json!({"get": operation}));
    }
    paths
}

/// The description as a part of itself.
pub fn itself(rule: &KeyRule) -> Value {
    let schema = json!({"type": "object"});
    let mut responses =
        json!({"200": answer("This description.", "application/json", &schema), "400": reference("BadRequest")});
    if !matches!(rule, KeyRule::Open) {
        responses["403"] = reference("Forbidden");
    }
    json!({"get": {
        "operationId": "get_openapi",
        "tags": ["control"],
        "summary": format!("This description ({PATH})"),
        "responses": responses,
        "security": security(rule),
    }})
}
