//! The configuration in force: read without waiting, replaced whole, kept when a new one cannot work.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Config, ConfigError, Settings, Source};
use crate::logging;

/// Shared by everything that asks for settings at run time.
#[derive(Debug)]
pub struct LiveConfig {
    source: Source,
    current: ArcSwap<Config>,
}

impl LiveConfig {
    /// Starts with a configuration that has been read from its file.
    pub fn new(config: Config) -> Self {
        hide_keys(&config);
        configure_log(&config.settings);
        // Absolute from the start: a plugin may change the current folder.
        let mut source = config.source.clone();
        source.path = std::path::absolute(&source.path).unwrap_or(source.path);
        Self { source, current: ArcSwap::from_pointee(config) }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<Config> {
        self.current.load_full()
    }

    /// Puts the text of the file as it is now in force. Errs when it cannot work: the old one then stays.
    pub fn adopt(&self, text: &str) -> Result<(), ConfigError> {
        let config = Config::from_known_text(text, &self.source)?;
        hide_keys(&config);
        configure_log(&config.settings);
        self.current.store(Arc::new(config));
        Ok(())
    }

    /// Puts one that was in force before in force again: what was tried with a newer one has failed.
    pub fn put_back(&self, config: Arc<Config>) {
        configure_log(&config.settings);
        self.current.store(config);
    }
}

/// Lets the log be written as the file in force says.
pub fn configure_log(settings: &Settings) {
    logging::configure(settings.server.log_format, settings.log_levels());
}

/// Lets no key of the file reach the log, whichever text it turns up in.
pub fn hide_keys(config: &Config) {
    for key in config.settings.known_keys() {
        logging::hide(&key);
    }
}
