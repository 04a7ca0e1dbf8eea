//! The variables that a component's templates read. Other variables make no difference to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use git2::{ObjectType, Repository, TreeWalkMode, TreeWalkResult};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{
    settings::{self, TEMPLATE_ENDING},
    template::{
        job::{Answer, LANDING, Question},
        process::ask,
    },
};
use libconf::name::ObjectId;

/// The variables that the templates of one tree read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Uses {
    /// There are no templates.
    NoTemplates,
    /// These variables, each by its path: `host.variables.rack`.
    Names(BTreeSet<String>),
    /// Any variable.
    All,
}

/// The most trees that are remembered; beyond it all are forgotten.
const MOST_KNOWN: usize = 100_000;

impl Uses {
    /// The variables for a tree. The content of a tree never changes, so each tree is read once.
    pub(crate) fn of(repo: &Repository, tree: ObjectId) -> Result<Arc<Self>, git2::Error> {
        static KNOWN: Mutex<BTreeMap<ObjectId, Arc<Uses>>> = Mutex::new(BTreeMap::new());
        if let Some(uses) = KNOWN.lock().get(&tree) {
            return Ok(uses.clone());
        }
        // Without the lock, so that others go on meanwhile.
        let uses = Arc::new(Self::read(repo, tree)?);
        let mut known = KNOWN.lock();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(tree, uses.clone());
        Ok(uses)
    }

    fn read(repo: &Repository, tree: ObjectId) -> Result<Self, git2::Error> {
        let (mut templates, mut failed) = (BTreeMap::new(), None);
        repo.find_tree(tree.into())?.walk(TreeWalkMode::PreOrder, |above, entry| {
            let name = String::from_utf8_lossy(entry.name_bytes());
            if entry.kind() != Some(ObjectType::Blob) || !name.ends_with(TEMPLATE_ENDING) {
                return TreeWalkResult::Ok;
            }
            if entry.filemode() == 0o120_000 {
                // Rendering refuses a template that is a link.
                templates.insert(format!("{above}{name}"), String::new());
                return TreeWalkResult::Ok;
            }
            match repo.find_blob(entry.id()) {
                Ok(blob) => {
                    let text = String::from_utf8_lossy(blob.content()).into_owned();
                    templates.insert(format!("{above}{name}"), text);
                    TreeWalkResult::Ok
                }
                Err(error) => {
                    failed = Some(error);
                    TreeWalkResult::Abort
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if templates.is_empty() {
            return Ok(Uses::NoTemplates);
        }
        // Rendering refuses a template that cannot even be looked at.
        Ok(match ask(&Question::Uses(templates), LANDING.bounds()) {
            Ok(Answer::Uses(Some(names))) => Uses::Names(names),
            _ => Uses::All,
        })
    }

    /// A hash of all variables that templates read, since the variables may be large and the hash
    /// is remembered.
    pub(crate) fn facts(&self, variables: &Map<String, Value>) -> Option<[u8; 32]> {
        let facts = match self {
            Uses::NoTemplates => return None,
            Uses::All => variables.clone(),
            Uses::Names(names) => names.iter().filter_map(|name| picked(name, variables)).collect(),
        };
        Some(Sha256::digest(settings::to_canonical(&Value::Object(facts))).into())
    }

    /// True when templates may read this variable, or something in it.
    pub(crate) fn may_read(&self, variable: &str) -> bool {
        match self {
            Uses::NoTemplates => false,
            Uses::All => true,
            Uses::Names(names) => names.iter().any(|name| name.split('.').next() == Some(variable)),
        }
    }
}

/// The value that a template gets by a name; if there is none, all that is around it.
fn picked(name: &str, variables: &Map<String, Value>) -> Option<(String, Value)> {
    let mut parts = name.split('.');
    let mut value = variables.get(parts.next()?)?;
    for part in parts {
        match value.get(part) {
            Some(inner) => value = inner,
            None => break,
        }
    }
    Some((name.to_owned(), value.clone()))
}
