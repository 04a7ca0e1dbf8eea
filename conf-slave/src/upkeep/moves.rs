//! What changes of branches and tags from one served snapshot to the next. A snapshot names the
//! commits of most of them, so these are fetched by id, without a program of Git.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use conf_core::{
    api::Pin,
    daemon::{self, chain},
    git::{Depth, Step},
};
use git2::{ErrorCode, Oid, Repository};
use libconf::name::{CommitId, ComponentName, ComponentVersion, RefName, TagName};

use crate::mirror::{Mirror, ServedSnapshot, differing};

/// 32 branches: for more of them, one fetch of all is cheaper than a question for each.
const MOST: usize = 32;

/// The changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// Branches, and the commits that they belong at.
    pub(crate) tips: BTreeMap<RefName, CommitId>,
    /// Branches and tags that may be new, and whose objects the snapshot does not name.
    pub(crate) unnamed: BTreeSet<RefName>,
    /// Branches and tags that nothing pins any more.
    pub(crate) gone: BTreeSet<RefName>,
}

/// Where a branch or tag was put; `None` if it was removed.
pub(crate) type Moved = Vec<(String, Option<Oid>)>;

/// Lists the changes; `None` if there are many, or if a snapshot does not name enough.
pub(crate) fn between(before: &ServedSnapshot, now: &ServedSnapshot) -> Option<Moves> {
    let new: Vec<_> = differing(&now.pins, &before.pins).collect();
    let old: Vec<_> = differing(&before.pins, &now.pins).collect();
    if new.len() + old.len() > MOST {
        return None;
    }
    let mut moves = Moves::default();
    for (name, pin) in new {
        moves.add(name, pin);
    }
    moves.gone = old.iter().flat_map(|(name, pin)| refs_of(name, pin)).collect();
    let (was, is) = (&before.snapshot, &now.snapshot);
    // An older central server names neither.
    if is.datacenter_commit.is_none() || is.class.is_none() {
        return None;
    }
    if was.datacenter_commit != is.datacenter_commit || was.class != is.class {
        let (Some(commit), Some((class, of_class)), Some((class_before, _))) =
            (is.datacenter_commit, &is.class, &was.class)
        else {
            return None;
        };
        moves.tips.insert(RefName::Datacenter(is.datacenter.clone()), commit);
        match class {
            RefName::Class(_) => drop(moves.tips.insert(class.clone(), *of_class)),
            tag => drop(moves.unnamed.insert(tag.clone())),
        }
        if class_before != class {
            moves.gone.insert(class_before.clone());
        }
    }
    // Another version may be read from the same branch.
    let touched: BTreeSet<&ComponentName> = old.iter().map(|(name, _)| &name.component).collect();
    let pinned = now.pins.iter().filter(|(name, _)| touched.contains(&name.component));
    let pinned: BTreeSet<RefName> = pinned.flat_map(|(name, pin)| refs_of(name, pin)).collect();
    moves.gone.retain(|name| !pinned.contains(name));
    Some(moves)
}

impl Moves {
    /// The branch of a version without a tag belongs at its pinned commit. Where a tag is pinned,
    /// nothing names the tip of the branch, nor the tag's own object.
    fn add(&mut self, name: &ComponentVersion, pin: &Pin) {
        if name.version.is_latest() {
            self.tips.insert(RefName::Branch(name.component.clone(), pin.branch.clone()), pin.commit);
        } else {
            self.unnamed.extend(refs_of(name, pin));
        }
    }
}

/// Lists the branch, and the tag if there is one, behind a pin.
pub(crate) fn refs_of(name: &ComponentVersion, pin: &Pin) -> Vec<RefName> {
    let branch = RefName::Branch(name.component.clone(), pin.branch.clone());
    match name.version.as_str().parse::<TagName>() {
        Ok(tag) if !name.version.is_latest() => vec![branch, RefName::Tag(name.component.clone(), tag)],
        _ => vec![branch],
    }
}

/// Fetches the named commits that are not here, each with its history from where its branch was.
pub(crate) async fn fetch(mirror: &Mirror, moves: &Moves) -> Result<(), String> {
    let (repo, tips) = (mirror.opened.clone(), moves.tips.clone());
    let steps = daemon::blocking(move || -> Result<Vec<Step>, git2::Error> {
        let repo = repo.lend()?;
        let step = |(name, want): (&RefName, &CommitId)| {
            let have = at(&repo, name)?.map(CommitId::from);
            Ok((have != Some(*want)).then_some(Step { have, want: *want, depth: Depth::Full }))
        };
        tips.iter().map(step).filter_map(Result::transpose).collect()
    });
    let steps = steps.await.map_err(|error| error.message().to_owned())?;
    for step in steps {
        mirror.bring(step).await.map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Counts the commits that the snapshot names and that are not here, though all branches are.
pub(crate) async fn lacking(mirror: &Mirror, now: &Arc<ServedSnapshot>) -> Result<usize, String> {
    let (repo, now) = (mirror.opened.clone(), Arc::clone(now));
    let lacking = daemon::blocking(move || -> Result<usize, git2::Error> {
        let (repo, snapshot) = (repo.lend()?, &now.snapshot);
        let odb = repo.odb()?;
        let pinned = now.pins.values().map(|pin| pin.commit);
        let own = snapshot.datacenter_commit.into_iter().chain(snapshot.class.as_ref().map(|(_, commit)| *commit));
        Ok(pinned.chain(own).filter(|commit| !odb.exists((*commit).into())).count())
    });
    lacking.await.map_err(|error| error.message().to_owned())
}

/// Lists those of the unnamed branches and tags that are not here. One that is here stays: a tag
/// never moves, and a branch whose tip nothing pins need not.
pub(crate) async fn missing(mirror: &Mirror, moves: &Moves) -> Result<BTreeSet<RefName>, String> {
    if moves.unnamed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (repo, mut unnamed) = (mirror.opened.clone(), moves.unnamed.clone());
    let missing = daemon::blocking(move || {
        let repo = repo.lend()?;
        for name in std::mem::take(&mut unnamed) {
            if at(&repo, &name)?.is_none() {
                unnamed.insert(name);
            }
        }
        Ok(unnamed)
    });
    missing.await.map_err(|error: git2::Error| error.message().to_owned())
}

/// Moves branches to their commits, all of which are here, and removes what nothing pins.
pub(crate) async fn put(mirror: &Arc<Mirror>, moves: Moves) -> Result<Moved, String> {
    let repo = mirror.opened.clone();
    let moved = daemon::blocking(move || -> Result<Moved, git2::Error> {
        let repo = repo.lend()?;
        let mut moved = Vec::new();
        for (name, commit) in moves.tips {
            let name = name.to_string();
            repo.reference(&name, commit.into(), true, "served")?;
            moved.push((name, Some(commit.into())));
        }
        for name in moves.gone {
            let name = name.to_string();
            match repo.find_reference(&name) {
                Ok(mut reference) => reference.delete()?,
                Err(error) if error.code() == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
            moved.push((name, None));
        }
        Ok(moved)
    });
    moved.await.map_err(|error| error.message().to_owned())
}

/// Reads where branches and tags are that were fetched by their names.
pub(crate) async fn targets(mirror: &Mirror, names: BTreeSet<RefName>) -> Result<Moved, String> {
    let repo = mirror.opened.clone();
    let targets = daemon::blocking(move || {
        let repo = repo.lend()?;
        names.into_iter().map(|name| Ok((name.to_string(), at(&repo, &name)?))).collect::<Result<Moved, _>>()
    });
    targets.await.map_err(|error: git2::Error| error.message().to_owned())
}

fn at(repo: &Repository, name: &RefName) -> Result<Option<Oid>, git2::Error> {
    match repo.find_reference(&name.to_string()) {
        Ok(reference) => Ok(reference.target()),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use libconf::name::{ObjectId, Sequence};

    use super::*;
    use conf_core::snapshot::Snapshot;

    /// `pins`: component and version, branch, number of the commit. `own`: number of the
    /// datacenter's commit, class ref, number of its commit.
    fn served(pins: &[(&str, &str, u8)], own: (u8, &str, u8)) -> ServedSnapshot {
        let pin = |(name, branch, commit): &(&str, &str, u8)| {
            let component: ComponentVersion = name.parse().unwrap();
            let pin =
                Pin { component: component.clone(), branch: branch.parse().unwrap(), commit: [*commit; 20].into() };
            (Arc::new(component), Arc::new(pin))
        };
        let snapshot = Snapshot {
            commit: [1; 20].into(),
            tree: ObjectId::from([2; 20]),
            parent: None,
            datacenter: "us/v1".parse().unwrap(),
            sequence: Sequence(1),
            epoch: 1,
            time: 0,
            by: String::new(),
            summary: String::new(),
            datacenter_commit: Some([own.0; 20].into()),
            class: Some((own.1.parse().unwrap(), [own.2; 20].into())),
        };
        ServedSnapshot { snapshot, pins: Arc::new(pins.iter().map(pin).collect()) }
    }

    #[test]
    fn a_step_moves_what_differs() {
        const BRANCH: &str = "refs/heads/datacenter-configuration/big";
        const TAG: &str = "refs/tags/datacenter-configuration/big/v1";
        let before = served(&[("services/a/latest", "master", 3), ("services/b/v1", "master", 4)], (5, BRANCH, 6));
        let check = |pins: &[(&str, &str, u8)], own, tips: &str, unnamed: &str, gone: &str| {
            let moves = between(&before, &served(pins, own)).unwrap();
            let words = |names: Vec<String>| names.join(" ");
            let tip = |(name, commit): (&RefName, &CommitId)| format!("{name}={}", commit.to_string()[..2].to_owned());
            assert_eq!(words(moves.tips.iter().map(tip).collect()), tips);
            assert_eq!(words(moves.unnamed.iter().map(RefName::to_string).collect()), unnamed);
            assert_eq!(words(moves.gone.iter().map(RefName::to_string).collect()), gone);
        };
        let (a, b) = (("services/a/latest", "master", 3), ("services/b/v1", "master", 4));
        let own = (5, BRANCH, 6);
        check(&[a, b], own, "", "", "");
        check(&[("services/a/latest", "master", 7), b], own, "refs/heads/services/a/master=07", "", "");
        check(
            &[("services/a/latest", "other", 3), b],
            own,
            "refs/heads/services/a/other=03",
            "",
            "refs/heads/services/a/master",
        );
        // The other version is read from the same branch.
        check(
            &[a, ("services/b/v2", "master", 8)],
            own,
            "",
            "refs/heads/services/b/master refs/tags/services/b/v2",
            "refs/tags/services/b/v1",
        );
        check(&[a], own, "", "", "refs/heads/services/b/master refs/tags/services/b/v1");
        check(
            &[a, b],
            (9, BRANCH, 6),
            "refs/heads/datacenter-configuration/big=06 refs/heads/datacenters/us/v1=09",
            "",
            "",
        );
        check(&[a, b], (9, TAG, 6), "refs/heads/datacenters/us/v1=09", TAG, BRANCH);
        // An earlier version of conf-master names no commits.
        let mut unnamed = served(&[a, b], (9, BRANCH, 6));
        unnamed.snapshot.class = None;
        assert_eq!(between(&before, &unnamed), None);
        let names: Vec<String> = (0..=MOST).map(|number| format!("services/s{number}/latest")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "master", 1)).collect();
        assert_eq!(between(&before, &served(&many, own)), None, "one fetch of all is cheaper");
    }
}
