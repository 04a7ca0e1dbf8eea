//! Drafts an update: writes each branch's next commit into memory, over the newest state.

use std::{collections::BTreeMap, path::Path};

use conf_core::git::{NewObjects, ObjectStore as _};
use conf_core::settings::{SCHEMA_FILE, SettingsFault};
use git2::{Oid, Repository, Tree, build::TreeUpdateBuilder};
use libconf::name::{ObjectId, RefName};

use crate::fault::Fault;
use crate::judge::RefUpdate;
use crate::judge::compatibility::trailer;
use crate::landing::update::notation;
use crate::landing::update::request::{Conflict, DraftError, SectionChange, Update};
use crate::store::{LayerChanges, RefTarget, Table};

/// The commits that an update makes, not judged yet.
#[derive(Debug, Default)]
pub(crate) struct Drafted {
    /// Each branch's move, in the order of [`Update::references`].
    pub(crate) updates: Vec<RefUpdate>,
    /// What the sender should know.
    pub(crate) notes: Vec<String>,
    /// The objects that must be kept when it lands.
    pub(crate) objects: Vec<Oid>,
}

/// The author and time of drafted commits. All texts are one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authorship<'a> {
    /// The author.
    pub(crate) by: &'a str,
    /// The id of the request.
    pub(crate) request: &'a str,
    /// The time, in seconds since 1970.
    pub(crate) time: i64,
}

/// One branch while it is drafted.
struct Branch<'a> {
    reference: RefName,
    base: Option<RefTarget>,
    tree: Tree<'a>,
    files: Vec<String>,
    sections: Vec<String>,
}

/// Why one section was not put into its tree.
enum PutError {
    Fault(SettingsFault),
    Repository(git2::Error),
}

impl From<SettingsFault> for PutError {
    fn from(fault: SettingsFault) -> Self {
        PutError::Fault(fault)
    }
}

impl From<git2::Error> for PutError {
    fn from(error: git2::Error) -> Self {
        PutError::Repository(error)
    }
}

/// Makes the commits of an update in `new`, over the newest state.
pub(crate) fn draft(
    (table, layers): (&Table, &LayerChanges),
    new: &NewObjects,
    update: &Update,
    authorship: Authorship<'_>,
) -> Result<Drafted, DraftError> {
    let repo = new.repo();
    for change in &update.changes {
        let reference = change.section.reference();
        let (version, current) = (change.section.version(table, layers), table.target(&reference));
        if !change.expected.holds(version, table.version(&reference), current) {
            let (section, commit) = (change.section.clone(), current.map(|current| current.commit));
            return Err(DraftError::Conflict(Conflict { section, version, commit }));
        }
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
        match branch.put(new, change) {
            Ok(note) => drafted.notes.extend(note.map(|note| format!("{}: {note}", reference.short()))),
            Err(PutError::Fault(SettingsFault { file, line, reason })) => {
                let fault = Fault::of_file(&reference, &file, line, reason);
                faults.entry(reference).or_default().push(fault);
            }
            Err(PutError::Repository(error)) => return Err(error.into()),
        }
    }
    if !faults.is_empty() {
        return Err(DraftError::Invalid(faults));
    }
    for branch in branches {
        let update = branch.commit(repo, authorship, update.breaking.as_deref(), &mut drafted.objects)?;
        drafted.updates.push(update);
    }
    Ok(drafted)
}

impl<'a> Branch<'a> {
    /// Puts one section into the tree; returns what the sender should know.
    fn put(&mut self, new: &'a NewObjects, change: &SectionChange) -> Result<Option<String>, PutError> {
        let repo = new.repo();
        let draft = change.draft.as_ref().map_err(SettingsFault::clone)?;
        let wanted = change.section.schema_version(repo, &self.tree)?;
        if wanted != change.schema_version {
            let reason = format!(
                "this is written for version {} of the schema, and the branch has version {wanted}; send `schemaVersion`: \
                 {wanted} once the configuration is fit for it",
                change.schema_version
            );
            return Err(SettingsFault { file: SCHEMA_FILE.to_owned(), line: None, reason }.into());
        }
        let file = change.section.file(&self.tree)?;
        let old = file.found.map(|(id, _)| repo.find_blob(id)).transpose()?;
        let (bytes, note) = notation::write(&file.path, file.format, old.as_ref().map(git2::Blob::content), draft)?;
        let mode = match file.found {
            Some((_, 0o100_755)) => git2::FileMode::BlobExecutable,
            _ => git2::FileMode::Blob,
        };
        // A folder is written anew for each change in it, however many files it holds.
        new.count(bytes.len() + 4096 + 64 * self.tree.len());
        let mut builder = TreeUpdateBuilder::new();
        builder.upsert(&file.path, repo.blob(&bytes)?, mode);
        let tree = builder.create_updated(repo, &self.tree).map_err(|cause| {
            let reason = format!("it cannot be written there: {}", cause.message());
            SettingsFault { file: file.path.clone(), line: None, reason }
        })?;
        self.tree = repo.find_tree(tree)?;
        self.files.push(file.path);
        self.sections.push(change.section.to_string());
        Ok(note)
    }

    /// Makes the commit, and collects the objects that are new with it.
    fn commit(
        self,
        repo: &Repository,
        Authorship { by, request, time }: Authorship<'_>,
        breaking: Option<&str>,
        objects: &mut Vec<Oid>,
    ) -> Result<RefUpdate, git2::Error> {
        let parent = self.base.map(|base| repo.find_commit(base.commit.into())).transpose()?;
        let when = git2::Time::new(time, 0);
        // The format of Git's commits allows neither in a name.
        let name: String = by.chars().map(|letter| if matches!(letter, '<' | '>') { ' ' } else { letter }).collect();
        let author = git2::Signature::new(&name, "", &when)
            .or_else(|_| git2::Signature::new("someone", "conf-master", &when))?;
        let committer = git2::Signature::new("conf-master", "conf-master", &when)?;
        let mut message = format!("Update {}\n\nConf-Request: {request}\n", self.sections.join(", "));
        if let Some(reason) = breaking {
            message = format!("{message}{}\n", trailer::line(reason));
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
        Ok(RefUpdate { name: self.reference.to_string(), old, new: commit.into() })
    }
}
