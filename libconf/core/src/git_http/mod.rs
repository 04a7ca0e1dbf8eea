//! Git over smart HTTP: `git upload-pack` behind a cache of answers, and `git receive-pack`.

mod child;
mod answer;
mod upload;
mod receive;
mod routes;

pub use crate::git_http::{
    receive::ReceivePack,
    routes::git_routes,
    upload::{Counts, UploadLimits, UploadPack},
};
