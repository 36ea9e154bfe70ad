//! Lets the targets find a libpython that lies outside the system's folders; they never start it.

fn main() {
    pyo3_build_config::add_libpython_rpath_link_args();
}
