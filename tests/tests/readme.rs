//! The five minutes of the README: a person pastes the blocks and sees the printed lines.

use tests::{own_address, page};

const README: &str = include_str!("../../README.md");

#[test]
fn the_five_minutes() {
    let folder = tempfile::Builder::new().prefix("conf-readme-").tempdir().unwrap();
    let address = own_address(7400).ip().to_string();
    let reader = page::Reader { folder: folder.path(), address, seconds: 400, path: Vec::new() };
    let blocks = |language| page::fenced(README, "## Five minutes", language).concat();
    let (script, expected) = (blocks("sh"), blocks("text"));
    reader.paste(&script, &expected, &["master.log", "slave.log", "local.log"]);
}

/// A reader gets to the five minutes and past them within a few minutes.
#[test]
fn the_readme_is_short() {
    let words = README.split_whitespace().count();
    assert!(words <= 1500, "README.md has {words} words; move what people look up to docs/reference.md");
}
