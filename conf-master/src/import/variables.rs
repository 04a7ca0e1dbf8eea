//! Values that repeat: which become variables, and where templates replace them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::bail;
use conf_core::suspect::Finding;
use libconf::name::SecretName;
use zeroize::Zeroizing;

use crate::import::flags::ImportFlags;
use crate::import::proposal::{Component, Variable};
use crate::import::scan::Remark;
use crate::import::template::Replacement;
use crate::import::values::{self, Sort};

/// A text file while it is decided on.
pub(crate) struct Text {
    /// The number of its component.
    pub(crate) component: usize,
    /// Its path in the component.
    pub(crate) file: String,
    /// Its content.
    pub(crate) content: Zeroizing<String>,
    /// The secrets in it, with the names that they get.
    pub(crate) findings: Vec<(Finding, SecretName)>,
}

impl Text {
    /// Tells whether no secret is in this range.
    pub(crate) fn is_free(&self, range: &Range<usize>) -> bool {
        !self.findings.iter().any(|(finding, _)| overlap(&finding.range, range))
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// How often a value occurs, and in which files of which components.
type Occurrences<'a> = (usize, BTreeSet<(usize, &'a str)>);

/// Finds the values that repeat, and decides what is replaced in each file. A variable without a
/// place is a fault.
pub(crate) fn decide(
    flags: &ImportFlags,
    components: &mut [Component<'_>],
    texts: &[Text],
    faults: &mut Vec<Remark>,
) -> anyhow::Result<Vec<Variable>> {
    let named = &flags.variables;
    let names: BTreeSet<&str> = named.iter().map(|one| one.name.as_str()).collect();
    let valued: BTreeSet<&str> = named.iter().map(|one| one.value.as_str()).collect();
    if names.len() < named.len() || valued.len() < named.len() {
        bail!("two --variable have the same name or the same value; keep one of them");
    }
    let mut seen: BTreeMap<(Sort, &str), Occurrences<'_>> = BTreeMap::new();
    for text in texts {
        for candidate in values::in_text(&text.content).into_iter().filter(|one| text.is_free(&one.range)) {
            let (times, files) = seen.entry((candidate.sort, &text.content[candidate.range])).or_default();
            *times += 1;
            files.insert((text.component, text.file.as_str()));
        }
    }
    let mut offered: Vec<(Sort, String, usize)> = seen
        .into_iter()
        .filter(|((_, value), (_, files))| files.len() > 1 && !valued.contains(value))
        .map(|((sort, value), (times, _))| (sort, value.to_owned(), times))
        .collect();
    offered.sort_by_key(|(sort, _, times)| (*sort, usize::MAX - times));
    let sorted: Vec<(Sort, String)> = offered.into_iter().map(|(sort, value, _)| (sort, value)).collect();
    let taken: Vec<&str> = names.iter().copied().collect();
    let new = |name: &str, value: &str, applied| Variable {
        name: name.to_owned(),
        value: value.to_owned(),
        times: 0,
        files: BTreeSet::new(),
        applied,
    };
    let mut variables: Vec<Variable> = named.iter().map(|one| new(&one.name, &one.value, true)).collect();
    let offered_names = values::names(&sorted, &taken);
    variables
        .extend(offered_names.iter().zip(&sorted).map(|(name, (_, value))| new(name, value, flags.apply_variables)));
    let offered = variables.iter().enumerate().skip(named.len());
    let offered = offered.map(|(number, one)| (one.value.clone(), number)).collect();
    for text in texts {
        replace(flags, &mut components[text.component], text, &offered, &mut variables);
    }
    for variable in variables.iter().filter(|variable| variable.times == 0) {
        let reason = format!("--variable {}: its value occurs in no file", variable.name);
        faults.push(Remark::new(variable.value.as_str(), reason));
    }
    Ok(variables)
}

/// Decides what is replaced in one file; `offered` has the numbers of the variables that nobody
/// named.
fn replace(
    flags: &ImportFlags,
    component: &mut Component<'_>,
    text: &Text,
    offered: &BTreeMap<String, usize>,
    variables: &mut [Variable],
) {
    let shown = component.places[0].shown(&text.file);
    let fixed = component.raw.is_some() || component.settings.as_deref() == Some(&text.file);
    // The longest value comes first: one value may be within another.
    let mut order: Vec<(usize, &str)> =
        flags.variables.iter().enumerate().map(|(number, one)| (number, one.value.as_str())).collect();
    order.sort_by_key(|(_, value)| usize::MAX - value.len());
    let named =
        order.iter().flat_map(|(number, value)| values::named(&text.content, value).map(move |range| (*number, range)));
    let found = values::in_text(&text.content).into_iter().filter_map(|candidate| {
        offered.get(&text.content[candidate.range.clone()]).map(|number| (*number, candidate.range))
    });
    let mut taken: Vec<Range<usize>> = text.findings.iter().map(|(finding, _)| finding.range.clone()).collect();
    let mut replacements: Vec<Replacement> = text
        .findings
        .iter()
        .map(|(finding, name)| Replacement { range: finding.range.clone(), expression: format!("secrets.{name}") })
        .collect();
    for (number, range) in named.chain(found) {
        if taken.iter().any(|one| overlap(one, &range)) {
            continue;
        }
        taken.push(range.clone());
        let variable = &mut variables[number];
        variable.times += 1;
        variable.files.insert(shown.clone());
        if variable.applied && !fixed {
            replacements.push(Replacement { range, expression: format!("platform.{}", variable.name) });
        } else if variable.applied {
            let note = format!("{} stays in {}, which cannot be a template", variable.value, text.file);
            if !component.notes.contains(&note) {
                component.notes.push(note);
            }
        }
    }
    replacements.sort_by_key(|one| one.range.start);
    if !replacements.is_empty() {
        component.templates.insert(text.file.clone(), replacements);
    }
}
