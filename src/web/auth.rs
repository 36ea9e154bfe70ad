//! Where a key may stand in a request, and which key it must equal. The first place that holds one decides.

use http::{HeaderMap, header};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::config::{KeyRule, Secret};
use crate::exchange::{BodyFields, PluginRequest};

/// The field of query or body that holds a key.
pub const KEY_FIELD: &str = "apikey";

/// Whether the request may pass, for every rule that is decided without Python.
pub fn is_allowed(rule: &KeyRule, global: Option<&Secret>, request: &PluginRequest) -> bool {
    let matches = |secret: &Secret| given_key(request).is_some_and(|given| secret.matches(given.as_bytes()));
    match rule {
        KeyRule::Open | KeyRule::Custom => true,
        KeyRule::Global => global.is_some_and(matches),
        KeyRule::Own(secret) => matches(secret),
        KeyRule::Never => false,
    }
}

/// The key that a client gave: Bearer, then X-Custom-Auth, then the field of the query, then that of the body.
/// An empty one does not count, and neither does an `Authorization` of another scheme, which may be a proxy's.
fn given_key(request: &PluginRequest) -> Option<String> {
    let in_header = bearer(&request.headers).or_else(|| header_text(&request.headers, "x-custom-auth"));
    let in_query = || request.query.iter().find(|(name, _)| name == KEY_FIELD).map(|(_, key)| key.clone());
    let key = in_header.or_else(in_query).or_else(|| key_in_body(request));
    key.filter(|key| !key.is_empty())
}

/// RFC 6750, 2.1; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = header_text(headers, header::AUTHORIZATION.as_str())?;
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then(|| key.to_owned())
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(name)?.as_bytes()).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn key_in_body(request: &PluginRequest) -> Option<String> {
    // The same order as for fields: a JSON object is JSON whatever the content type says.
    if let Some(found) = key_in_json(&request.body) {
        return found;
    }
    match &request.form {
        BodyFields::None => None,
        BodyFields::UrlEncoded(fields) => fields.iter().find(|(name, _)| name == KEY_FIELD).map(|(_, key)| key.clone()),
        BodyFields::Multipart(parts) => {
            parts.iter().find(|part| part.name == KEY_FIELD && part.file_name.is_none()).map(|part| part.text())
        }
    }
}

/// `None` when the body is no JSON object; the inner `None` when the object has no key in it.
fn key_in_json(body: &[u8]) -> Option<Option<String>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if *first != b'{' {
        return None;
    }
    serde_json::from_slice::<KeyOfObject>(body).ok().map(|object| object.0)
}

/// Reads one member of a JSON object and skips the rest without building it.
struct KeyOfObject(Option<String>);

impl<'de> Deserialize<'de> for KeyOfObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = KeyOfObject;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut key = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == KEY_FIELD {
                        // The last of repeated members counts, as in Python.
                        key = map.next_value::<serde_json::Value>()?.as_str().map(str::to_owned);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(KeyOfObject(key))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_json(text: &str) -> Option<Option<String>> {
        key_in_json(text.as_bytes())
    }

    #[test]
    fn the_key_of_a_json_body() {
        assert_eq!(in_json(r#"{"a":[1,{"apikey":"no"}],"apikey":"yes"}"#), Some(Some("yes".into())));
        assert_eq!(in_json(r#"{"apikey":5}"#), Some(None));
        assert_eq!(in_json("[1]"), None);
        assert_eq!(in_json("{apikey=x}"), None);
    }

    #[test]
    fn only_a_bearer_counts_in_authorization() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header value"));
            bearer(&headers)
        };
        assert_eq!(with("bearer   k  "), Some("k".into()));
        assert_eq!(with("Bearer "), None);
        assert_eq!(with("Basic zzz"), None);
    }
}
