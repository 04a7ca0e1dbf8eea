//! Updates: sections that somebody wants to replace, and what that makes of their branches.
//!
//! The request is read and its configuration parsed before the landing thread; there [`draft`] compares versions with what is
//! newest at that moment, and writes each branch's next commit into a [`Scratch`], from which only what lands is kept.

pub mod notation;
pub mod section;

use std::{cell::Cell, collections::BTreeMap, path::Path};

use conf_core::settings::SettingsFault;
use git2::{ObjectType, Oid, Repository, Tree, build::TreeUpdateBuilder};
use libconf::name::{CommitId, ObjectId, RefName};

use crate::{
    fault::refusal::{Fault, Kind, Refusal},
    judge::{Wish, compatibility},
    landing::update::{notation::Draft, section::SectionName},
    store::{
        idempotency::{LandedRef, RequestKey},
        refs::{Table, Target},
    },
};

/// The file whose `x-schema-version` an update must name.
const SCHEMA: &str = "config.schema.json";

/// Sections to replace, all of them or none.
#[derive(Clone, Debug)]
pub struct Update {
    /// Each section once.
    pub changes: Vec<SectionChange>,
    /// The key by which the request lands once.
    pub key: Option<RequestKey>,
    /// Why it may break compatibility: one line.
    pub breaking: Option<String>,
}

/// One section to replace.
#[derive(Clone, Debug)]
pub struct SectionChange {
    /// Which.
    pub section: SectionName,
    /// What it shall say, or why nobody can read that.
    pub draft: Result<Draft, SettingsFault>,
    /// The version of the schema that it is written for.
    pub schema_version: i64,
    /// What it was made from.
    pub expected: Expected,
}

/// What a change was made from: the optimistic lock. Where both are named both must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The version of the branch; -1 where it is not there.
    pub version: Option<i64>,
    /// The commit of the branch.
    pub commit: Option<IfMatch>,
}

/// What stands in `If-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: whatever is there, as long as something is.
    Anything,
    /// One of these commits.
    OneOf(Vec<CommitId>),
}

/// A change that was made from something else than what is newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The first such section.
    pub section: SectionName,
    /// The version of its branch now.
    pub version: i64,
    /// The commit of its branch now.
    pub commit: Option<CommitId>,
}

/// What became of an update, where there is more to say than of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It landed.
    Landed {
        /// The refs that it moved, snapshots included.
        refs: Vec<LandedRef>,
        /// It had landed before, under the same key.
        again: bool,
    },
    /// It was made from an older version.
    Conflict(Conflict),
}

/// Why an update comes to nothing before it is judged.
#[derive(Debug)]
pub enum NotDrafted {
    /// It was made from an older version.
    Conflict(Conflict),
    /// Its sections cannot be written so; for each branch.
    Invalid(BTreeMap<RefName, Vec<Fault>>),
}

/// The commits that an update makes, not judged yet.
#[derive(Debug, Default)]
pub struct Drafted {
    /// Each branch's move, in the order of [`Update::references`].
    pub wishes: Vec<Wish>,
    /// What its sender should know.
    pub notes: Vec<String>,
    /// The objects of the scratch that must be kept when it lands.
    objects: Vec<Oid>,
}

impl Update {
    /// The branches that it changes, each once, in order of their first section.
    pub fn references(&self) -> Vec<RefName> {
        let mut references: Vec<RefName> = Vec::new();
        for change in &self.changes {
            let reference = change.section.reference();
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        references
    }
}

/// The version of a branch: the number of its accepted changes, less one; -1 where it is not there. After a deletion the
/// numbers go on, so that none comes twice.
pub fn version(table: &Table, reference: &RefName) -> i64 {
    match table.target(reference) {
        Some(_) => version_after(table.changes(reference)),
        None => -1,
    }
}

/// The version that a branch has after this many accepted changes.
pub fn version_after(changes: u64) -> i64 {
    i64::try_from(changes).unwrap_or(i64::MAX) - 1
}

impl Expected {
    /// True when this is what is newest.
    fn holds(&self, version: i64, current: Option<Target>) -> bool {
        let commit = match &self.commit {
            None => true,
            Some(IfMatch::Anything) => current.is_some(),
            Some(IfMatch::OneOf(commits)) => current.is_some_and(|current| commits.contains(&current.commit)),
        };
        commit && self.version.is_none_or(|expected| expected == version)
    }
}

/// How many bytes one scratch may hold before another takes its place.
const SCRATCH_BYTES: usize = 16 << 20;

/// Objects that are held in memory over a repository, whether they were kept in the end or not.
pub struct Scratch {
    repo: Repository,
    /// About how many bytes it holds.
    bytes: Cell<usize>,
}

impl Scratch {
    /// Opens one over the repository at `path`.
    pub fn open(path: &Path) -> Result<Self, git2::Error> {
        let repo = Repository::open_bare(path)?;
        // Before all other stores, so that everything is written here.
        repo.odb()?.add_new_mempack_backend(1000)?;
        Ok(Scratch { repo, bytes: Cell::new(0) })
    }

    /// True when it holds so much that a new one is due.
    pub fn is_full(&self) -> bool {
        self.bytes.get() > SCRATCH_BYTES
    }

    /// The repository with what was drafted over it.
    pub fn repo(&self) -> &Repository {
        &self.repo
    }

    /// Writes a draft's objects into the repository itself.
    pub fn keep(&self, drafted: &Drafted, repo: &Repository) -> Result<(), git2::Error> {
        let (from, to) = (self.repo.odb()?, repo.odb()?);
        for id in &drafted.objects {
            let object = from.read(*id)?;
            to.write(object.kind(), object.data())?;
        }
        Ok(())
    }
}

/// One branch while it is drafted.
struct Branch<'a> {
    reference: RefName,
    base: Option<Target>,
    tree: Tree<'a>,
    files: Vec<String>,
    sections: Vec<String>,
}

/// Makes the commits of an update in `scratch`, over what is newest. `by` and `request` are one line each.
pub fn draft(
    table: &Table,
    scratch: &Scratch,
    update: &Update,
    by: &str,
    request: &str,
    time: i64,
) -> Result<Result<Drafted, NotDrafted>, git2::Error> {
    let repo = scratch.repo();
    let stale = update.changes.iter().find_map(|change| {
        let reference = change.section.reference();
        let (version, current) = (version(table, &reference), table.target(&reference));
        let section = change.section.clone();
        let conflict = Conflict { section, version, commit: current.map(|current| current.commit) };
        (!change.expected.holds(version, current)).then_some(conflict)
    });
    if let Some(conflict) = stale {
        return Ok(Err(NotDrafted::Conflict(conflict)));
    }
    let mut branches = Vec::new();
    for reference in update.references() {
        let base = table.target(&reference);
        let tree = match base {
            Some(base) => repo.find_commit(base.commit.into())?.tree()?,
            None => repo.find_tree(repo.treebuilder(None)?.write()?)?,
        };
        branches.push(Branch { reference, base, tree, files: Vec::new(), sections: Vec::new() });
    }
    let mut drafted = Drafted::default();
    let mut faults: BTreeMap<RefName, Vec<Fault>> = BTreeMap::new();
    for change in &update.changes {
        let reference = change.section.reference();
        let Some(branch) = branches.iter_mut().find(|branch| branch.reference == reference) else { continue };
        match branch.put(scratch, change)? {
            Ok(note) => drafted.notes.extend(note.map(|note| format!("{}: {note}", reference.short()))),
            Err(SettingsFault { file, line, reason }) => {
                let fault = Fault::of_file(&reference, &file, line, reason);
                faults.entry(reference).or_default().push(fault);
            }
        }
    }
    if !faults.is_empty() {
        return Ok(Err(NotDrafted::Invalid(faults)));
    }
    for branch in branches {
        let wish = branch.commit(repo, by, (request, update.breaking.as_deref()), time, &mut drafted.objects)?;
        drafted.wishes.push(wish);
    }
    Ok(Ok(drafted))
}

impl<'a> Branch<'a> {
    /// Puts one section into the tree; answers what its sender should know.
    fn put(
        &mut self,
        scratch: &'a Scratch,
        change: &SectionChange,
    ) -> Result<Result<Option<String>, SettingsFault>, git2::Error> {
        let repo = scratch.repo();
        let draft = match &change.draft {
            Ok(draft) => draft,
            Err(fault) => return Ok(Err(fault.clone())),
        };
        let wanted = match &change.section {
            SectionName::Component(..) => schema_version(repo, &self.tree)?,
            SectionName::Manifest(_) | SectionName::Layer(..) => 1,
        };
        if wanted != change.schema_version {
            let reason = format!(
                "this is written for version {} of the schema, and the branch has version {wanted}; send `schemaVersion`: \
                 {wanted} once the configuration is fit for it",
                change.schema_version
            );
            return Ok(Err(SettingsFault { file: SCHEMA.to_owned(), line: None, reason }));
        }
        let file = match change.section.file(&self.tree) {
            Ok(file) => file,
            Err(fault) => return Ok(Err(fault)),
        };
        let old = file.found.map(|(id, _)| repo.find_blob(id)).transpose()?;
        let old = old.as_ref().map(git2::Blob::content);
        let (bytes, note) = match notation::write(&file.path, file.format, old, draft) {
            Ok(written) => written,
            Err(fault) => return Ok(Err(fault)),
        };
        let mode = match file.found {
            Some((_, 0o100_755)) => git2::FileMode::BlobExecutable,
            _ => git2::FileMode::Blob,
        };
        // A folder of many files is written anew for each change in it.
        scratch.bytes.set(scratch.bytes.get() + bytes.len() + 4096 + 64 * self.tree.len());
        let mut builder = TreeUpdateBuilder::new();
        builder.upsert(&file.path, repo.blob(&bytes)?, mode);
        let tree = match builder.create_updated(repo, &self.tree) {
            Ok(tree) => tree,
            Err(cause) => {
                let reason = format!("it cannot stand there: {}", cause.message());
                return Ok(Err(SettingsFault { file: file.path, line: None, reason }));
            }
        };
        self.tree = repo.find_tree(tree)?;
        self.files.push(file.path);
        self.sections.push(change.section.to_string());
        Ok(Ok(note))
    }

    /// Makes the commit, and notes which objects are new with it.
    fn commit(
        self,
        repo: &Repository,
        by: &str,
        (request, breaking): (&str, Option<&str>),
        time: i64,
        objects: &mut Vec<Oid>,
    ) -> Result<Wish, git2::Error> {
        let parent = self.base.map(|base| repo.find_commit(base.commit.into())).transpose()?;
        let when = git2::Time::new(time, 0);
        // Git's own format has no place for these in a name.
        let name: String = by.chars().map(|letter| if matches!(letter, '<' | '>') { ' ' } else { letter }).collect();
        let author = git2::Signature::new(&name, "", &when)
            .or_else(|_| git2::Signature::new("someone", "conf-master", &when))?;
        let committer = git2::Signature::new("conf-master", "conf-master", &when)?;
        let mut message = format!("Update {}\n\nConf-Request: {request}\n", self.sections.join(", "));
        if let Some(reason) = breaking {
            message = format!("{message}{}\n", compatibility::declaration(reason));
        }
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        let commit = repo.commit(None, &author, &committer, &message, &self.tree, &parents)?;
        for file in &self.files {
            objects.push(self.tree.get_path(Path::new(file))?.id());
            let folders = Path::new(file).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
            for folder in folders {
                objects.push(self.tree.get_path(folder)?.id());
            }
        }
        objects.extend([self.tree.id(), commit]);
        let old = self.base.map_or(ObjectId::ZERO, |base| base.value);
        Ok(Wish { name: self.reference.to_string(), old, new: commit.into() })
    }
}

/// The version of the schema that a component's branch holds: `x-schema-version` of its `config.schema.json`, else 1.
pub fn schema_version(repo: &Repository, tree: &Tree<'_>) -> Result<i64, git2::Error> {
    let Some(entry) = tree.get_name(SCHEMA).filter(|entry| entry.kind() == Some(ObjectType::Blob)) else {
        return Ok(1);
    };
    let blob = repo.find_blob(entry.id())?;
    let schema: Option<serde_json::Value> = serde_json::from_slice(blob.content()).ok();
    Ok(schema.and_then(|schema| schema.get("x-schema-version")?.as_i64()).unwrap_or(1))
}

impl NotDrafted {
    /// Why each of these branches does not move, in their order; and what there is to say besides.
    pub fn refusals(self, references: &[RefName]) -> (Vec<Option<Refusal>>, Option<Decision>) {
        let together = || Refusal::new(Kind::Together, "another section of this request is refused");
        match self {
            NotDrafted::Conflict(conflict) => {
                let reference = conflict.section.reference();
                let reason = match conflict.version {
                    -1 => format!("{} is not there; to make it, send version -1", conflict.section),
                    version => {
                        format!("{} is at version {version}; read it, and make the change again", conflict.section)
                    }
                };
                let refusals = references.iter().map(|one| {
                    Some(if *one == reference { Refusal::new(Kind::Stale, reason.clone()) } else { together() })
                });
                (refusals.collect(), Some(Decision::Conflict(conflict)))
            }
            NotDrafted::Invalid(mut faults) => {
                let refusals = references.iter().map(|one| Some(faults.remove(one).map_or_else(together, Refusal::of)));
                (refusals.collect(), None)
            }
        }
    }
}
