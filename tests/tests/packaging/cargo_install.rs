//! What docs/packages.md says for those who install the programs by cargo.

use std::path::{Path, PathBuf};

use tests::{own_address, page};

const PAGE: &str = include_str!("../../../docs/packages.md");

#[test]
fn the_page_from_programs_to_a_signalled_process() {
    let folder = tempfile::Builder::new().prefix("conf-packages-").tempdir().expect("a folder can be made");
    from_programs_to_a_signalled_process(folder.path(), Vec::new());
}

/// Returns the commands that install the programs.
pub(crate) fn installation() -> String {
    page::fenced(PAGE, "## cargo install", "console").concat()
}

/// Types what follows the installation, with the programs of the folders in `path`, if they have
/// any.
#[track_caller]
pub(crate) fn from_programs_to_a_signalled_process(folder: &Path, path: Vec<PathBuf>) {
    let address = own_address(7400).ip().to_string();
    let reader = page::Reader { folder, address, seconds: 400, path };
    let blocks = |language| page::fenced(PAGE, "## cargo install", language).concat();
    let (script, expected) = (blocks("sh"), blocks("text"));
    reader.paste(&script, &expected, &["master.log", "slave.log", "local.log"]);
}
