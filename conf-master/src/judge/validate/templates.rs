//! Renders the templates of a component for each group of hosts, and remembers those that exceed
//! their time.

use std::{collections::BTreeSet, time::Duration};

use conf_core::http::Share;
use conf_core::layers::{self, Origin, Sources};
use conf_core::render::{RenderError, Secrets, Templates};
use conf_core::settings::SettingsFault;
use git2::Repository;
use libconf::name::{ComponentVersion, HostName, ObjectId};

use crate::catalog::DatacenterView;
use crate::fault::{Caused, Fault};
use crate::judge::effort::{self, Effort};
use crate::judge::timeouts::{TimeoutCache, TimeoutState};
use crate::judge::validate::case::Case;

/// The processor time that one look may spend on the templates of one component, since landings
/// wait for it. Honest templates take a millisecond for each group of hosts.
const TIME: Duration = Duration::from_secs(20);

/// What bounds the trials of templates.
#[derive(Clone, Copy)]
pub(crate) struct Trials<'a> {
    /// The trees of components whose templates exceeded their time.
    pub(crate) timeouts: &'a TimeoutCache<ObjectId, SettingsFault>,
    /// What the push may use.
    pub(crate) effort: &'a Effort,
    /// Waits until it is this push's turn to render.
    pub(crate) place: &'a dyn Fn() -> Option<Share>,
}

/// The fault of templates that take longer than `TIME`.
const TOO_LONG: &str = "this component's templates take more than 20 s of processor time for all hosts together; let them \
                        do less, or let fewer variables differ by host";

/// Finds the templates that cannot be rendered on some group of hosts, and marks those groups.
pub(crate) fn faults(
    repo: &Repository,
    trials: Trials<'_>,
    view: &DatacenterView<'_>,
    name: &ComponentVersion,
    sources: &Sources<'_>,
    cases: &mut [Case],
) -> Result<Vec<Caused>, git2::Error> {
    let reference = view.reference(name, &Origin::Component);
    let fault = |SettingsFault { file, line, reason }, host: Option<&HostName>| {
        let mut fault = Fault { host: host.cloned(), ..Fault::of_file(&reference, &file, line, reason) };
        fault.file = fault.file.filter(|file| !file.is_empty());
        // Without a file it is about all templates of the component, and none of them was looked
        // at.
        fault.hides_others = fault.file.is_none();
        Caused { fault, causes: view.causes(name, reference.clone()) }
    };
    let templates = match Templates::read(repo, sources) {
        Ok(Some(templates)) => templates,
        Ok(None) => return Ok(Vec::new()),
        Err(RenderError::Repository(error)) => return Err(error),
        Err(RenderError::Templates(faults)) => {
            mark(cases);
            return Ok(faults.into_iter().map(|one| fault(one, None)).collect());
        }
        Err(RenderError::Fault(reason)) => {
            mark(cases);
            return Ok(vec![fault(without_place(&reason), None)]);
        }
    };
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(timed_out) = known_timeout(&trials, sources.component_tree) {
        mark(cases);
        let Caused { fault, causes } = fault(timed_out, None);
        return Ok(vec![Caused { fault: Fault { hides_others: true, ..fault }, causes }]);
    }
    let secrets = Secrets::by_name(sources, &name.component);
    let by_host = layers::differ_by_host(repo, sources)?;
    let (mut found, mut told) = (Vec::new(), BTreeSet::new());
    let (mut left, mut over) = (TIME, false);
    let _place = (trials.place)();
    for case in cases {
        if over {
            case.is_faulty = true;
            continue;
        }
        let used_up = if left.is_zero() { Some(TOO_LONG) } else { trials.effort.is_over().then_some(effort::TOO_MUCH) };
        if let Some(words) = used_up {
            (over, case.is_faulty) = (true, true);
            found.push(fault(without_place(words), None));
            continue;
        }
        let looked = templates.look(sources, name, case.host.as_ref(), &case.settings, &secrets);
        left = left.saturating_sub(looked.spent);
        trials.effort.spend(looked.spent);
        if looked.endless {
            // The next host would take as long again.
            over = true;
            let first = looked.faults.first().cloned();
            let told = first.unwrap_or_else(|| without_place(""));
            trials.timeouts.remember(sources.component_tree, trials.effort.who(), told);
        }
        case.is_faulty |= !looked.faults.is_empty();
        for one in looked.faults {
            // A fault that many hosts have in common is told once, for the first of them.
            if told.insert((one.file.clone(), one.line, one.reason.clone())) {
                let mut one = fault(one, case.host.as_ref().filter(|_| by_host || case.is_of_hosts()));
                // Without a line it is about the process that renders.
                one.fault.hides_others |= looked.endless || one.fault.line.is_none();
                found.push(one);
            }
        }
    }
    Ok(found)
}

fn mark(cases: &mut [Case]) {
    cases.iter_mut().for_each(|case| case.is_faulty = true);
}

/// Returns the fault of templates that are not rendered, because they or others exceeded their
/// time.
fn known_timeout(trials: &Trials<'_>, tree: ObjectId) -> Option<SettingsFault> {
    match trials.timeouts.state(&tree, trials.effort.who()) {
        TimeoutState::Untried => None,
        TimeoutState::TimedOut(told) => {
            let reason = format!("{} So it was less than a minute ago; try again after that minute.", told.reason);
            Some(SettingsFault { reason, ..told })
        }
        TimeoutState::TooMany => {
            Some(without_place("other templates took up all the time there is; push again in a minute"))
        }
    }
}

fn without_place(reason: &str) -> SettingsFault {
    SettingsFault { file: String::new(), line: None, reason: reason.to_owned() }
}
