//! Errors of reading.

use std::{error::Error as StdError, io, path::PathBuf};

use crate::name::{BadName, ComponentSelector, ComponentVersion, Sequence, Version};

/// An error of reading. Its cause, if there is one, is its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no name of a component. Correct the program.
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
        /// The system's error.
        source: io::Error,
    },

    /// This host's snapshot has no such component. It comes with a later snapshot, or the host's
    /// role lacks it.
    #[error("change {sequence} has no {component} for this host; `conf-local status` shows what the host runs")]
    NotExported {
        /// The requested component.
        component: ComponentSelector,
        /// The snapshot.
        sequence: Sequence,
    },

    /// The datacenter runs several versions of the component, and the program named none. Name one.
    #[error("{component} runs in several versions, name one: {}", several(.component, .versions))]
    SeveralVersions {
        /// The requested component.
        component: ComponentSelector,
        /// The versions, sorted.
        versions: Vec<Version>,
    },

    /// The component is exported as files alone (its pin says `raw: true`). Read its files instead.
    #[error("{component} is exported without settings, as files alone")]
    NoSettings {
        /// The component.
        component: ComponentVersion,
    },

    /// The component has no such file at this snapshot.
    #[error("{component} has no file {} at change {sequence}", .path.display())]
    NoFile {
        /// The component.
        component: ComponentVersion,
        /// The requested path.
        path: PathBuf,
        /// The snapshot.
        sequence: Sequence,
    },

    /// The path leads out of the component. Correct the program.
    #[error("{} is not a path inside a component; write one like certificates/web.pem", .path.display())]
    BadPath {
        /// The requested path.
        path: PathBuf,
    },

    /// The system gave no thread for work in the background. Raise the process's limits.
    #[error("cannot start a thread")]
    Thread {
        /// The system's error.
        source: io::Error,
    },

    /// A file of the export cannot be read. The next look at the export tries again.
    #[error("cannot read {}; run `conf-local verify`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The settings are not of the program's type. The last good value stays. Correct one of the
    /// two.
    #[error("the settings of {component} at change {sequence} do not fit the program")]
    Shape {
        /// The component.
        component: ComponentVersion,
        /// The snapshot that holds them.
        sequence: Sequence,
        /// The parser's error.
        source: Box<dyn StdError + Send + Sync>,
    },

    /// The agent of this host held the component back at this change: its files, if any, are of an
    /// older snapshot.
    ///
    /// An operation reads nothing older in its place. Remove the reason: the agent tries again, and
    /// also at a later change.
    #[error("{component} was held back on this host at change {sequence}: {reason}")]
    HeldBack {
        /// The component.
        component: ComponentVersion,
        /// The snapshot that holds it back.
        sequence: Sequence,
        /// The agent's reason.
        reason: String,
    },

    /// The deadline has passed, and the configuration of the pinned change is not here. It may come
    /// later.
    #[error("the configuration of change {sequence} is not on this host yet: {missing}")]
    NotHere {
        /// The pinned change.
        sequence: Sequence,
        /// The missing part, as far as it is known.
        missing: String,
    },

    /// This datacenter had no configuration yet at the pinned change. Asking again changes nothing.
    #[error("this datacenter had no configuration yet at change {sequence}")]
    NoneSoOld {
        /// The pinned change.
        sequence: Sequence,
    },
    /// conf-master was restored, and another history has taken the place of the operation's change.
    /// Begin the operation anew.
    #[error("{reason} (the operation began with change {sequence})")]
    Replaced {
        /// The change that the operation began with.
        sequence: Sequence,
        /// The agent's words.
        reason: String,
    },

    /// The program's own code, such as the drop of one of its values, panicked while a snapshot was
    /// taken. The next look tries again.
    #[error("the program's own code panicked while the configuration was taken")]
    Panicked,

    /// The export went back to an older snapshot, and the client stays on the newer one. Someone
    /// replaced the agent's state.
    #[error("the export went back to change {found}; this program stays on change {kept}")]
    WentBack {
        /// The client's snapshot.
        kept: Sequence,
        /// The export's snapshot.
        found: Sequence,
    },
}

impl Error {
    /// Returns the component, if the error is about one.
    pub(crate) fn component(&self) -> Option<&ComponentVersion> {
        match self {
            Error::Shape { component, .. }
            | Error::NoSettings { component }
            | Error::HeldBack { component, .. }
            | Error::NoFile { component, .. } => Some(component),
            _ => None,
        }
    }
}

/// Lists versions, as in `services/web/latest, services/web/v1.0`.
fn several(component: &ComponentSelector, versions: &[Version]) -> String {
    let names: Vec<String> = versions.iter().map(|version| format!("{}/{version}", component.component)).collect();
    names.join(", ")
}
