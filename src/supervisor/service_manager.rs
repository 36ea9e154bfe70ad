//! What systemd is told (sd_notify(3)): ready, reloading, stopping, how it is, and that it is alive.

use std::io;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service manager, where there is one.
#[derive(Debug)]
pub struct ServiceManager {
    /// How often it wants to hear that all is well.
    watchdog: Option<Duration>,
    last_sign: Instant,
}

/// Variables that are the supervisor's alone.
pub const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

impl ServiceManager {
    pub fn of_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), last_sign: Instant::now() }
    }

    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The start of a reload; [`ServiceManager::ready`] ends it. `Type=notify-reload` wants the time with it.
    pub fn reloading(&self, status: &str) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
            Err(problem) => log::debug!("the monotonic clock cannot be read: {problem}"),
        }
    }

    pub fn stopping(&self, status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Says that all is well, when it is time to.
    pub fn sign_of_life(&mut self) {
        let is_due = |interval: Duration| self.last_sign.elapsed() >= interval / 3;
        if self.watchdog.is_some_and(is_due) {
            self.last_sign = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    match sd_notify::notify(states) {
        Ok(()) => {}
        // No service manager is listening.
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => log::debug!("the service manager cannot be told: {problem}"),
    }
}
