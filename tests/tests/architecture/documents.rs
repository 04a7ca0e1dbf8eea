//! The files that the documentation names.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the first folder of a path may be, for it to be one of ours.
const FOLDERS: [&str; 6] = ["libconf", "conf-master", "conf-slave", "conf-local", "poc", "tests"];

/// A path that is named, and not there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    page: PathBuf,
    line: usize,
    named: String,
}

/// All that are named in Markdown and in the comments at the top of `lib.rs` and `mod.rs`.
pub(crate) fn missing(root: &Path) -> Vec<Missing> {
    let mut files = Vec::new();
    list(root, Path::new(""), &mut files);
    files.sort();
    let mut missing = Vec::new();
    for page in files.iter().filter(|path| is_page(path)) {
        let text = fs::read_to_string(root.join(page)).unwrap_or_default();
        let is_code = page.extension().is_some_and(|ending| ending == "rs");
        for (line, named) in named(&text, is_code) {
            if !exists(&named, root, &files) {
                missing.push(Missing { page: page.clone(), line, named });
            }
        }
    }
    missing
}

/// What to tell about them.
pub(crate) fn report(missing: &[Missing]) -> String {
    let lines = missing
        .iter()
        .map(|Missing { page, line, named }| format!("  {}:{line}: `{named}`", page.display()))
        .collect::<Vec<_>>();
    format!(
        "The documentation names files that do not exist. Write the path of today (a part of it is enough: \
         `judge/mod.rs`), or leave it out.\n\n{}\n",
        lines.join("\n")
    )
}

/// All files below a folder, but not what is built or Git's own.
fn list(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
        let path = folder.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !is_left_out(&path) => list(root, &path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn is_left_out(path: &Path) -> bool {
    path == Path::new("target") || path.file_name().is_some_and(|name| name == ".git")
}

fn is_page(path: &Path) -> bool {
    let parent = path.parent().unwrap_or(Path::new(""));
    let is_manual = parent == Path::new("docs") && path.extension().is_some_and(|ending| ending == "md");
    let is_code = path.ends_with("lib.rs") || path.ends_with("mod.rs");
    is_manual || is_code || path == Path::new("README.md") || path == Path::new("CONTRIBUTING.md")
}

/// What stands between backticks and looks like a path of source, with its line. Of code, comments
/// of `//!` and `///` only; of Markdown, no blocks of code.
fn named(text: &str, is_code: bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let prose = if is_code { line.strip_prefix("//!").or_else(|| line.strip_prefix("///")) } else { Some(line) };
        let Some(prose) = prose.map(str::trim_start) else { continue };
        if prose.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let between = prose.split('`').skip(1).step_by(2);
            found.extend(between.filter_map(as_path).map(|path| (at + 1, path.to_owned())));
        }
    }
    found
}

/// The path, without the number of a line, if this looks like one.
fn as_path(text: &str) -> Option<&str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let path = match text.rsplit_once(':') {
        Some((path, line)) if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) => path,
        _ => text,
    };
    let is_file = path.strip_suffix(".rs").is_some_and(|stem| !stem.is_empty() && !stem.ends_with('/'));
    let is_folder = path.ends_with('/') && FOLDERS.iter().any(|folder| path.split('/').next() == Some(folder));
    (path.chars().all(is_plain) && !path.starts_with('/') && (is_file || is_folder)).then_some(path)
}

fn exists(named: &str, root: &Path, files: &[PathBuf]) -> bool {
    if named.ends_with('/') { root.join(named).is_dir() } else { files.iter().any(|file| file.ends_with(named)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_path() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(as_path(text), expected, "{text}");
        check("judge.rs", Some("judge.rs"));
        check("tier/judge.rs:12", Some("tier/judge.rs"));
        check("conf-master/src/http/", Some("conf-master/src/http/"));
        check("export/", None);
        check("tests/*.rs", None);
        check("/etc/conf/a.rs", None);
        check("docs/operating.md", None);
        check(".rs", None);
    }

    #[test]
    fn a_file_that_is_gone_is_named_with_its_page_and_line() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("poc/src/site/mod.rs", "//! With `gone.rs`.\n// Not in `this.rs`.\n");
        write("README.md", "`site/mod.rs` and `te/mod.rs`\n```\n`in_a_block.rs`\n```\n`poc/src/` `poc/lib/`\n");
        let told = report(&missing(root.path()));
        let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("  ")).collect();
        let expected =
            ["  README.md:1: `te/mod.rs`", "  README.md:5: `poc/lib/`", "  poc/src/site/mod.rs:1: `gone.rs`"];
        assert_eq!(lines, expected);
    }
}
