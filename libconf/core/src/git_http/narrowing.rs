//! Fetches of somebody who reads a part of the repository: the refs of that part are listed, and
//! nothing else may be asked for.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    access::Principal,
    git_http::{
        answer::{not_our_ref, whole},
        failure::Failure,
        narrow::{Command, command},
        part::{Narrowed, Part, Parts, expect_second_version},
        upload::{RESULT, STEP_PATIENCE, UploadPack},
    },
    http::Who,
};

impl UploadPack {
    /// Shows readers their parts from now on; before, everybody reads all. Only the first call
    /// counts.
    pub fn show_parts(&self, parts: Arc<Parts>) {
        let _ = self.parts.set(parts);
    }

    /// The part that somebody reads; `None` for all of it.
    pub(crate) fn part_of(&self, who: &Principal) -> Option<Arc<dyn Part>> {
        self.parts.get().and_then(|parts| (parts.0)(who))
    }

    /// Answers a list, refuses what somebody may not have, and takes out of a fetch what would tell
    /// of something else.
    pub(crate) async fn narrowed(
        &self,
        part: Arc<dyn Part>,
        protocol: &str,
        request: Bytes,
        who: Who,
    ) -> Result<Narrowed, Failure> {
        expect_second_version(protocol)?;
        let command = command(&request)?;
        let place = self.place(&self.light, who, STEP_PATIENCE).await?;
        // The place is kept to the end of the work, even when its reader has gone.
        let working = tokio::spawn(async move {
            let _place = place;
            match command {
                Command::List(list) => {
                    let refs = part.refs().await.map_err(Failure::Git)?;
                    Ok(Narrowed::Answered(whole(RESULT, list.answer(&refs))))
                }
                Command::Fetch(fetch) => {
                    let readable = part.readable(fetch.named()).await.map_err(Failure::Git)?;
                    Ok(match fetch.within(&readable, request) {
                        Ok(request) => Narrowed::Request(request),
                        Err(id) => Narrowed::Answered(whole(RESULT, not_our_ref(id))),
                    })
                }
            }
        });
        working.await.map_err(|ended| Failure::Git(ended.to_string()))?
    }
}
