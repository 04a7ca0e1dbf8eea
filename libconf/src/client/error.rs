use std::{error::Error as StdError, fmt, io, path::PathBuf};

use crate::name::{BadName, ComponentSelector, ComponentVersion, Sequence, Version};

/// Why something cannot be read; the cause, where there is one, is its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of a component is not one. Mend the program.
    #[error(transparent)]
    Name(#[from] BadName),

    /// No snapshot can be read there. Try again once the agent has exported one.
    #[error(
        "no configuration is exported to {}; start `conf-local run`, or name the agent's export directory with \
         CONF_EXPORT_DIR", .dir.display()
    )]
    NoExport {
        /// The export directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// This host's snapshot has no such component. It comes with a later snapshot, or the host's role lacks it.
    #[error("change {sequence} has no {component} for this host; `conf-local status` shows what the host runs")]
    NotExported {
        /// What was asked for.
        component: ComponentSelector,
        /// In which snapshot.
        sequence: Sequence,
    },

    /// The datacenter runs several versions of the component, and none was named. Name one.
    #[error("{component} runs in several versions, name one: {}", Several(.component, .versions))]
    SeveralVersions {
        /// What was asked for.
        component: ComponentSelector,
        /// The versions, sorted.
        versions: Vec<Version>,
    },

    /// The component is exported as files alone (its pin says `raw: true`). Read its files instead.
    #[error("{component} is exported without settings, as files alone")]
    NoSettings {
        /// Which component.
        component: ComponentVersion,
    },

    /// The component has no such file at this snapshot.
    #[error("{component} has no file {} at change {sequence}", .path.display())]
    NoFile {
        /// Which component.
        component: ComponentVersion,
        /// The path that was asked for.
        path: PathBuf,
        /// In which snapshot.
        sequence: Sequence,
    },

    /// The path leads out of the component. Mend the program.
    #[error("{} is not a path inside a component; write one like certificates/web.pem", .path.display())]
    BadPath {
        /// The path that was asked for.
        path: PathBuf,
    },

    /// The system gave no thread for what has to wait in the background. Mend the process's limits.
    #[error("cannot start a thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },

    /// A file of the export cannot be read. It is tried again with the next look at the export.
    #[error("cannot read {}; run `conf-local verify`", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The settings are not of the type that the program wants. The last good value stays; mend one of the two.
    #[error("the settings of {component} at change {sequence} do not fit the program")]
    Shape {
        /// Which component.
        component: ComponentVersion,
        /// The snapshot that holds them.
        sequence: Sequence,
        /// Which member, and what was expected.
        source: Box<dyn StdError + Send + Sync>,
    },

    /// At this change the component was held back on this host, whose files of it, if any, are of an older snapshot.
    ///
    /// An operation reads nothing older in its place. Mend what holds it back; the agent tries again, and a later change
    /// brings it as well.
    #[error("{component} was held back on this host at change {sequence}: {reason}")]
    HeldBack {
        /// Which component.
        component: ComponentVersion,
        /// The snapshot that holds it back.
        sequence: Sequence,
        /// Why, in the agent's words.
        reason: String,
    },

    /// The deadline has passed and the configuration of the pinned change is not at hand. It may be later.
    #[error("the configuration of change {sequence} is not on this host yet: {missing}")]
    NotHere {
        /// The pinned change.
        sequence: Sequence,
        /// What is missing, as far as it is known.
        missing: String,
    },

    /// This datacenter had no configuration at the pinned change, nor before it. Asking again changes nothing.
    #[error("this datacenter had no configuration yet at change {sequence}")]
    NoneSoOld {
        /// The pinned change.
        sequence: Sequence,
    },

    /// The program's own code, such as the end of one of its values, panicked while a snapshot was taken. It is tried again.
    #[error("the program's own code panicked while the configuration was taken")]
    Panicked,

    /// The export went back to an older snapshot, and the client stays on the newer. The agent's state was replaced.
    #[error("the export went back to change {found}; this program stays on change {kept}")]
    WentBack {
        /// What the client keeps.
        kept: Sequence,
        /// What the export holds.
        found: Sequence,
    },
}

impl Error {
    /// Which component it is about, where it is about one.
    pub(super) fn component(&self) -> Option<&ComponentVersion> {
        match self {
            Error::Shape { component, .. }
            | Error::NoSettings { component }
            | Error::HeldBack { component, .. }
            | Error::NoFile { component, .. } => Some(component),
            _ => None,
        }
    }
}

/// `services/web/latest, services/web/v1.0`
struct Several<'a>(&'a ComponentSelector, &'a [Version]);

impl fmt::Display for Several<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.iter().enumerate().try_for_each(|(at, version)| {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}/{version}", self.0.component)
        })
    }
}
