//! The name of one request, by which its answer, its log lines and its caller's own records are told to be about the
//! same: `X-Request-Id`.
//!
//! One that is made here costs a number: it becomes text only where it is written.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, HeaderValue};

/// The field of requests and answers.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest that is taken from a client.
const LONGEST: usize = 128;

/// How many letters tell processes apart, and which: none that is easily taken for another.
const PREFIX_LENGTH: usize = 8;

/// The longest that is made here: behind the prefix and a hyphen the digits of a `u64`.
const MADE_LENGTH: usize = PREFIX_LENGTH + 21;

const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestId {
    /// The so many-th of this process.
    Made(u64),
    /// As somebody who is trusted has it.
    Given(HeaderValue),
}

impl RequestId {
    /// A new one, which no other request of any process has.
    pub fn make() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self::Made(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// One from a request's field; `None` when it could be mistaken for something else in a log line or an address.
    pub fn given(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/+=@,;".contains(byte);
        let fits = !bytes.is_empty() && bytes.len() <= LONGEST && bytes.iter().all(is_fit);
        fits.then(|| Self::Given(value.clone()))
    }

    /// The value of the answer's field.
    pub fn header_value(&self) -> HeaderValue {
        match self {
            Self::Given(value) => value.clone(),
            Self::Made(_) => {
                // In place, so that the value is the only allocation.
                let mut buffer = [0; MADE_LENGTH];
                let mut rest = &mut buffer[..];
                write!(rest, "{self}").expect("there is room for every number");
                let room_left = rest.len();
                HeaderValue::from_bytes(&buffer[..MADE_LENGTH - room_left]).expect("letters and digits")
            }
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(number) => write!(formatter, "{}-{number}", prefix()),
            Self::Given(value) => formatter.write_str(value.to_str().unwrap_or_default()),
        }
    }
}

/// What tells this process from any other, at any time.
fn prefix() -> &'static str {
    static PREFIX: OnceLock<String> = OnceLock::new();
    PREFIX.get_or_init(|| {
        // The standard library has seeded it from the system's source of randomness.
        let random = RandomState::new().build_hasher().finish();
        (0..PREFIX_LENGTH).map(|index| char::from(LETTERS[(random >> (5 * index)) as usize % LETTERS.len()])).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another_and_fit_to_be_given_on() {
        let (one, other) = (RequestId::make(), RequestId::make());
        assert_ne!(one.to_string(), other.to_string());
        assert_eq!(one.header_value(), one.to_string().as_str());
        assert!(RequestId::given(&one.header_value()).is_some());
        assert_eq!(RequestId::Made(u64::MAX).header_value().len(), MADE_LENGTH);
    }

    #[test]
    fn what_would_break_a_line_is_not_taken() {
        let given = |text: &[u8]| RequestId::given(&HeaderValue::from_bytes(text).expect("a header value"));
        assert_eq!(given(b"1-5759e988/a:b").map(|id| id.to_string()).as_deref(), Some("1-5759e988/a:b"));
        for text in [&b""[..], b"a b", b"a\"b", b"[x]", b"\xc3\xa9", &[b'a'; LONGEST + 1]] {
            assert_eq!(given(text), None, "{text:?}");
        }
    }
}
