//! Each fuzz target has a corpus, in the folder where its engine looks for it: a test that is
//! renamed would leave its own behind, and try nothing of it.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The folder beside a file in which the engine looks.
const FOLDER: &str = "__fuzz__";

/// All files below a folder, those of builds left out.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| !path.ends_with("target") && !path.ends_with(".git"));
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The folders of a file's targets: the path of each test within its crate, joined as the engine
/// does.
fn expected(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let Some(src) = file.ancestors().find(|folder| folder.ends_with("src")) else { return Vec::new() };
    let module = file.strip_prefix(src).unwrap().with_extension("");
    let modules: Vec<&str> = module.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
    let mut test = None;
    let mut found = Vec::new();
    for line in text.lines() {
        let name = line.trim_start().strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next());
        // A target's name stands at the line's beginning, those of functions within it do not.
        test = if line.starts_with("fn ") { name } else { test };
        if line.contains("check!()") {
            let target = modules.iter().copied().chain(test).collect::<Vec<_>>().join("__");
            found.push(file.with_file_name(FOLDER).join(target));
        }
    }
    found
}

#[test]
fn each_fuzz_target_has_a_corpus_and_each_corpus_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let crates = ["libconf", "conf-master", "conf-slave", "conf-local"].map(|name| root.join(name));
    let all: Vec<PathBuf> = crates.iter().flat_map(|folder| files(folder)).collect();
    let sources = all.iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let targets: BTreeSet<PathBuf> = sources.flat_map(|file| expected(file)).collect();
    let mut corpora: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in all.iter().filter(|file| file.iter().any(|part| part == FOLDER)) {
        // What lies in `crashes` fails until it is mended, and is then moved.
        let folder = file.parent().unwrap();
        assert!(folder.ends_with("corpus"), "{} is not kept in a corpus", file.display());
        assert!(fs::metadata(file).unwrap().len() <= 4096, "{} is larger than need be", file.display());
        *corpora.entry(folder.parent().unwrap().to_owned()).or_default() += 1;
    }
    assert!(targets.len() >= 16, "{targets:?}");
    assert_eq!(corpora.keys().cloned().collect::<BTreeSet<_>>(), targets);
    for (corpus, inputs) in corpora {
        assert!((5..=30).contains(&inputs), "{}: {inputs} inputs", corpus.display());
    }
}
