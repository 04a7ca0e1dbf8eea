//! The effect on one component: its hosts, and the difference in files and settings.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::layers::{self, Group, Stack};
use conf_core::render::{self, RenderError, Secrets};
use git2::{DiffFormat, DiffOptions, Patch, Repository};
use libconf::name::{ComponentVersion, HostName};
use serde_json::Value;

use crate::catalog::{DatacenterChange, DatacenterView};
use crate::judge::hosts::{self, DiffersOn};
use crate::judge::plan::model::ComponentPlan;
use crate::text::some_of;

/// The size in bytes above which a file's difference is not shown.
const FILE_BYTES: i64 = 256 << 10;
/// The most groups of hosts whose settings are compared for one component.
const MOST_GROUPS: usize = 5;
/// The most hosts that the title of a difference names.
const MOST_NAMED: usize = 5;

/// One datacenter while its components are planned.
pub(crate) struct Planning<'a> {
    /// The repository.
    pub(crate) repo: &'a Repository,
    /// The datacenter before and after.
    pub(crate) change: &'a DatacenterChange<'a>,
    /// How many more bytes of differences there may be.
    pub(crate) left: &'a mut usize,
}

impl Planning<'_> {
    /// Plans one component that differs on some hosts, or is added or removed; `None` when nothing
    /// would change.
    pub(crate) fn component(
        &mut self,
        name: &ComponentVersion,
        on: Option<&DiffersOn>,
    ) -> Result<Option<ComponentPlan>, git2::Error> {
        let DatacenterChange { before, after, .. } = self.change;
        let (old, new) = (before.as_ref().and_then(|view| view.component(name)), after.component(name));
        let view = if new.is_some() { after } else { before.as_ref().unwrap_or(after) };
        let commit = |component: &conf_core::snapshot::Component| component.pin.commit;
        let (before, after) = (old.map(commit), new.map(commit));
        if on.is_none() && before == after {
            return Ok(None);
        }
        let groups = self.groups(name)?;
        let mut diff = self.files(name)?;
        for group in groups.iter().take(MOST_GROUPS) {
            let place = match group.hosts.len() {
                0 => String::new(),
                _ => format!(" on {}", some_of(&group.hosts, MOST_NAMED).join(", ")),
            };
            diff.push_str(&self.settings(name, group.host(), &place)?);
            diff.push_str(&self.rendered(name, group.host(), &place)?);
        }
        if let more @ 1.. = groups.len().saturating_sub(MOST_GROUPS) {
            diff.push_str(&self.fits(format!("(and what {more} more groups of hosts get)\n")));
        }
        let instance = &view.manifest.instance;
        let (hosts, unlisted_hosts) = if let Some(DiffersOn::Some { hosts, unlisted }) = on {
            (hosts.iter().cloned().collect(), *unlisted)
        } else {
            let hosts = hosts::followed(self.change).into_iter().filter(|host| instance.runs(host, name));
            (hosts.cloned().collect(), instance.is_open() && self.change.after.manifest.instance.is_open())
        };
        Ok(Some(ComponentPlan { component: name.clone(), before, after, hosts, unlisted_hosts, diff }))
    }

    /// Returns the groups of hosts where a component differs.
    fn groups(&self, name: &ComponentVersion) -> Result<Vec<Group>, git2::Error> {
        let mut groups = Vec::new();
        for group in self.change.groups(self.repo, name)? {
            if self.change.differs(self.repo, name, group.host())? {
                groups.push(group);
            }
        }
        Ok(groups)
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

    /// Compares the settings on a host; `place` names the hosts that are like it.
    fn settings(
        &mut self,
        name: &ComponentVersion,
        host: Option<&HostName>,
        place: &str,
    ) -> Result<String, git2::Error> {
        let on = |view: &DatacenterView<'_>| -> Option<String> {
            let stack = layers::stack(self.repo, &view.sources(name)?, &name.component, host);
            let settings = stack.as_ref().map(Stack::merged).unwrap_or_default();
            let mut settings = Value::Object(settings);
            settings.sort_all_objects();
            Some(format!("{}\n", serde_json::to_string_pretty(&settings).unwrap_or_default()))
        };
        let (old, new) =
            (self.change.before.as_ref().and_then(on).unwrap_or_default(), on(&self.change.after).unwrap_or_default());
        self.between(&format!("settings of {name}{place}"), &old, &new)
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
        let side = |text: &str| if text.is_empty() { "/dev/null" } else { title };
        Ok(self.fits(format!("--- {}\n+++ {}\n{hunks}", side(old), side(new))))
    }

    /// Compares the rendered templates on a host, with the names of secrets.
    fn rendered(
        &mut self,
        name: &ComponentVersion,
        host: Option<&HostName>,
        place: &str,
    ) -> Result<String, git2::Error> {
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
            all.push_str(&self.between(&format!("{name}/{path}{place}"), &text(&old), &text(&new))?);
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
