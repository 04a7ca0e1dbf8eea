//! A conf-master that was promoted tells the one before it, which may still run or come back: that
//! one ends, and does not start again.

use std::time::Duration;

use conf_core::api::{KeyStatement, KeysEvent};
use conf_core::daemon::chain;
use conf_core::sign::{SigningKey, TrustedKeys};
use conf_core::upstream::{UpstreamError, Upstreams};
use http::StatusCode;
use tracing::{debug, error, info};

use crate::landing::Lander;

/// The path at which a conf-master learns that another one goes on with its history.
pub(crate) const PATH: &str = "api/v1/succession";

/// The pause between two tries.
const AGAIN: Duration = Duration::from_secs(3);

/// Why statements end no server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSuccession {
    /// They begin no later epoch than this server's own.
    #[error("these statements begin no epoch after this one's")]
    NotLater,
    /// Both servers go on with one history, each in its own way.
    #[error(
        "two servers go on with one history, each with a succession of its own: conf-slaves and hosts follow the one whose \
         succession they have seen first. Stop one of them"
    )]
    Two,
    /// This server's key has not signed them.
    #[error("the key of this conf-master has not signed these statements: {0}")]
    Unsigned(String),
}

/// Looks whether `told` statements end the server that has `own` ones and signs with `key`; says
/// how, in words.
pub(crate) fn judge(own: &[KeyStatement], told: &[KeyStatement], key: &SigningKey) -> Result<String, NoSuccession> {
    if !told.starts_with(own) {
        return Err(if own.starts_with(told) { NoSuccession::NotLater } else { NoSuccession::Two });
    }
    let Some((continues, from)) = told[own.len()..].iter().find_map(|one| Some((one.continues?, one.from))) else {
        return Err(NoSuccession::NotLater);
    };
    let trusted = TrustedKeys::of(key);
    trusted.follow(told).map_err(|error| NoSuccession::Unsigned(chain(&error)))?;
    Ok(format!(
        "another conf-master leads in the place of this one, from #{from} on; what landed here after #{continues} is replaced"
    ))
}

/// Tells the conf-master that was followed, until it knows.
pub(crate) async fn tell(servers: &Upstreams, lander: &Lander) {
    loop {
        let statements = lander.published.borrow().keys.to_vec();
        for server in servers.in_order() {
            match server.post_json::<_, serde_json::Value>(PATH, &KeysEvent { statements: statements.clone() }).await {
                Ok(_) => {
                    info!(server = %server.url(), "the conf-master before this one knows that it leads no more");
                    return;
                }
                Err(UpstreamError::Refused { status: StatusCode::CONFLICT, words, .. }) => {
                    error!(server = %server.url(), "{words}");
                    return;
                }
                Err(error) => {
                    debug!(server = %server.url(), error = chain(&error), "the conf-master before this one is not told");
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use conf_core::sign::sign_succession;
    use libconf::name::Sequence;

    use super::*;

    #[test]
    fn only_a_succession_of_this_history_ends_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| SigningKey::generate(&folder.path().join(name), name).unwrap();
        let (own, other) = (key("own"), key("other"));
        let first = |key: &SigningKey| sign_succession(&[], (Sequence(5), Sequence(2000)), 0, key).unwrap();
        let told = [first(&own)];
        let words = judge(&[], &told, &own).unwrap();
        assert!(words.contains("from #2000 on") && words.contains("after #5"), "{words}");
        assert_eq!(judge(&told, &told, &own), Err(NoSuccession::NotLater));
        assert_eq!(judge(&told, &[], &own), Err(NoSuccession::NotLater));
        assert!(matches!(judge(&[], &[first(&other)], &own), Err(NoSuccession::Unsigned(_))));
        let twin = [sign_succession(&[], (Sequence(4), Sequence(2000)), 0, &own).unwrap()];
        assert_eq!(judge(&told, &twin, &own), Err(NoSuccession::Two));
    }
}
