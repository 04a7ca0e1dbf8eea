//! The structure of the product's code, checked: which folder may import which, no circles, nothing
//! too long.
//!
//! Read in this order: [`package`] lists the crates that are looked at, [`source`] reads one file
//! and knows which of its lines are tests, [`modules`] follows the `mod` lines from `lib.rs`,
//! [`references`] collects the paths that a file names, [`resolve`] finds the file that defines
//! what a path names, [`arrows`] joins them, [`circles`] finds circles, [`rules`] says what is
//! wrong, [`picture`] draws the folders for `docs/architecture.md`, [`documents`] looks for the
//! files that the documentation names.
//! [`made_up`] breaks every rule once.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod arrows;
mod circles;
mod contents;
mod documents;
mod made_up;
mod modules;
mod package;
mod picture;
mod references;
mod resolve;
mod rules;
mod source;

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use package::Package;

/// What a person asks for beyond the check, by the variable `ARCHITECTURE`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing: look and say.
    Check,
    /// `write`: renew the drawing in docs/architecture.md.
    Write,
}

fn mode() -> Mode {
    match env::var("ARCHITECTURE").as_deref() {
        Err(_) => Mode::Check,
        Ok("write") => Mode::Write,
        Ok(other) => panic!("ARCHITECTURE is {other:?}; it may be write, or not set"),
    }
}

/// The product's crates, read once for all tests.
fn packages() -> &'static [Package] {
    static READ: OnceLock<Vec<Package>> = OnceLock::new();
    READ.get_or_init(|| Package::all(&root()))
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_code_follows_the_rules() {
    let found: Vec<_> = packages().iter().flat_map(rules::findings).collect();
    assert!(found.is_empty(), "\n\n{}", rules::report(&found));
}

#[test]
fn the_page_draws_the_folders_as_they_are() {
    let root = root();
    let page = root.join(picture::PAGE);
    let text = std::fs::read_to_string(&page).unwrap();
    let renewed = picture::renewed(&text, &picture::draw(packages())).unwrap();
    if mode() == Mode::Write {
        std::fs::write(&page, renewed).unwrap();
        return;
    }
    assert!(text == renewed, "\n\n{}", picture::stale(&text, &renewed));
}

#[test]
fn the_page_has_a_promise_for_each_folder() {
    let page = std::fs::read_to_string(root().join(picture::PAGE)).unwrap();
    let missing = picture::without_promise(&page, packages());
    assert!(missing.is_empty(), "\n\n{} has no row in the table of its crate for: {missing:?}", picture::PAGE);
}

#[test]
fn every_file_that_the_documentation_names_exists() {
    let missing = documents::missing(&root());
    assert!(missing.is_empty(), "\n\n{}", documents::report(&missing));
}
