//! The page of promises, docs/promises.md: the tests that it names are there, and each promise has some.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const PAGE: &str = include_str!("../../docs/promises.md");
/// The folders with the code of the tests.
const FOLDERS: [&str; 5] = ["libconf", "conf-master", "conf-slave", "conf-local", "tests"];

/// The names that a text has as those of tests: several words of small letters, in one, as code.
fn named(text: &str) -> BTreeSet<&str> {
    let code = text.split('`').skip(1).step_by(2);
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    code.filter(|word| word.contains('_') && word.chars().all(is_letter)).collect()
}

/// Gathers the names of the tests in all files below a folder.
fn gather(folder: &Path, found: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.extend(tests_in(&fs::read_to_string(path).unwrap()));
        }
    }
}

/// The functions of a file that are tests, or within one of the macros that make tests.
fn tests_in(text: &str) -> Vec<String> {
    let (mut found, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        let declared = line.trim_start_matches("async ").strip_prefix("fn ");
        is_test = match declared {
            _ if line.starts_with("#[") => is_test || line.contains("test]") || line.contains("test("),
            Some(rest) if is_test => {
                found.extend(rest.split(['(', '<']).next().map(str::to_owned));
                false
            }
            _ => false,
        };
    }
    found
}

#[test]
fn the_promises_name_tests_that_exist() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let mut known = BTreeSet::new();
    FOLDERS.iter().for_each(|folder| gather(&root.join(folder), &mut known));
    assert!(known.len() > 500, "only {} tests were found", known.len());
    let named = named(PAGE);
    let unknown: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty(), "docs/promises.md names tests that are not there: {unknown:#?}");
    assert!(named.len() > 150, "docs/promises.md names only {} tests", named.len());
}

/// A promise without a check says that it is not built, and one with a check what that measures and catches.
#[test]
fn each_promise_has_its_check_or_is_not_built() {
    let sections: Vec<&str> = PAGE.split("\n## P").skip(1).map(|rest| rest.split("\n## ").next().unwrap()).collect();
    for (number, section) in (1..=27).zip(&sections) {
        let title = section.lines().next().unwrap();
        assert!(title.starts_with(&format!("{number}. ")), "P{title} is not the promise {number}");
        let is_built = !section.contains("\nNot built");
        for part in ["* Checked by ", "* Figure: ", "* Catches: "] {
            assert_eq!(section.contains(part), is_built, "P{title}: {part}");
        }
        assert!(!named(section).is_empty(), "P{title} names no test");
    }
    assert_eq!(sections.len(), 27);
    let listed = PAGE.lines().filter(|line| line.starts_with("| [P")).count();
    assert_eq!(listed, 27, "the list at the beginning has all of them");
}
