//! Git over smart HTTP, and over a connection such as SSH's: `git upload-pack` behind a cache of
//! answers, and `git receive-pack`.

mod failure;
mod pipe;
mod child;
mod answer;
mod wants;
mod weight;
mod commands;
mod part;
mod narrow;
mod limits;
mod upload;
mod narrowing;
mod receive;
mod conversation;
mod routes;

#[cfg(test)]
pub(crate) use crate::git_http::wants::wanted;
pub use crate::git_http::{
    limits::{Counts, UploadLimits},
    part::{Asked, Part, Parts, ShownRef},
    receive::{HookEnvironment, ListedRefs, MOST_REFS, ReceivePack},
    routes::git_routes,
    upload::UploadPack,
    wants::WantCheck,
};
