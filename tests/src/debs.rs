//! The Debian packages of the daemons, built once for all tests.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::program::{command, run, text};

/// The daemons, each of which has a package of its name.
pub const DAEMONS: [&str; 3] = ["conf-master", "conf-slave", "conf-local"];

/// Returns the folder of the packages: the one that the variable `CONF_DEBS` names, as
/// `tests/run --packaging` does, else what this process has `packages/build` make first.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os("CONF_DEBS").map_or_else(build, PathBuf::from))
}

/// Returns the package of a daemon.
///
/// # Panics
///
/// Where there is none, or several: nobody could say which of them is tested.
#[track_caller]
pub fn of(daemon: &str) -> PathBuf {
    let start = format!("{daemon}_");
    let files = fs::read_dir(folder()).expect("the folder of the packages can be read").flatten();
    let found: Vec<PathBuf> = files
        .filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(&start)))
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .collect();
    let [deb] = &found[..] else {
        panic!("one package {start}….deb is expected in {}: {found:?}", folder().display())
    };
    deb.clone()
}

fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository");
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut build = command(root.join("packages/build"), Path::new(&home));
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            build.env(name, value);
        }
    }
    let output = run(build);
    assert!(output.status.success(), "{}", text(&output));
    root.join("target/packages/debs")
}
