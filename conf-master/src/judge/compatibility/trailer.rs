//! The trailer of a commit's message that declares a break: `Conf-Compatibility: breaking
//! <reason>`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use git2::{Oid, Repository};
use libconf::name::CommitId;

use crate::text::one_line;

/// The name of the trailer.
pub(crate) const NAME: &str = "Conf-Compatibility";
/// The first word of its value.
const BREAKING: &str = "breaking";
/// The most commits that are searched between two.
const MOST_COMMITS: usize = 200;
/// The most commits that are met on the way to them: some milliseconds.
const MOST_READ: usize = if cfg!(test) { 50 } else { 2000 };

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

/// Collects the reasons of all commits behind `after` and not behind `before`, newest first; of
/// very many only some.
pub(crate) fn between(repo: &Repository, before: CommitId, after: CommitId) -> Result<Vec<String>, git2::Error> {
    let mut reasons = Vec::new();
    for commit in new_commits(repo, before.into(), after.into())?.into_iter().take(MOST_COMMITS) {
        if let Trailer::Breaking(reason) = in_commit(repo, commit.into())? {
            reasons.push(reason);
        }
    }
    Ok(reasons)
}

/// Lists the commits behind `after` and not behind `before`, newest first. Reads the newest ones of
/// both histories until nothing new is left, and not more than [`MOST_READ`]: the two may have
/// nothing in common.
fn new_commits(repo: &Repository, before: Oid, after: Oid) -> Result<Vec<Oid>, git2::Error> {
    let time = |id: Oid| Ok::<_, git2::Error>(repo.find_commit(id)?.time().seconds());
    // Whether a commit is behind `before`.
    let mut is_old: HashMap<Oid, bool> = HashMap::from([(after, false), (before, true)]);
    // Of one second the children, which are met first, come first.
    let mut open = BinaryHeap::from([(time(after)?, Reverse(0), after), (time(before)?, Reverse(1), before)]);
    let (mut new, mut left) = (Vec::new(), usize::from(after != before));
    let mut met = 2;
    while let Some((_, _, id)) = open.pop().filter(|_| left > 0 && met < MOST_READ) {
        let old = is_old[&id];
        if !old {
            left -= 1;
            new.push(id);
        }
        for parent in repo.find_commit(id)?.parent_ids() {
            match is_old.insert(parent, old) {
                Some(true) => {
                    is_old.insert(parent, true);
                }
                // It is behind both after all, and so is what is behind it.
                Some(false) if old => {
                    left -= usize::from(!new.contains(&parent));
                    open.push((time(parent)?, Reverse(met), parent));
                }
                Some(false) => {}
                None => {
                    left += usize::from(!old);
                    open.push((time(parent)?, Reverse(met), parent));
                }
            }
            met += 1;
        }
    }
    new.retain(|id| !is_old[id]);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_commits_is_what_is_behind_the_later_one_alone_and_not_too_much_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let tree = repo.treebuilder(None).unwrap().write().unwrap();
        let commit = |parents: &[CommitId], time: u32, reason: &str| -> CommitId {
            let parents = parents.iter().map(|parent| format!("parent {parent}\n")).collect::<Vec<_>>().concat();
            let who = format!("a <a> {time} +0000");
            let text = format!("tree {tree}\n{parents}author {who}\ncommitter {who}\n\nx\n\n{}\n", line(reason));
            repo.odb().unwrap().write(git2::ObjectType::Commit, text.as_bytes()).unwrap().into()
        };
        let between = |before, after| between(&repo, before, after).unwrap();
        let first = commit(&[], 1, "first");
        let second = commit(&[first], 2, "second");
        // Of the same second, and with a clock that was wrong.
        let side = commit(&[first], 2, "side");
        let early = commit(&[second], 0, "early");
        let merged = commit(&[early, side], 2, "merged");
        assert_eq!(between(second, second), Vec::<String>::new());
        assert_eq!(between(second, first), Vec::<String>::new());
        assert_eq!(between(first, second), ["second"]);
        assert_eq!(between(side, merged), ["merged", "early", "second"]);
        let mut all = between(first, merged);
        assert_eq!((all.remove(0), all.len()), ("merged".to_owned(), 3));
        // Nothing in common, and whoever reads on meets a commit that is not there.
        let mut long = ["1".repeat(40).parse().unwrap(), "2".repeat(40).parse().unwrap()];
        for (number, tip) in long.iter_mut().enumerate() {
            for time in 0..100 {
                *tip = commit(&[*tip], 100 + time, &format!("{number}.{time}"));
            }
        }
        let found = between(long[0], long[1]);
        assert_eq!(found[0], "1.99");
        assert!(found.len() < MOST_READ && found.iter().all(|reason| reason.starts_with("1.")), "{found:?}");
    }

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
