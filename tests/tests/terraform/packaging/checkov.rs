//! Nothing is open that need not be.

use std::{fs, path::Path, process::Output};

use tempfile::TempDir;
use tests::{
    program::{command, run, text},
    terraform::{checker, folder},
};

/// What checkov finds and is as it shall be has its reason in the line that names it.
#[test]
#[ignore = "packaging: takes checkov from PyPI"]
fn checkov_finds_nothing_that_is_not_explained() {
    let (output, skipped) = checked(&folder());
    assert!(output.status.success(), "{}", text(&output));
    assert!(!skipped.is_empty(), "it has looked: {}", text(&output));
    for line in skipped {
        assert!(line.split(':').nth(2).is_some_and(|reason| reason.len() > 20), "this tells no reason: {line}");
    }

    let open = TempDir::new().unwrap();
    fs::write(open.path().join("open.tf"), "resource \"aws_ebs_volume\" \"a\" {\n  availability_zone = \"a\"\n}\n")
        .unwrap();
    assert!(text(&checked(open.path()).0).contains("CKV_AWS_3"));
}

/// Returns what checkov says, and the lines of the files that tell it to skip something.
fn checked(folder: &Path) -> (Output, Vec<String>) {
    let home = TempDir::new().unwrap();
    let mut checkov = command(checker("checkov"), home.path());
    checkov.args([
        "-m",
        "checkov.main",
        "--quiet",
        "--compact",
        "--skip-download",
        "--framework",
        "terraform",
        "--directory",
    ]);
    checkov.arg(folder);
    let output = run(checkov);
    let files = ["", "machine"].into_iter().filter_map(|below| fs::read_dir(folder.join(below)).ok()).flatten();
    let files =
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|ending| ending == "tf"));
    let lines = files.flat_map(|path| {
        let lines = fs::read_to_string(path).unwrap();
        lines.lines().filter(|line| line.contains("checkov:skip")).map(str::to_owned).collect::<Vec<_>>()
    });
    (output, lines.collect())
}
