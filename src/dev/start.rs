//! From the command line of `pserve dev` to a configuration, with or without an INI file.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use super::folder;
use crate::cli::DevArguments;
use crate::config::settings::ListenAddress;
use crate::config::{Config, FixedKey, Source};

/// The port when none is asked for, and how many after it are tried when it is taken.
const USUAL_PORT: u16 = 9192;
const NEXT_PORTS: u16 = 50;

/// What a configuration without an INI file goes by in messages and to plugins.
const NO_FILE: &str = "pserve-dev";

/// What `pserve dev` serves, and what to tell of it.
#[derive(Debug)]
pub struct Plan {
    pub config: Config,
    pub must_poll: bool,
    /// Lines for the terminal that say what was chosen and why.
    pub notes: Vec<String>,
}

/// Reads and checks everything. The error is the line to show.
pub fn plan(arguments: &DevArguments, ini: Option<&Path>) -> Result<Plan, String> {
    let mut notes = Vec::new();
    let mut fixed = vec![
        FixedKey::new("server", "debug", "bool:true"),
        FixedKey::new("server", "page", "bool:true"),
        // The pidfile is that of a server which may run beside this one.
        FixedKey::new("paths", "pidfile", ""),
        // A file that takes its worker down is not tried again before it has been saved.
        FixedKey::new("limits", "crash_quarantine", "1"),
    ];
    if ini.is_none() || arguments.folder.is_some() {
        let folder = folder::to_serve(arguments.folder.as_deref())?;
        let text = folder.to_str().ok_or_else(|| format!("{}: its name is no text", folder.display()))?;
        fixed.push(FixedKey::new("paths", "plugins", text));
    }
    if let Some(port) = arguments.port {
        fixed.push(FixedKey::new("network", "port", &port.to_string()));
    } else if ini.is_none() {
        let (port, note) = free_port(USUAL_PORT)?;
        notes.extend(note);
        fixed.push(FixedKey::new("network", "port", &port.to_string()));
    }
    let source = match ini {
        Some(path) => Source { path: path.to_owned(), has_file: true, fixed },
        None => {
            // What a production server's environment says of addresses is not meant here.
            fixed.push(FixedKey::new("network", "bindto", "127.0.0.1"));
            notes.extend(ini_beside());
            Source { path: PathBuf::from(NO_FILE), has_file: false, fixed }
        }
    };
    let config = Config::read(source).map_err(|problem| problem.to_string())?;
    notes.extend(open_to_others(&config));
    Ok(Plan { config, must_poll: arguments.poll, notes })
}

/// The usual port, else the next one that nobody listens on and what to say of it.
fn free_port(usual: u16) -> Result<(u16, Option<String>), String> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let last = usual.saturating_add(NEXT_PORTS);
    let port = (usual..=last)
        .find(is_free)
        .ok_or_else(|| format!("ports {usual} to {last} are taken; give one with --port, or --port 0 for any"))?;
    let is_other = port != usual;
    Ok((port, is_other.then(|| format!("port {usual} is taken; {port} is the next free one (--port chooses)"))))
}

/// An INI file in the current folder is not read unless it is named.
fn ini_beside() -> Option<String> {
    let found = ["pserve.ini", "config.ini"].into_iter().find(|name| Path::new(name).is_file())?;
    Some(format!("{found} is not read; pserve dev -i {found} does"))
}

/// Answers show source: not for everybody.
fn open_to_others(config: &Config) -> Option<String> {
    let is_open = |address: &&ListenAddress| match address {
        ListenAddress::Tcp(address) => !address.ip().is_loopback(),
        ListenAddress::Unix { .. } => false,
    };
    let address = config.settings.listen.iter().find(is_open)?;
    Some(format!("answers with tracebacks and source go to everybody who reaches {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_gives_way_to_the_next_free_one_and_that_is_said() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let usual = taken.local_addr().expect("an address").port();
        let (port, note) = free_port(usual).expect("one of fifty is free");
        assert!(port > usual, "{port}");
        assert_eq!(note, Some(format!("port {usual} is taken; {port} is the next free one (--port chooses)")));
        // That one is free, unless somebody has taken it meanwhile.
        let (again, note) = free_port(port).expect("one of fifty is free");
        assert_eq!(note.is_none(), again == port);
    }
}
