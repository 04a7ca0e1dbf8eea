//! One component of this host.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::client::{error::Error, files::Files, follow::Follower, typed::Typed};
use crate::name::ComponentSelector;

/// One component of this host: `<kind>/<name>`, with or without a version.
#[derive(Clone, Debug)]
pub struct Component {
    follower: Arc<Follower>,
    selector: ComponentSelector,
}

impl Component {
    pub(crate) fn new(follower: Arc<Follower>, selector: ComponentSelector) -> Self {
        Component { follower, selector }
    }

    /// Returns its name, as it was given.
    pub fn name(&self) -> &ComponentSelector {
        &self.selector
    }

    /// Makes a handle on its settings as a `T`, which follows every later snapshot.
    ///
    /// A program can start while the component is held back on this host. The value is then an
    /// older one, and [`Typed::last_error`] says so from the beginning.
    ///
    /// - Shape: the settings are one JSON object; `serde_json::Value` takes any. The following
    ///   thread parses `T`, whose parsing must not make handles of this client. Its drop may.
    /// - Errors: [`Error::Shape`] when the present settings are no `T`; [`Error::NoSettings`];
    ///   those of [`Client::component`](crate::client::Client::component), when a newer snapshot
    ///   has come since; [`Error::Read`].
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Typed<T>, Error> {
        Typed::start(Arc::clone(&self.follower), self.selector.clone())
    }

    /// Returns its present files, all of one snapshot, which stays while the result is held. If the
    /// component is held back on this host, they are older ones, see [`Files::held_back`].
    ///
    /// - Errors: those of [`Client::component`](crate::client::Client::component), when a newer
    ///   snapshot has come since; [`Error::Read`].
    pub fn files(&self) -> Result<Files, Error> {
        let snapshot = self.follower.snapshot();
        let (component, _) = snapshot.find(&self.selector, None)?;
        Files::open(snapshot, component)
    }
}
