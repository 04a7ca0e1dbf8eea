//! The branch `policy`: `policy.yaml` at its root, and a README where people want one.

use conf_core::access::{AccessTable, Policy};
use git2::{ErrorCode, ObjectType, Repository};
use libconf::name::{CommitId, RefName};

use crate::fault::Fault;
use crate::text::now;

/// The mode of a link in a tree.
const LINK: i32 = 0o120_000;

/// Reads the policy in a commit of its branch.
pub(crate) fn read(repo: &Repository, commit: CommitId) -> anyhow::Result<Policy> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    let entry = tree.get_name(Policy::FILE).ok_or_else(|| anyhow::anyhow!("{} is missing", Policy::FILE))?;
    let text = String::from_utf8(repo.find_blob(entry.id())?.content().to_owned())?;
    Policy::parse(&text).map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("{}: {first}", Policy::FILE)
    })
}

/// Finds what is wrong with the branch in a commit, or without one. With no fault: what its author
/// should know.
pub(crate) fn faults(
    repo: &Repository,
    commit: Option<CommitId>,
    tokens: &AccessTable,
) -> Result<Vec<String>, Vec<Fault>> {
    let of_file =
        |file: &str, line: Option<usize>, reason: String| vec![Fault::of_file(&RefName::Policy, file, line, reason)];
    let broken = |error: git2::Error| of_file(Policy::FILE, None, error.message().to_owned());
    let policy = match commit {
        Some(commit) => {
            let strays = strays(repo, commit).map_err(broken)?;
            if !strays.is_empty() {
                let reason = "nothing reads this; the branch holds policy.yaml, and a README if you like";
                let stray = |name: String| Fault::of_file(&RefName::Policy, &name, None, reason);
                return Err(strays.into_iter().map(stray).collect());
            }
            parse(&text(repo, commit).map_err(broken)?)?
        }
        // What holds without the branch.
        None => Policy::initial(),
    };
    if !policy.has_administrator(tokens, now()) {
        let reason = "after this nobody who has a token could `administer`, and so nobody could correct it; give \
                      `administer` to a group that lists the name of a live token, or that a live token gives";
        return Err(of_file(Policy::FILE, None, reason.to_owned()));
    }
    let unlisted = policy.unlisted().into_iter();
    let note = |group| format!("the group {group} has rights and lists nobody in `groups`: only tokens give it");
    Ok(unlisted.map(note).collect())
}

fn parse(text: &[u8]) -> Result<Policy, Vec<Fault>> {
    let of_file = |line, reason| Fault::of_file(&RefName::Policy, Policy::FILE, line, reason);
    let text = std::str::from_utf8(text).map_err(|_| vec![of_file(None, "the file is not UTF-8".to_owned())])?;
    Policy::parse(text).map_err(|faults| {
        let fault = |one: conf_core::access::PolicyFault| {
            let pointer = Some(one.pointer).filter(|pointer| !pointer.is_empty());
            Fault { pointer, ..of_file(one.line, one.reason) }
        };
        faults.into_iter().map(fault).collect()
    })
}

fn text(repo: &Repository, commit: CommitId) -> Result<Vec<u8>, git2::Error> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    match tree.get_name(Policy::FILE) {
        Some(entry) if entry.kind() == Some(ObjectType::Blob) && entry.filemode() != LINK => {
            Ok(repo.find_blob(entry.id())?.content().to_owned())
        }
        Some(_) => Err(git2::Error::from_str("this must be a file")),
        None => Err(git2::Error::new(
            ErrorCode::NotFound,
            git2::ErrorClass::Tree,
            "the file is missing; it says who may do what",
        )),
    }
}

/// Lists the entries at the root that nobody reads.
fn strays(repo: &Repository, commit: CommitId) -> Result<Vec<String>, git2::Error> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    let names = tree.iter().map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned());
    let is_known = |name: &String| name == Policy::FILE || matches!(name.as_str(), "README" | "README.md");
    Ok(names.filter(|name| !is_known(name)).collect())
}
