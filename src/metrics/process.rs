//! What the system knows of this process, read when somebody asks.

/// Memory that is in RAM, in bytes; `None` where there is no procfs.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Open file descriptors; `None` where there is no procfs, or no descriptor left to look with.
pub fn open_descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // The folder itself was open meanwhile.
    Some(entries.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_a_process_of_this_kind_has() {
        let bytes = resident_bytes().expect("procfs");
        assert!((500_000..10_000_000_000).contains(&bytes), "{bytes}");
        assert!(open_descriptors().expect("procfs") >= 3);
    }
}
