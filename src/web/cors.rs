//! Cross-origin requests: which origins may read answers, and what a preflight is told (the Fetch standard, 3.2).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::config::settings::CorsSettings;

const ALLOWED_HEADERS: &str = "Authorization, Content-Type, X-Requested-With, X-Custom-Auth, Accept";
const EXPOSED_HEADERS: &str = "Content-Length, X-Custom-Header, X-Request-Id";

/// Seconds that a browser may keep the answer to a preflight.
const MAX_AGE: &str = "3600";

/// What is to be done with a request, as far as its origin goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No origin, or one that gets none of the headers: answered as if there were no CORS.
    Plain,
    /// Answered, and the answer may be read by this origin.
    Allowed(HeaderValue),
    /// A preflight of this origin, answered here and now; nobody's key is asked for.
    Preflight(HeaderValue),
    /// An origin outside the `acl`.
    Refused,
}

/// Judges a request by its `Origin`.
pub fn judge(settings: &CorsSettings, method: &Method, headers: &HeaderMap) -> Verdict {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Verdict::Plain;
    };
    let text = origin.to_str().unwrap_or_default();
    if !is_listed(&settings.origins, text) && !is_under_domain(&settings.acl, text) {
        return if settings.acl.is_empty() { Verdict::Plain } else { Verdict::Refused };
    }
    let is_preflight = method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if is_preflight { Verdict::Preflight(origin.clone()) } else { Verdict::Allowed(origin.clone()) }
}

fn is_listed(origins: &[String], origin: &str) -> bool {
    let same = |known: &String| known == "*" || known.trim_end_matches('/').eq_ignore_ascii_case(origin);
    origins.iter().any(same)
}

/// Whether the origin's host is one of these domains or lies under it.
fn is_under_domain(domains: &[String], origin: &str) -> bool {
    let Some(host) = origin.parse::<http::Uri>().ok().and_then(|uri| Some(uri.host()?.to_ascii_lowercase())) else {
        return false;
    };
    domains.iter().any(|domain| {
        let domain = domain.trim_start_matches(['.', '*']).to_ascii_lowercase();
        !domain.is_empty() && (host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.')))
    })
}

/// Adds what lets a page of that origin read the answer. `Vary` goes to every answer: caches must not mix them up.
pub fn add_headers<B>(response: &mut Response<B>, verdict: &Verdict) {
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Verdict::Allowed(origin) | Verdict::Preflight(origin) = verdict {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    }
}

/// The answer to a preflight. The method is allowed as asked for: whether a route takes it is told when it comes.
pub fn preflight<B: Default>(headers: &HeaderMap) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::OK;
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned();
    let fields: [(HeaderName, HeaderValue); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, asked.unwrap_or(HeaderValue::from_static("GET, POST"))),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS)),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE)),
    ];
    response.headers_mut().extend(fields);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(settings: &CorsSettings, origin: &'static str) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        judge(settings, &Method::GET, &headers)
    }

    #[test]
    fn origins_are_compared_whole_and_hosts_by_their_labels() {
        let settings = CorsSettings {
            origins: vec!["https://a.example".into()],
            acl: vec!["b.example".into(), ".c.example".into()],
        };
        for origin in [
            "https://a.example",
            "HTTPS://A.example",
            "http://b.example:8080",
            "https://x.b.example",
            "https://y.c.example",
        ] {
            assert_eq!(verdict(&settings, origin), Verdict::Allowed(HeaderValue::from_static(origin)), "{origin}");
        }
        for origin in
            ["http://a.example", "https://a.example.evil", "https://notb.example", "https://b.example.evil", "null"]
        {
            assert_eq!(verdict(&settings, origin), Verdict::Refused, "{origin}");
        }
    }

    #[test]
    fn without_acl_another_origin_is_answered_without_the_headers() {
        let settings = CorsSettings { origins: vec!["https://a.example".into()], acl: vec![] };
        assert_eq!(verdict(&settings, "https://b.example"), Verdict::Plain);
    }
}
