//! A path as serde carries it: text where it is text, else its bytes. A file's name may be anything but `/` and NUL, and
//! serde's own way fails for what is no UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Carried<T, B> {
    Text(T),
    Bytes(B),
}

pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => Carried::<_, &[u8]>::Text(text),
        None => Carried::Bytes(path.as_os_str().as_bytes()),
    }
    .serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(match Carried::<String, Vec<u8>>::deserialize(deserializer)? {
        Carried::Text(text) => PathBuf::from(text),
        Carried::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] PathBuf);

    #[test]
    fn any_path_comes_back_as_it_was() {
        for bytes in [&b"/plain"[..], b"/caf\xc3\xa9", b"/caf\xe9", b""] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let text = serde_json::to_string(&Holder(path.clone())).expect("JSON");
            assert_eq!(serde_json::from_str::<Holder>(&text).expect("a path").0, path, "{text}");
        }
    }
}
