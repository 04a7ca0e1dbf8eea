use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Error, Files, Typed, follow::Follower};
use crate::name::ComponentSelector;

/// One component of this host: `<kind>/<name>`, with or without a version.
#[derive(Clone, Debug)]
pub struct Component {
    follower: Arc<Follower>,
    selector: ComponentSelector,
}

impl Component {
    pub(super) fn new(follower: Arc<Follower>, selector: ComponentSelector) -> Self {
        Component { follower, selector }
    }

    /// Its name, as it was given.
    pub fn name(&self) -> &ComponentSelector {
        &self.selector
    }

    /// A handle on its settings as a `T`, which follows every later snapshot.
    ///
    /// A program can start while the component is held back on this host: the value is then an older one, and
    /// [`Typed::last_error`] says so from the beginning.
    ///
    /// - Shape: the settings are one JSON object; `serde_json::Value` takes any. `T` is parsed by the following thread, and
    ///   must not make handles of this client while it is; it may when it is dropped.
    /// - Errors: [`Error::Shape`] when the present settings are no `T`; [`Error::NoSettings`]; those of
    ///   [`Client::component`](super::Client::component), when a newer snapshot came since; [`Error::Read`].
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Typed<T>, Error> {
        Typed::start(Arc::clone(&self.follower), self.selector.clone())
    }

    /// Its files as they are now: all of one snapshot, which stays while the result is held. Of a component that is held back
    /// on this host they are older ones, see [`Files::held_back`].
    ///
    /// - Errors: those of [`Client::component`](super::Client::component), when a newer snapshot came since; [`Error::Read`].
    pub fn files(&self) -> Result<Files, Error> {
        let snapshot = self.follower.snapshot();
        let (component, _) = snapshot.find(&self.selector, None)?;
        Files::open(snapshot, component)
    }
}
