//! A certificate and its key as they were read: every worker of a set has the same, whatever becomes of the files.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::settings::TlsFiles;

/// The contents of two PEM files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsPem {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl TlsPem {
    /// Reads both. `None` when one cannot be read: who makes an acceptor of them says why.
    pub fn read(files: &TlsFiles) -> Option<Self> {
        Some(Self { certificate: std::fs::read(&files.certificate).ok()?, key: std::fs::read(&files.key).ok()? })
    }
}

/// The key is nobody's business.
impl fmt::Debug for TlsPem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TlsPem")
    }
}
