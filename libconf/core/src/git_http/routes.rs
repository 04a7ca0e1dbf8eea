//! The routes below `/conf.git`.

use std::sync::Arc;

use http::StatusCode;
use warp::Filter as _;

use crate::{
    git_http::{receive::ReceivePack, upload::UploadPack},
    http::{self as answers, Request, Response, Routes},
};

/// `/conf.git/info/refs`, `/conf.git/git-upload-pack` and, where pushes are taken,
/// `/conf.git/git-receive-pack`.
pub fn git_routes(upload: Arc<UploadPack>, receive: Option<Arc<ReceivePack>>) -> Routes {
    let (uploading, receiving) = (upload.clone(), receive.clone());
    let refs = warp::path!("conf.git" / "info" / "refs").and(warp::get()).and(answers::request()).then(
        move |request: Request| {
            let (upload, receive) = (uploading.clone(), receiving.clone());
            async move {
                match (request.query.as_str(), receive) {
                    ("service=git-upload-pack", _) => upload.advertise(request).await,
                    ("service=git-receive-pack", Some(receive)) => receive.advertise(request).await,
                    ("service=git-receive-pack", None) => read_only(),
                    _ => answers::error(StatusCode::FORBIDDEN, "use a Git client of version 1.6.6 or newer"),
                }
            }
        },
    );
    let fetches = warp::path!("conf.git" / "git-upload-pack").and(warp::post()).and(answers::request()).then(
        move |request: Request| {
            let upload = upload.clone();
            async move { upload.serve(request).await }
        },
    );
    let pushes = warp::path!("conf.git" / "git-receive-pack").and(warp::post()).and(answers::request()).then(
        move |request: Request| {
            let receive = receive.clone();
            async move {
                match receive {
                    Some(receive) => receive.serve(request).await,
                    None => read_only(),
                }
            }
        },
    );
    refs.boxed().or(fetches.boxed()).unify().or(pushes.boxed()).unify().boxed()
}

fn read_only() -> Response {
    answers::error(StatusCode::FORBIDDEN, "this is a cache; push to conf-master")
}
