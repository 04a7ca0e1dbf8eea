//! Settings that processes asked for, in memory until the next switch.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use conf_core::http::{self as answer, Response};
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;

use crate::state::Exported;

/// 1 MiB of settings is kept; more is read from disk each time.
const MOST_BYTES: usize = 1 << 20;

/// The settings of the snapshot that readers see, as far as somebody has asked for them.
#[derive(Default)]
pub struct Remembered(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    /// The export that they are from.
    of: Option<Arc<Exported>>,
    bytes: usize,
    /// By the words that name the component, and whether the caller may see secrets.
    settings: HashMap<(String, bool), Settings>,
}

/// A component's settings, and what is said of them in the head of an answer.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) json: Bytes,
    pub(crate) tag: HeaderValue,
    pub(crate) sequence: HeaderValue,
    pub(crate) component: HeaderValue,
    /// They hold secrets, which stay in memory no longer than needed.
    pub(crate) is_secret: bool,
}

impl Remembered {
    /// Finds what was read of this very export.
    pub(crate) fn find(&self, exported: &Arc<Exported>, component: &str, may_see: bool) -> Option<Settings> {
        let shelf = self.0.lock();
        shelf.of.as_ref().filter(|of| Arc::ptr_eq(of, exported))?;
        shelf.settings.get(&(component.to_owned(), may_see)).cloned()
    }

    /// Keeps what was read of `exported` after it was switched to.
    pub(crate) fn keep(&self, exported: &Arc<Exported>, component: &str, may_see: bool, settings: &Settings) {
        let mut shelf = self.0.lock();
        if !shelf.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, exported)) {
            *shelf = Shelf { of: Some(exported.clone()), ..Shelf::default() };
        }
        if !settings.is_secret && shelf.bytes + settings.json.len() <= MOST_BYTES {
            shelf.bytes += settings.json.len();
            shelf.settings.insert((component.to_owned(), may_see), settings.clone());
        }
    }
}

impl Settings {
    /// Answers a caller that may have them already: `known` is its `If-None-Match`.
    pub(crate) fn answer(self, known: Option<&str>) -> Response {
        let tag = self.tag.to_str().unwrap_or_default();
        let is_known =
            |known: &str| known == "*" || known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag);
        let mut response = if known.is_some_and(is_known) {
            answer::bytes_of(StatusCode::NOT_MODIFIED, "application/json", Bytes::new())
        } else {
            answer::bytes_of(StatusCode::OK, "application/json", self.json)
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag);
        headers.insert("conf-sequence", self.sequence);
        headers.insert("conf-component", self.component);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use libconf::name::{CommitId, Sequence};

    use super::*;

    #[test]
    fn what_is_kept_is_of_one_export_and_of_one_sort_of_caller() {
        let exported = || {
            let (directory, components) = (PathBuf::new(), BTreeMap::new());
            Arc::new(Exported { sequence: Sequence(1), commit: CommitId::ZERO, directory, components })
        };
        let text = HeaderValue::from_static("\"1\"");
        let settings = |bytes: usize| Settings {
            json: vec![b' '; bytes].into(),
            tag: text.clone(),
            sequence: text.clone(),
            component: text.clone(),
            is_secret: false,
        };
        let (remembered, first, second) = (Remembered::default(), exported(), exported());
        remembered.keep(&first, "services/web", true, &settings(10));
        assert!(remembered.find(&first, "services/web", true).is_some());
        assert!(remembered.find(&first, "services/web", false).is_none(), "others may not see secrets");
        assert!(remembered.find(&second, "services/web", true).is_none(), "the same change was exported again");
        remembered.keep(&second, "services/secret", true, &Settings { is_secret: true, ..settings(1) });
        assert!(remembered.find(&second, "services/secret", true).is_none());
        remembered.keep(&second, "services/web", true, &settings(MOST_BYTES));
        remembered.keep(&second, "services/other", true, &settings(1));
        assert!(remembered.find(&first, "services/web", true).is_none());
        assert!(remembered.find(&second, "services/web", true).is_some());
        assert!(remembered.find(&second, "services/other", true).is_none(), "there is no room for it");
    }
}
