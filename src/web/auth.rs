//! Where a key may stand in a request, and which key it must equal. The first place that holds one decides.

use http::{HeaderMap, header};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::config::{KeyRule, Secret};
use crate::exchange::{BodyFields, PluginRequest};

/// The field of query or body that holds a key.
pub const KEY_FIELD: &str = "apikey";

/// What the rule says of a request.
#[derive(Debug)]
pub enum Verdict {
    Allowed,
    Refused,
    /// Only a JSON body that is beyond the reader here can hold the key (Python takes NaN, lone surrogates, other
    /// encodings): it must hold this one.
    BodyDecides(Secret),
}

/// Judges a request by every rule that is decided without Python.
pub fn judge(rule: &KeyRule, global: Option<&Secret>, request: &PluginRequest) -> Verdict {
    let wanted = match rule {
        KeyRule::Open | KeyRule::Custom => return Verdict::Allowed,
        KeyRule::Never => return Verdict::Refused,
        KeyRule::Global => global,
        KeyRule::Own(secret) => Some(secret),
    };
    let Some(wanted) = wanted else {
        return Verdict::Refused;
    };
    match given_key(request) {
        Given::Key(key) if wanted.matches(key.as_bytes()) => Verdict::Allowed,
        Given::InUnreadableJson => Verdict::BodyDecides(wanted.clone()),
        _ => Verdict::Refused,
    }
}

enum Given {
    Key(String),
    InUnreadableJson,
    Nothing,
}

/// The key that a client gave: Bearer, then X-Custom-Auth, then the field of the query, then that of the body.
/// An empty one does not count, and neither does an `Authorization` of another scheme, which may be a proxy's.
fn given_key(request: &PluginRequest) -> Given {
    let in_header = bearer(&request.headers).or_else(|| header_text(&request.headers, "x-custom-auth"));
    let in_query = || request.query().find(|(name, _)| name == KEY_FIELD).map(|(_, key)| key.into_owned());
    let outside = in_header.or_else(in_query).map_or(Given::Nothing, Given::Key);
    let given = if matches!(outside, Given::Nothing) { key_in_body(request) } else { outside };
    match given {
        Given::Key(key) if key.is_empty() => Given::Nothing,
        given => given,
    }
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

fn key_in_body(request: &PluginRequest) -> Given {
    // The same order as for fields: a JSON object is JSON whatever the content type says.
    let found = match (key_in_json(&request.body), &request.form) {
        (Json::Object(key), _) => key,
        (_, BodyFields::UrlEncoded(fields)) => {
            fields.iter().find(|(name, _)| name == KEY_FIELD).map(|(_, key)| key.clone())
        }
        (_, BodyFields::Multipart(parts)) => {
            parts.iter().find(|part| part.name == KEY_FIELD && part.file_name.is_none()).map(|part| part.text())
        }
        (Json::Unreadable, BodyFields::None) => return Given::InUnreadableJson,
        (Json::No, BodyFields::None) => None,
    };
    found.map_or(Given::Nothing, Given::Key)
}

/// What a body is as JSON.
#[derive(Debug, PartialEq, Eq)]
enum Json {
    /// An object, with the key in it if there is one.
    Object(Option<String>),
    /// No JSON object, surely.
    No,
    /// Perhaps one for a more patient reader.
    Unreadable,
}

fn key_in_json(body: &[u8]) -> Json {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {
            serde_json::from_slice::<KeyOfObject>(body).map_or(Json::Unreadable, |object| Json::Object(object.0))
        }
        // The marks of UTF-16 and UTF-32.
        Some(0 | 0xfe | 0xff) => Json::Unreadable,
        _ => Json::No,
    }
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

    #[test]
    fn the_key_of_a_json_body() {
        let in_json = |text: &str| key_in_json(text.as_bytes());
        assert_eq!(in_json(r#"{"a":[1,{"apikey":"no"}],"apikey":"yes"}"#), Json::Object(Some("yes".into())));
        assert_eq!(in_json(r#"{"apikey":5}"#), Json::Object(None));
        assert_eq!(in_json("[1]"), Json::No);
        assert_eq!(in_json(r#"{"x":NaN,"apikey":"k"}"#), Json::Unreadable);
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
