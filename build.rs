//! Gives the binary the folder of a libpython that lives outside the system's library folders,
//! and the path of the interpreter it was linked with, so that `sys.executable` can name it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PYO3_PYTHON");
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_libpython_rpath_link_args();
    let config = pyo3_build_config::get();
    let executable = config.executable().unwrap_or_default();
    println!("cargo:rustc-env=PSERVE_BUILD_PYTHON={executable}");
}
