//! A key as a lock: one program holds it by a session, which ends with the program's word to the
//! catalog.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::consul::catalog::check_of;
use crate::consul::client::{Consul, ConsulError, check_key};
use crate::consul::operation::{Operation, Outcome};

/// The deadline of each request.
const DEADLINE: Duration = Duration::from_secs(3);

/// A session, by which a program holds keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionId(String);

impl SessionId {
    /// A session by the name that a key shows.
    pub fn of(session: &str) -> Self {
        SessionId(session.to_owned())
    }

    /// Tells whether this session holds what was read as the session of a key.
    pub fn holds(&self, held_by: Option<&str>) -> bool {
        held_by == Some(self.0.as_str())
    }
}

impl Consul {
    /// Makes a session that ends when the instance `id` of a service is critical at this agent, or
    /// when the agent's machine is. The instance must be passing. For `lock_delay` after that
    /// nobody gets what it held.
    ///
    /// - Errors: `Denied` (the ACL token needs `session:write`).
    /// - Source: Consul HTTP API, "Create Session".
    pub async fn create_session(&self, id: &str, lock_delay: Duration) -> Result<SessionId, ConsulError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Made {
            #[serde(rename = "ID")]
            id: String,
        }
        let body = json!({
            "Name": id, "Behavior": "release", "LockDelay": format!("{}ms", lock_delay.as_millis()),
            "NodeChecks": ["serfHealth"], "ServiceChecks": [{"ID": check_of(id)}],
        });
        let answer = self.ask(Method::PUT, "/v1/session/create", Some(body.to_string().into()), DEADLINE).await?;
        let made: Made = serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(error))?;
        check_key(&made.id)?;
        Ok(SessionId(made.id))
    }

    /// Ends a session: what it held is free at once.
    pub async fn destroy_session(&self, session: &SessionId) -> Result<(), ConsulError> {
        check_key(&session.0)?;
        let path = format!("/v1/session/destroy/{}", session.0);
        self.ask(Method::PUT, &path, None, DEADLINE).await?;
        Ok(())
    }

    /// Takes a key as a lock, and writes its value with it, if it still has the index with which it
    /// was read; `None` is a key that is absent. False where it was written since, where another
    /// session holds it, or held it a moment ago.
    ///
    /// - Errors: after `Unreachable` it may be held or not; read the key before anything else.
    pub async fn acquire(
        &self,
        key: &str,
        value: &[u8],
        session: &SessionId,
        index: Option<u64>,
    ) -> Result<bool, ConsulError> {
        let (key, session) = (key.to_owned(), session.0.clone());
        let unchanged = match index {
            Some(index) => Operation::CheckIndex { key: key.clone(), index },
            None => Operation::CheckNotExists { key: key.clone() },
        };
        let lock = Operation::Lock { key, value: value.to_vec(), session };
        Ok(matches!(self.transaction(&[unchanged, lock]).await?, Outcome::Committed(_)))
    }

    /// Writes the value of a key that a session holds, if it still has this index; returns its next
    /// index, or `None` where it is another one or held by somebody else.
    pub async fn swap_held(
        &self,
        key: &str,
        value: &[u8],
        session: &SessionId,
        index: u64,
    ) -> Result<Option<u64>, ConsulError> {
        let operations = [
            Operation::CheckSession { key: key.to_owned(), session: session.0.clone() },
            Operation::Cas { key: key.to_owned(), value: value.to_vec(), flags: 0, index },
        ];
        match self.transaction(&operations).await? {
            Outcome::Committed(entries) => Ok(entries.last().map(|entry| entry.index)),
            Outcome::Conflict(_) => Ok(None),
        }
    }
}
