//! From what was typed to a request.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use serde_json::Value;

use crate::cli::CallArguments;
use crate::dev::address_of;

const STANDARD_INPUT: &str = "-";

/// What is to be called, and how.
#[derive(Debug)]
pub struct Wanted {
    /// As in the path of a request, without the slash before it.
    pub name: String,
    pub request: Request<Bytes>,
    pub must_include_head: bool,
    pub has_key: bool,
}

impl Wanted {
    /// Reads the body, too. The error is the line to show.
    pub fn new(arguments: &CallArguments) -> Result<Self, String> {
        let name = arguments.name.trim_matches('/').to_owned();
        if name.is_empty() {
            return Err("the name of a plugin is needed; pserve plugins lists them".to_owned());
        }
        let body = arguments.json.as_deref().map(read_json).transpose()?;
        let usual = if body.is_some() { "POST" } else { "GET" };
        let typed = arguments.method.as_deref().unwrap_or(usual);
        let method = Method::from_bytes(typed.to_uppercase().as_bytes());
        let method = method.map_err(|_| format!("--method {typed}: no method of HTTP"))?;
        let mut request = Request::new(body.clone().unwrap_or_default());
        *request.method_mut() = method;
        let address = address(&name, arguments);
        *request.uri_mut() = address.parse().map_err(|problem| format!("{address}: {problem}"))?;
        let headers = request.headers_mut();
        for (typed, value) in &arguments.headers {
            let name: HeaderName = typed.parse().map_err(|_| format!("--header {typed}: no name of a header"))?;
            let bytes = HeaderValue::from_bytes(value.as_bytes());
            let value = bytes.map_err(|_| format!("--header {typed}: its value has a control character"))?;
            headers.append(name, value);
        }
        if let Some(key) = &arguments.key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            let mut value =
                value.map_err(|_| "--key: a key of other than ASCII characters cannot be sent".to_owned())?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let agent = HeaderValue::from_static(concat!("pserve/", env!("CARGO_PKG_VERSION")));
        headers.entry(header::USER_AGENT).or_insert(agent);
        headers.entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        if body.is_some() {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        }
        Ok(Self { name, request, must_include_head: arguments.include, has_key: arguments.key.is_some() })
    }
}

/// Path and query, escaped.
fn address(name: &str, arguments: &CallArguments) -> String {
    let mut address = address_of("", name);
    if let Some(subpath) = &arguments.subpath {
        address.push_str(&address_of("", subpath.strip_prefix('/').unwrap_or(subpath)));
    }
    if !arguments.fields.is_empty() {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&arguments.fields);
        address = format!("{address}?{}", query.finish());
    }
    address
}

/// The bytes of a file that holds JSON. The server would take what is none for a body without fields.
fn read_json(path: &Path) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let is_stdin = path.as_os_str() == STANDARD_INPUT;
    let read = if is_stdin {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    read.map_err(|problem| format!("--json: {name} cannot be read: {problem}"))?;
    serde_json::from_slice::<Value>(&bytes).map_err(|problem| format!("--json: {name} is no JSON: {problem}"))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn wanted(typed: &[&str]) -> Result<Wanted, String> {
        let cli = Cli::try_parse_from([&["pserve", "call"], typed].concat()).map_err(|problem| problem.to_string())?;
        let Some(Command::Call(arguments)) = cli.command else { panic!("another command") };
        Wanted::new(&arguments)
    }

    #[test]
    fn what_is_typed_is_escaped() {
        let found = wanted(&["/api/v1", "--subpath", "a b/ü?", "q=a&b", "q=c d", "e="]).expect("good");
        assert_eq!(found.request.uri().to_string(), "/api/v1/a%20b/%C3%BC%3F?q=a%26b&q=c+d&e=");
        assert_eq!((found.name.as_str(), found.request.method()), ("api/v1", &Method::GET));
    }

    #[test]
    fn own_headers_take_the_place_of_the_usual_ones_and_keys_are_not_shown() {
        let found =
            wanted(&["a", "--header", "host: x.org", "--header", "X-A:1", "--header", "X-A: 2", "--key", "opensesame"]);
        let found = found.expect("good");
        let values = |name| found.request.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!((values("host").len(), values("x-a").len(), values("authorization").len()), (1, 2, 1));
        assert!(!format!("{found:?}").contains("opensesame"));
    }

    #[test]
    fn mistakes_are_named() {
        for (typed, part) in [
            (&["a", "b"][..], "KEY=VALUE"),
            (&["a", "=b"], "KEY=VALUE"),
            (&["a", "--header", "x"], "NAME: VALUE"),
            (&["a", "--header", "x y: z"], "no name of a header"),
            (&["a", "--method", "G T"], "no method"),
            (&["a", "--json", "/nowhere.json"], "/nowhere.json cannot be read"),
            (&["/"], "name of a plugin"),
        ] {
            let problem = wanted(typed).expect_err("a mistake");
            assert!(problem.contains(part), "{problem}");
        }
    }
}
