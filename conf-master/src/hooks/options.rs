//! The options of `git push -o …`. One that is not known refuses the whole push: what its author
//! wanted is not what would be done.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::manifest::nearest;
use libconf::name::RefName;

use crate::judge::{ProposalOptions, RefUpdate};
use crate::text::one_line;

/// The options, as a refusal lists them.
const KNOWN: &str = "a push takes `-o dry-run`, `-o allow-shrink` and `-o delete=<ref>`";

/// The most options of one push: more than anybody writes, and few enough to be looked up for each.
const MOST_OPTIONS: usize = 1000;

/// Reads the options of a push; an error says what is wrong with one. The same option given twice
/// means what it means once.
pub(crate) fn read(given: &[String], updates: &[RefUpdate]) -> Result<ProposalOptions, String> {
    if given.len() > MOST_OPTIONS {
        return Err(format!(
            "this push has {} options, and at most {MOST_OPTIONS} are read; push fewer refs at once",
            given.len()
        ));
    }
    let mut options = ProposalOptions::default();
    let deletions = deletions(updates);
    for option in given {
        let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("dry-run", None) => options.dry_run = true,
            ("allow-shrink", None) => options.allow_shrink = true,
            ("delete", Some(reference)) => options.delete.extend(deleted(reference, &deletions)?),
            ("delete", None) => return Err("the push option `delete` needs a ref; write `-o delete=<ref>`".to_owned()),
            ("dry-run" | "allow-shrink", Some(_)) => {
                return Err(format!("the push option `{name}` takes no value; write `-o {name}`, or leave it out"));
            }
            ("", None) => return Err(format!("a push option is empty; {KNOWN}")),
            _ => {
                let near = nearest(&name.to_lowercase(), ["dry-run", "allow-shrink", "delete"].into_iter());
                return Err(format!("the push option `{}` is not known{near}; {KNOWN}", one_line(option)));
            }
        }
    }
    Ok(options)
}

/// The refs that a push deletes, by their short and by their full names.
type Deletions = BTreeMap<String, BTreeSet<RefName>>;

fn deletions(updates: &[RefUpdate]) -> Deletions {
    let mut deletions = Deletions::new();
    let deleted = updates.iter().filter(|update| update.new.is_zero());
    for name in deleted.filter_map(|update| update.name.parse::<RefName>().ok()) {
        let full = name.to_string();
        // A tag too goes by its name alone.
        let short = ["refs/heads/", "refs/tags/"].iter().find_map(|folder| full.strip_prefix(folder));
        for known in [short.unwrap_or(&full), &full] {
            deletions.entry(known.to_owned()).or_default().insert(name.clone());
        }
    }
    deletions
}

/// Finds the refs that the push deletes and that `text` names, in full or in short.
fn deleted(text: &str, deletions: &Deletions) -> Result<BTreeSet<RefName>, String> {
    if let Some(named) = deletions.get(text) {
        return Ok(named.clone());
    }
    let names =
        deletions.keys().map(String::as_str).filter(|name| !name.starts_with("refs/") || text.starts_with("refs/"));
    let near = nearest(text, names);
    let push = if deletions.is_empty() {
        "this push deletes nothing"
    } else {
        "`delete` takes a ref that the same push deletes"
    };
    Err(format!("the push option `delete={}` names no ref that this push deletes{near}; {push}", one_line(text)))
}

#[cfg(test)]
mod tests {
    use libconf::name::ObjectId;

    use super::*;

    fn updates() -> [RefUpdate; 3] {
        let one = ObjectId::from([1; 20]);
        let update = |name: &str, new| RefUpdate { name: name.to_owned(), old: one, new };
        [
            update("refs/heads/datacenters/lab/v1", ObjectId::ZERO),
            update("refs/tags/services/web/v1", ObjectId::ZERO),
            update("refs/heads/services/web/master", one),
        ]
    }

    fn read_all(given: &[&str]) -> Result<ProposalOptions, String> {
        read(&given.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(), &updates())
    }

    #[test]
    fn known_options_are_read_once_or_twice() {
        assert_eq!(read_all(&[]), Ok(ProposalOptions::default()));
        let both = read_all(&["dry-run", "allow-shrink", "dry-run"]).unwrap();
        assert!(both.dry_run && both.allow_shrink && both.delete.is_empty());
        let names = |options: ProposalOptions| options.delete.iter().map(ToString::to_string).collect::<Vec<_>>();
        for given in ["delete=datacenters/lab/v1", "delete=refs/heads/datacenters/lab/v1"] {
            assert_eq!(names(read_all(&[given, given]).unwrap()), ["refs/heads/datacenters/lab/v1"]);
        }
        assert_eq!(names(read_all(&["delete=services/web/v1"]).unwrap()), ["refs/tags/services/web/v1"]);
    }

    #[test]
    fn every_other_option_is_refused_with_the_nearest_and_all() {
        for (given, words) in [
            ("dry_run", "(did you mean `dry-run`?)"),
            ("dryrun", "(did you mean `dry-run`?)"),
            ("dryRun", "(did you mean `dry-run`?)"),
            ("DRY-RUN", "(did you mean `dry-run`?)"),
            ("dry_run=true", "(did you mean `dry-run`?)"),
            (" dry-run", "(did you mean `dry-run`?)"),
            ("dry-run=true", "takes no value; write `-o dry-run`"),
            ("dry-run=false", "takes no value"),
            ("dry-run=", "takes no value"),
            ("allow-shrink=web", "takes no value"),
            ("allow_shrink", "(did you mean `allow-shrink`?)"),
            ("delete", "write `-o delete=<ref>`"),
            ("delete=", "names no ref"),
            ("delete=datacenters/lab/v2", "(did you mean `datacenters/lab/v1`?)"),
            ("delete=services/web/master", "names no ref that this push deletes"),
            ("", "a push option is empty"),
            ("ci.skip", "a push takes `-o dry-run`, `-o allow-shrink` and `-o delete=<ref>`"),
        ] {
            let why = read_all(&["allow-shrink", given]).expect_err(given);
            assert!(why.contains(words), "{given}: {why}");
        }
        let nothing = read(&["delete=services/web/master".to_owned()], &updates()[2..]).unwrap_err();
        assert!(nothing.contains("deletes nothing"), "{nothing}");
    }
}
