//! What a commit says of compatibility: `Conf-Compatibility: breaking <reason>`, a trailer of its message.

use git2::{Repository, Sort};
use libconf::name::CommitId;

use crate::landing::one_line;

/// The trailer's name.
pub const TRAILER: &str = "Conf-Compatibility";
/// What it begins with.
const BREAKING: &str = "breaking";
/// The most commits that are looked through between two.
const MOST_COMMITS: usize = 200;

/// What a commit says of compatibility.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// Nothing.
    Nothing,
    /// It breaks it, for this reason: one line.
    Breaking(String),
    /// Something that cannot be taken for either; why.
    Unclear(String),
}

/// The trailer for a reason.
pub fn line(reason: &str) -> String {
    format!("{TRAILER}: {BREAKING} {}", one_line(reason))
}

/// What a commit's message says.
pub fn in_commit(repo: &Repository, commit: CommitId) -> Result<Declared, git2::Error> {
    let commit = repo.find_commit(commit.into())?;
    Ok(in_message(&String::from_utf8_lossy(commit.message_raw_bytes())))
}

fn in_message(message: &str) -> Declared {
    let Ok(trailers) = git2::message_trailers_strs(message) else { return Declared::Nothing };
    let Some(value) = trailers.iter().find(|(key, _)| key.eq_ignore_ascii_case(TRAILER)).map(|(_, value)| value.trim())
    else {
        return Declared::Nothing;
    };
    let reason = value.get(..BREAKING.len()).filter(|word| word.eq_ignore_ascii_case(BREAKING));
    let reason = reason.map(|_| &value[BREAKING.len()..]);
    match reason.filter(|rest| !rest.starts_with(char::is_alphanumeric)) {
        None => Declared::Unclear(format!(
            "the trailer `{TRAILER}: {}` says something that nobody knows; write `{TRAILER}: {BREAKING} <reason>`",
            one_line(value)
        )),
        Some(reason) => match reason.trim_start_matches(|letter: char| !letter.is_alphanumeric()).trim() {
            "" => Declared::Unclear(format!("the trailer `{TRAILER}` gives no reason; write `{BREAKING} <reason>`")),
            _ => Declared::Breaking(one_line(reason.trim_start_matches([':', ' ', '-', '\t', ',']))),
        },
    }
}

/// The reasons that commits give which are behind `after` and not behind `before`, newest first.
pub fn all(repo: &Repository, before: CommitId, after: CommitId) -> Result<Vec<String>, git2::Error> {
    let mut walk = repo.revwalk()?;
    walk.set_sorting(Sort::TOPOLOGICAL)?;
    walk.push(after.into())?;
    walk.hide(before.into())?;
    let mut reasons = Vec::new();
    for commit in walk.take(MOST_COMMITS) {
        if let Declared::Breaking(reason) = in_commit(repo, commit?.into())? {
            reasons.push(reason);
        }
    }
    Ok(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_says_breaking_and_why() {
        let breaking = |reason: &str| Declared::Breaking(reason.to_owned());
        for (message, declared) in [
            ("Drop the port\n\nConf-Compatibility: breaking nobody reads it", breaking("nobody reads it")),
            (
                "Drop\n\nWhy.\n\nconf-compatibility: Breaking: ports moved\nSigned-off-by: a <a@b>\n",
                breaking("ports moved"),
            ),
            ("Drop\n\nConf-Compatibility: breaking (see the notes)", breaking("(see the notes)")),
            ("Drop\n\nConf-Compatibility: breaking - x", breaking("x")),
            ("Conf-Compatibility: breaking in the subject alone", Declared::Nothing),
            ("Drop\n\nConf-Compatibility: breaking in the middle\n\nmore words", Declared::Nothing),
            ("Drop\n", Declared::Nothing),
            ("", Declared::Nothing),
        ] {
            assert_eq!(in_message(message), declared, "{message}");
        }
        for value in ["breaking", "breaking:", "breaking - ", "none", "breakingnews of it", ""] {
            let message = format!("Drop\n\nConf-Compatibility: {value}\n");
            assert!(!matches!(in_message(&message), Declared::Breaking(_)), "{message}");
        }
        assert_eq!(in_message(&format!("Drop\n\n{}\n", line("one\ntwo"))), breaking("one two"));
    }
}
