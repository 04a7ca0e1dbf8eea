//! The trailer of a commit's message that declares a break: `Conf-Compatibility: breaking
//! <reason>`.

use git2::{Repository, Sort};
use libconf::name::CommitId;

use crate::text::one_line;

/// The name of the trailer.
pub(crate) const NAME: &str = "Conf-Compatibility";
/// The first word of its value.
const BREAKING: &str = "breaking";
/// The most commits that are searched between two.
const MOST_COMMITS: usize = 200;

/// The trailer of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trailer {
    /// There is none.
    Absent,
    /// The commit breaks compatibility, for this reason of one line.
    Breaking(String),
    /// The trailer cannot be understood, for this reason.
    Unclear(String),
}

/// Writes the trailer for a reason.
pub(crate) fn line(reason: &str) -> String {
    format!("{NAME}: {BREAKING} {}", one_line(reason))
}

/// Reads the trailer of a commit.
pub(crate) fn in_commit(repo: &Repository, commit: CommitId) -> Result<Trailer, git2::Error> {
    let commit = repo.find_commit(commit.into())?;
    Ok(in_message(&String::from_utf8_lossy(commit.message_raw_bytes())))
}

fn in_message(message: &str) -> Trailer {
    let Ok(trailers) = git2::message_trailers_strs(message) else { return Trailer::Absent };
    let Some(value) = trailers.iter().find(|(key, _)| key.eq_ignore_ascii_case(NAME)).map(|(_, value)| value.trim())
    else {
        return Trailer::Absent;
    };
    let reason = value.get(..BREAKING.len()).filter(|word| word.eq_ignore_ascii_case(BREAKING));
    let reason = reason.map(|_| &value[BREAKING.len()..]);
    match reason.filter(|rest| !rest.starts_with(char::is_alphanumeric)) {
        None => Trailer::Unclear(format!(
            "the trailer `{NAME}: {}` is not understood; write `{NAME}: {BREAKING} <reason>`",
            one_line(value)
        )),
        Some(reason) => match reason.trim_start_matches(|letter: char| !letter.is_alphanumeric()).trim() {
            "" => Trailer::Unclear(format!("the trailer `{NAME}` gives no reason; write `{BREAKING} <reason>`")),
            _ => Trailer::Breaking(one_line(reason.trim_start_matches([':', ' ', '-', '\t', ',']))),
        },
    }
}

/// Collects the reasons of all commits behind `after` and not behind `before`, newest first.
pub(crate) fn between(repo: &Repository, before: CommitId, after: CommitId) -> Result<Vec<String>, git2::Error> {
    let mut walk = repo.revwalk()?;
    walk.set_sorting(Sort::TOPOLOGICAL)?;
    walk.push(after.into())?;
    walk.hide(before.into())?;
    let mut reasons = Vec::new();
    for commit in walk.take(MOST_COMMITS) {
        if let Trailer::Breaking(reason) = in_commit(repo, commit?.into())? {
            reasons.push(reason);
        }
    }
    Ok(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_needs_the_word_breaking_and_a_reason() {
        let breaking = |reason: &str| Trailer::Breaking(reason.to_owned());
        for (message, declared) in [
            ("Drop the port\n\nConf-Compatibility: breaking nobody reads it", breaking("nobody reads it")),
            (
                "Drop\n\nWhy.\n\nconf-compatibility: Breaking: ports moved\nSigned-off-by: a <a@b>\n",
                breaking("ports moved"),
            ),
            ("Drop\n\nConf-Compatibility: breaking (see the notes)", breaking("(see the notes)")),
            ("Drop\n\nConf-Compatibility: breaking - x", breaking("x")),
            ("Conf-Compatibility: breaking in the subject alone", Trailer::Absent),
            ("Drop\n\nConf-Compatibility: breaking in the middle\n\nmore words", Trailer::Absent),
            ("Drop\n", Trailer::Absent),
            ("", Trailer::Absent),
        ] {
            assert_eq!(in_message(message), declared, "{message}");
        }
        for value in ["breaking", "breaking:", "breaking - ", "none", "breakingnews of it", ""] {
            let message = format!("Drop\n\nConf-Compatibility: {value}\n");
            assert!(!matches!(in_message(&message), Trailer::Breaking(_)), "{message}");
        }
        assert_eq!(in_message(&format!("Drop\n\n{}\n", line("one\ntwo"))), breaking("one two"));
    }
}
