//! What docs/packages.md says for those who install the programs by cargo.

use tests::{own_address, page};

const PAGE: &str = include_str!("../../../docs/packages.md");

#[test]
fn the_page_from_programs_to_a_signalled_process() {
    let folder = tempfile::Builder::new().prefix("conf-packages-").tempdir().expect("a folder can be made");
    let address = own_address(7400).ip().to_string();
    let reader = page::Reader { folder: folder.path(), address, seconds: 400, path: Vec::new() };
    let blocks = |language| page::fenced(PAGE, "## cargo install", language).concat();
    let (script, expected) = (blocks("sh"), blocks("text"));
    reader.paste(&script, &expected, &["master.log", "slave.log", "local.log"]);
}
