//! The programs that `cargo install` makes, by the commands of docs/packages.md.

use std::path::Path;

use tests::{
    debs::DAEMONS,
    program::{command, run, text},
};

use crate::cargo_install::{from_programs_to_a_signalled_process, installation};

#[test]
#[ignore = "packaging: builds the programs by cargo install"]
fn the_page_from_a_clone_to_a_signalled_process() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let folder = tempfile::Builder::new().prefix("conf-installed-").tempdir().expect("a folder can be made");
    let installed = folder.path().join("cargo");
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut shell = command("bash", Path::new(&home));
    shell.current_dir(root).args(["-euo", "pipefail", "-c", &installation()]);
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            shell.env(name, value);
        }
    }
    // In place of ~/.cargo, with a folder of its own for what is built, and sooner than the usual
    // optimisation would have it.
    shell.env("CARGO_INSTALL_ROOT", &installed).env("CARGO_TARGET_DIR", root.join("target/cargo-install"));
    shell.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    let output = run(shell);
    assert!(output.status.success(), "{}", text(&output));
    for daemon in DAEMONS {
        let mut libraries = command("ldd", folder.path());
        libraries.arg(installed.join("bin").join(daemon));
        let libraries = text(&run(libraries));
        assert!(libraries.contains("libc.so"), "{daemon} has the system's C library: {libraries}");
    }
    from_programs_to_a_signalled_process(folder.path(), vec![installed.join("bin")]);
}
