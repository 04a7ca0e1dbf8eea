//! The effect of a change before it lands: components, hosts, and the difference in files and
//! settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use conf_core::layers::{self, Stack};
use conf_core::render::{self, RenderError, Secrets};
use git2::{DiffFormat, DiffOptions, Patch, Repository};
use libconf::name::{CommitId, ComponentVersion, DatacenterName, HostName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalog::{Catalog, DatacenterChange, DatacenterView, OverridesCache};
use crate::fault::Refusal;
use crate::judge::proposal::{Judgement, RefUpdate};
use crate::text::{count, some_of};

/// The most bytes of all differences of one plan; the rest is left out.
const MOST_BYTES: usize = 128 << 10;
/// The size in bytes above which a file's difference is not shown.
const FILE_BYTES: i64 = 256 << 10;
/// The most groups of hosts whose settings are compared for one component.
const MOST_GROUPS: usize = 5;
/// The most hosts that a line names.
const MOST_NAMED: usize = 5;

/// The effect of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangePlan {
    /// The refs that could not land, and why.
    pub(crate) refused: Vec<NotLanding>,
    /// What else there is to know before it lands: declared breaks of compatibility.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The datacenters that would change.
    pub(crate) datacenters: Vec<DatacenterPlan>,
    /// The differences are longer than is shown.
    pub(crate) truncated: bool,
}

/// A ref that could not land.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotLanding {
    /// The ref.
    #[serde(rename = "ref")]
    pub(crate) name: String,
    /// The reason.
    #[serde(flatten)]
    pub(crate) refusal: Refusal,
}

/// The effect on one datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatacenterPlan {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// Its branch would be deleted; its hosts keep their files.
    pub(crate) removed: bool,
    /// The components that would change.
    pub(crate) components: Vec<ComponentPlan>,
}

/// The effect on one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ComponentPlan {
    /// The component.
    pub(crate) component: ComponentVersion,
    /// Its commit before; absent when it would be added.
    pub(crate) before: Option<CommitId>,
    /// Its commit after; absent when it would be removed.
    pub(crate) after: Option<CommitId>,
    /// The hosts of the inventory that are affected.
    pub(crate) hosts: Vec<HostName>,
    /// Hosts that are not in the inventory are affected too.
    pub(crate) unlisted_hosts: bool,
    /// The difference in its files, and in its settings on each group of hosts, as a unified diff.
    pub(crate) diff: String,
}

impl ChangePlan {
    /// Works out the effect of a judgement.
    pub(crate) fn of(
        repo: &Repository,
        catalog: &Catalog,
        overrides: &OverridesCache,
        updates: &[RefUpdate],
        judgement: &Judgement,
    ) -> Result<Self, git2::Error> {
        let refused = updates
            .iter()
            .zip(&judgement.refusals)
            .filter_map(|(update, refusal)| Some(NotLanding { name: update.name.clone(), refusal: refusal.clone()? }));
        let mut plan = ChangePlan { refused: refused.collect(), notes: judgement.notes.clone(), ..Self::default() };
        let mut left = MOST_BYTES;
        for (name, delta) in &judgement.deltas {
            let mut planned =
                DatacenterPlan { datacenter: name.clone(), removed: delta.is_none(), components: Vec::new() };
            if let Some(delta) = delta {
                let before = catalog.datacenters.get(name);
                let Some(change) = DatacenterChange::new(repo, overrides, name, before, delta)? else { continue };
                let mut names = change.affected(repo)?;
                names.extend(delta.components.keys().cloned());
                let mut planning = Planning { repo, change: &change, left: &mut left };
                for component in names {
                    planned.components.extend(planning.component(component)?);
                }
            }
            if planned.removed || !planned.components.is_empty() {
                plan.datacenters.push(planned);
            }
        }
        plan.truncated = left == 0;
        Ok(plan)
    }
}

struct Planning<'a> {
    repo: &'a Repository,
    change: &'a DatacenterChange<'a>,
    left: &'a mut usize,
}

impl Planning<'_> {
    /// Plans one component; `None` when nothing would change on any host.
    fn component(&mut self, name: ComponentVersion) -> Result<Option<ComponentPlan>, git2::Error> {
        let DatacenterChange { before, after, .. } = self.change;
        let (old, new) = (before.as_ref().and_then(|view| view.component(&name)), after.component(&name));
        let view = if new.is_some() { after } else { before.as_ref().unwrap_or(after) };
        let mut groups = Vec::new();
        for group in view.groups(self.repo, &name)? {
            if self.change.differs(self.repo, &name, group.host())? {
                groups.push(group);
            }
        }
        let commit = |component: &conf_core::snapshot::Component| component.pin.commit;
        let (before, after) = (old.map(commit), new.map(commit));
        if groups.is_empty() && before == after {
            return Ok(None);
        }
        let mut diff = self.files(&name)?;
        for group in groups.iter().take(MOST_GROUPS) {
            diff.push_str(&self.settings(&name, group.host())?);
            diff.push_str(&self.rendered(&name, group.host())?);
        }
        if let more @ 1.. = groups.len().saturating_sub(MOST_GROUPS) {
            diff.push_str(&self.fits(format!("(and what {more} more groups of hosts get)\n")));
        }
        let named = groups.iter().any(|group| !group.hosts.is_empty());
        let mut hosts: Vec<HostName> = if named {
            groups.iter().flat_map(|group| group.hosts.iter().cloned()).collect()
        } else {
            let instance = &view.manifest.instance;
            instance.hosts.keys().filter(|host| instance.runs(host, &name)).cloned().collect()
        };
        hosts.sort();
        // A host that is not listed runs everything, with the layers that all hosts have in common.
        let unlisted_hosts = before != after || self.change.differs(self.repo, &name, None)?;
        Ok(Some(ComponentPlan { component: name, before, after, hosts, unlisted_hosts, diff }))
    }

    /// Compares the files that every host gets byte for byte.
    fn files(&mut self, name: &ComponentVersion) -> Result<String, git2::Error> {
        let tree = |view: &DatacenterView<'_>| {
            view.component(name).map(|one| self.repo.find_tree(one.tree.into())).transpose()
        };
        let (old, new) = (self.change.before.as_ref().map(tree).transpose()?.flatten(), tree(&self.change.after)?);
        let mut options = options();
        options.old_prefix(name.to_string()).new_prefix(name.to_string());
        let diff = self.repo.diff_tree_to_tree(old.as_ref(), new.as_ref(), Some(&mut options))?;
        let (mut text, most) = (String::new(), *self.left);
        let printed = diff.print(DiffFormat::Patch, |_, _, line| {
            if matches!(line.origin(), '+' | '-' | ' ') {
                text.push(line.origin());
            }
            // The ids of objects mean nothing to people.
            let words = String::from_utf8_lossy(line.content());
            match line.origin() {
                'F' => text.push_str(&header(&words)),
                _ => text.push_str(&words),
            }
            text.len() <= most
        });
        match printed {
            Err(error) if error.code() != git2::ErrorCode::User => Err(error),
            _ => Ok(self.fits(text)),
        }
    }

    /// Compares the settings on a host.
    fn settings(&mut self, name: &ComponentVersion, host: Option<&HostName>) -> Result<String, git2::Error> {
        let on = |view: &DatacenterView<'_>| -> Option<String> {
            let stack = layers::stack(self.repo, &view.sources(name)?, &name.component, host);
            let settings = stack.as_ref().map(Stack::merged).unwrap_or_default();
            let mut settings = Value::Object(settings);
            settings.sort_all_objects();
            Some(format!("{}\n", serde_json::to_string_pretty(&settings).unwrap_or_default()))
        };
        let (old, new) =
            (self.change.before.as_ref().and_then(on).unwrap_or_default(), on(&self.change.after).unwrap_or_default());
        let title = match host {
            Some(host) => format!("settings of {name} on {host}"),
            None => format!("settings of {name}"),
        };
        self.between(&title, &old, &new)
    }

    /// Compares two texts, under a title.
    fn between(&mut self, title: &str, old: &str, new: &str) -> Result<String, git2::Error> {
        if old == new || *self.left == 0 {
            return Ok(String::new());
        }
        let mut patch = Patch::from_buffers(old.as_bytes(), None, new.as_bytes(), None, Some(&mut options()))?;
        let text = patch.to_buf()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let hunks = text.find("@@ ").map_or("", |at| &text[at..]);
        Ok(self.fits(format!("--- {title}\n+++ {title}\n{hunks}")))
    }

    /// Compares the rendered templates on a host, with the names of secrets.
    fn rendered(&mut self, name: &ComponentVersion, host: Option<&HostName>) -> Result<String, git2::Error> {
        let on = |view: &DatacenterView<'_>| -> Result<BTreeMap<String, String>, git2::Error> {
            let Some(sources) = view.sources(name) else { return Ok(BTreeMap::new()) };
            match render::templates(self.repo, &sources, name, host, &Secrets::by_name(&sources, &name.component)) {
                Ok(files) => Ok(files),
                Err(RenderError::Repository(error)) => Err(error),
                // A template that cannot be rendered is reported as a refusal.
                Err(RenderError::Fault(_) | RenderError::Templates(_)) => Ok(BTreeMap::new()),
            }
        };
        let (old, new) =
            (self.change.before.as_ref().map(on).transpose()?.unwrap_or_default(), on(&self.change.after)?);
        let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let mut all = String::new();
        for path in paths {
            let text = |files: &BTreeMap<String, String>| files.get(path).cloned().unwrap_or_default();
            let at = host.map(|host| format!(" on {host}")).unwrap_or_default();
            all.push_str(&self.between(&format!("{name}/{path}{at}"), &text(&old), &text(&new))?);
        }
        Ok(all)
    }

    /// Cuts a text to the room that is left, in whole lines.
    fn fits(&mut self, mut text: String) -> String {
        if text.len() > *self.left {
            let most = (0..=*self.left).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(text[..most].rfind('\n').map_or(0, |at| at + 1));
            *self.left = 0;
        } else {
            *self.left -= text.len();
        }
        text
    }
}

fn options() -> DiffOptions {
    let mut options = DiffOptions::new();
    options.max_size(FILE_BYTES).context_lines(3);
    options
}

/// Returns the header of a file's difference, without the ids of its objects.
fn header(words: &str) -> String {
    let named = |line: &&str| line.starts_with("--- ") || line.starts_with("+++ ");
    let lines: Vec<&str> = words.lines().filter(named).collect();
    if lines.is_empty() {
        // A file without lines has no such header.
        return words.lines().next().map(|line| format!("{line}\n")).unwrap_or_default();
    }
    format!("{}\n", lines.join("\n"))
}

impl fmt::Display for ChangePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        if self.datacenters.is_empty() {
            writeln!(f, "no datacenter would change")?;
        }
        for DatacenterPlan { datacenter, removed, components } in &self.datacenters {
            if *removed {
                writeln!(f, "{datacenter} would no longer be composed; its hosts keep its last snapshot")?;
                continue;
            }
            writeln!(f, "{datacenter} would change in {}:", count(components.len(), "component"))?;
            for one in components {
                writeln!(f, "  {one}")?;
            }
            for line in components.iter().flat_map(|one| one.diff.lines()) {
                writeln!(f, "{line}")?;
            }
        }
        if self.truncated {
            writeln!(f, "(the difference is longer than {} KiB; the rest is left out)", MOST_BYTES >> 10)?;
        }
        Ok(())
    }
}

impl fmt::Display for ComponentPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (self.before.as_ref().map(CommitId::short), self.after.as_ref().map(CommitId::short));
        match (before, after) {
            (Some(before), Some(after)) if before == after => write!(f, "{} in its layers", self.component)?,
            (Some(before), Some(after)) => write!(f, "{} {before} → {after}", self.component)?,
            (None, Some(after)) => write!(f, "{} added at {after}", self.component)?,
            _ => write!(f, "{} removed", self.component)?,
        }
        let mut named = some_of(&self.hosts, MOST_NAMED);
        if self.unlisted_hosts {
            named.push(if named.is_empty() { "every host" } else { "unlisted hosts" }.to_owned());
        }
        write!(f, " ({})", named.join(", "))
    }
}
