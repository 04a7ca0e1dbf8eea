//! The part of a repository that somebody reads.

use std::{collections::BTreeSet, fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use libconf::name::ObjectId;

use crate::{access::Principal, git_http::failure::Failure, http::Response};

/// A part of the repository, as it is now.
pub trait Part: Send + Sync {
    /// Its refs, in order.
    fn refs(&self) -> Asked<'_, Vec<ShownRef>>;

    /// Finds those of these commits and tags that are in it: what its refs name, and what is in the
    /// history of that.
    fn readable(&self, named: BTreeSet<ObjectId>) -> Asked<'_, BTreeSet<ObjectId>>;
}

/// What is found out about a part; an error says why it is not.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// A ref as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRef {
    /// Its full name.
    pub name: String,
    /// What it names.
    pub id: ObjectId,
    /// The commit of the tag that it names.
    pub peeled: Option<ObjectId>,
}

/// Finds the part that somebody reads; `None` for whoever reads all of it.
pub struct Parts(pub(crate) Box<Find>);

type Find = dyn Fn(&Principal) -> Option<Arc<dyn Part>> + Send + Sync;

impl Parts {
    /// Asks `find`.
    pub fn new(find: impl Fn(&Principal) -> Option<Arc<dyn Part>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Parts(Box::new(find)))
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// What is done with a request.
pub(crate) enum Narrowed {
    /// It is answered so.
    Answered(Response),
    /// Git answers this one in its place.
    Request(Bytes),
}

/// In the versions before, the server lists every ref unasked.
pub(crate) fn expect_second_version(protocol: &str) -> Result<(), Failure> {
    if protocol == "version=2" {
        return Ok(());
    }
    Err(Failure::Partial)
}
