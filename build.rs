//! Gives the binary the folder of a libpython that lives outside the system's library folders,
//! and the path of the interpreter it was linked with, so that `sys.executable` can name it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PYO3_PYTHON");
    pyo3_build_config::use_pyo3_cfgs();
    let config = pyo3_build_config::get();
    if !config.lib_dir().is_some_and(is_searched_by_the_loader) {
        pyo3_build_config::add_libpython_rpath_link_args();
    }
    let executable = config.executable().unwrap_or_default();
    println!("cargo:rustc-env=PSERVE_BUILD_PYTHON={executable}");
}

/// The system's own folders, and those below them that hold a platform's name. `/usr/local` depends on the distribution.
fn is_searched_by_the_loader(folder: &str) -> bool {
    let below_lib = folder.strip_prefix("/usr").unwrap_or(folder).strip_prefix("/lib");
    matches!(below_lib, Some("" | "64"))
        || below_lib.is_some_and(|rest| rest.contains("-linux-") && rest.rfind('/') == Some(0))
}
