//! The routes as a table with the addresses to click on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::errors::short_name;
use super::terminal::Terminal;
use crate::config::settings::ListenAddress;
use crate::exchange::PluginFiles;
use crate::palette::Ink;

/// What stands for the address of a file without plugins.
const DOES_NOT_LOAD: &str = "does not load";

/// Where a browser on this machine finds the server.
pub fn base_address(addresses: &[ListenAddress], is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    let tcp = addresses.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix { .. } => None,
    });
    match (tcp, addresses.first()) {
        (Some(address), _) => format!("{scheme}://{}", reachable(address)),
        (None, Some(unix)) => unix.to_string(),
        (None, None) => String::new(),
    }
}

/// An address for all of the machine's is none to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// An id as a part of a URL.
pub fn address_of(base: &str, id: &str) -> String {
    let parts: Vec<String> = id
        .split('/')
        .map(|part| percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string())
        .collect();
    let path = parts.join("/").replace("%5F", "_").replace("%2D", "-").replace("%2E", ".").replace("%7E", "~");
    format!("{base}/{path}")
}

/// Writes the table: what every file serves, and which do not load.
pub fn write(terminal: &mut Terminal, files: &PluginFiles, base: &str, folder: &Path) {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for file in files {
        let name = short_name(&file.path, folder);
        match &file.error {
            // What answers there is the error.
            Some(_) if file.ids.is_empty() => {
                let stem = file.path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
                rows.push([format!("/{stem}"), DOES_NOT_LOAD.to_owned(), name]);
            }
            _ => rows.extend(file.ids.iter().map(|id| [format!("/{id}"), address_of(base, id), name.clone()])),
        }
    }
    if rows.is_empty() {
        return terminal.write("  no plugin yet: pserve new NAME writes one\n\n");
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0).max("ROUTE".len()), width(1).max("ADDRESS".len())];
    let heading = format!("  {:<w0$}  {:<w1$}  FILE", "ROUTE", "ADDRESS", w0 = widths[0], w1 = widths[1]);
    let mut text = format!("{}\n", terminal.paint(Ink::Faint, &heading));
    for [route, address, file] in &rows {
        let is_broken = address == DOES_NOT_LOAD;
        // Padding is no part of what is clicked on.
        let pad = |text: &str, width: usize| " ".repeat(width.saturating_sub(text.chars().count()));
        text.push_str(&format!(
            "  {}{}  {}{}  {}\n",
            terminal.paint(Ink::Strong, route),
            pad(route, widths[0]),
            terminal.paint(if is_broken { Ink::Bad } else { Ink::Address }, address),
            pad(address, widths[1]),
            terminal.paint(Ink::Faint, file),
        ));
    }
    terminal.write(&format!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ones_to_click_on() {
        let tcp = |text: &str| ListenAddress::Tcp(text.parse().expect("an address"));
        assert_eq!(base_address(&[tcp("0.0.0.0:81")], false), "http://127.0.0.1:81");
        assert_eq!(base_address(&[tcp("[::]:81")], true), "https://[::1]:81");
        assert_eq!(address_of("http://h:1", "api/v1_a-b c"), "http://h:1/api/v1_a-b%20c");
    }
}
