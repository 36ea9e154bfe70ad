//! The file that holds the supervisor's process number while it serves.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Written at the start, removed at the end.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Written after the addresses are bound: a second server that fails for want of the port leaves it alone.
    pub fn write(path: &Path) -> anyhow::Result<Self> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("cannot write the pidfile {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it, unless another process has written its own number meanwhile.
    pub fn remove(&self) {
        let is_ours = std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if is_ours && let Err(problem) = std::fs::remove_file(&self.0) {
            log::warn!("cannot remove the pidfile {}: {problem}", self.0.display());
        }
    }
}
