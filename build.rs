//! Gives the binary the folder of a libpython that lives outside the system's library folders, the path of the
//! interpreter it was linked with, so that `sys.executable` can name it, and the embedded Python files compiled by it.

use std::path::{Path, PathBuf};
use std::process::Command;

const EMBEDDED: &str = "src/python/embedded";
const CAN_WRITE: &str = "cargo's folder for what a build makes can be written";

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
    println!("cargo:rerun-if-changed={EMBEDDED}");
    let compiled = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("embedded");
    compile(executable, &compiled);
    println!("cargo:rustc-env=PSERVE_EMBEDDED={}", compiled.display());
}

/// Saves every start of the server the compilation. The program checks the magic number of what it finds, and compiles
/// the source where that is another Python's, or where no Python could be run here.
fn compile(executable: &str, into: &Path) {
    let _ = std::fs::remove_dir_all(into);
    let script = Path::new(EMBEDDED).join("compile.py");
    let ran = Command::new(executable).arg("-I").arg(script).arg(EMBEDDED).arg(into).status();
    if !ran.as_ref().is_ok_and(|status| status.success()) {
        println!(
            "cargo:warning=the embedded Python files are compiled at each start, as {executable:?} cannot do it now"
        );
        write_empty(Path::new(EMBEDDED), into);
        std::fs::write(into.join("magic"), []).expect(CAN_WRITE);
    }
}

/// A file that holds nothing for each that could not be compiled.
fn write_empty(sources: &Path, into: &Path) {
    std::fs::create_dir_all(into).expect(CAN_WRITE);
    for entry in std::fs::read_dir(sources).expect("the embedded files are there").flatten() {
        let (path, target) = (entry.path(), into.join(entry.file_name()));
        if path.is_dir() {
            write_empty(&path, &target);
        } else {
            std::fs::write(target, []).expect(CAN_WRITE);
        }
    }
}

/// The system's own folders, and those below them that hold a platform's name. `/usr/local` depends on the distribution.
fn is_searched_by_the_loader(folder: &str) -> bool {
    let below_lib = folder.strip_prefix("/usr").unwrap_or(folder).strip_prefix("/lib");
    matches!(below_lib, Some("" | "64"))
        || below_lib.is_some_and(|rest| rest.contains("-linux-") && rest.rfind('/') == Some(0))
}
