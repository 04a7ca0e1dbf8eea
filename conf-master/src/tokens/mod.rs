//! Tokens for those who ask, over HTTP or at the server's own machine: makes them, lists them, ends
//! them; and `joining`, which lets hosts join by one.

mod joining;

pub(crate) use crate::tokens::joining::{Joiner, run};

use std::collections::{BTreeMap, BTreeSet};

use conf_core::access::{Scope, Token, TokenEntry, TokenId};
use conf_core::http::TokenUse;
use libconf::name::{GroupName, PrincipalName, Sequence};
use serde::{Deserialize, Serialize};

use crate::access::{AccessRequest, NewToken};
use crate::fault::Refusal;
use crate::landing::{Lander, Push, Pusher};
use crate::text::{now, when};

/// What somebody asks about tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TokenCall {
    /// All of them.
    List,
    /// A new one.
    Add(NewToken),
    /// The end of one.
    Revoke(TokenId),
    /// A suspended one is good again.
    Resume(TokenId),
    /// The end of a join token and of all hosts that joined by it.
    RevokeJoined(TokenId),
    /// A new one in place of one, which ends after so many seconds.
    Rotate(TokenId, u32),
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct TokenAnswer {
    /// The new token, which is shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// How the new token is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<TokenId>,
    /// The number of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<Sequence>,
    /// What was done, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The list that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<Vec<ListedToken>>,
}

/// A token as people see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ListedToken {
    /// How it is named.
    pub(crate) id: TokenId,
    /// Whom it proves.
    pub(crate) name: PrincipalName,
    /// The groups that it gives.
    pub(crate) groups: BTreeSet<GroupName>,
    /// What it is for.
    pub(crate) scope: Scope,
    /// When it was made; like the other times in UTC.
    pub(crate) created: String,
    /// Who made it.
    pub(crate) by: String,
    /// When it ends by itself.
    pub(crate) expires: Option<String>,
    /// When somebody revoked it.
    pub(crate) revoked: Option<String>,
    /// When a restore suspended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) suspended: Option<String>,
    /// The last request with it.
    pub(crate) used: Option<String>,
    /// Where that came from.
    pub(crate) used_from: Option<String>,
    /// The join token by which it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) joined_by: Option<TokenId>,
    /// How many hosts may join by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hosts: Option<u32>,
    /// It proves its name now.
    pub(crate) good: bool,
    /// It is the key of a host that joined, and no token.
    #[serde(default)]
    pub(crate) key: bool,
}

impl Lander {
    /// Answers a call about tokens; `uses` are the last requests with each.
    pub(crate) async fn tokens(
        &self,
        call: TokenCall,
        pusher: &Pusher,
        uses: &BTreeMap<TokenId, TokenUse>,
    ) -> Result<TokenAnswer, Vec<Option<Refusal>>> {
        let (request, token) = match call {
            TokenCall::List => {
                let table = self.access.borrow().clone();
                let listed = table.tokens().map(|one| listed(one, uses.get(&one.id())));
                return Ok(TokenAnswer { tokens: Some(listed.collect()), ..TokenAnswer::default() });
            }
            TokenCall::Revoke(id) => (AccessRequest::Revoke(id), None),
            TokenCall::Resume(id) => (AccessRequest::Resume(id), None),
            TokenCall::RevokeJoined(id) => (AccessRequest::RevokeJoined(id), None),
            TokenCall::Add(new) => {
                let token = new_for(&new.scope);
                (AccessRequest::Add(token.hash(), new), Some(token))
            }
            TokenCall::Rotate(id, overlap) => {
                let scope = self.access.borrow().by_id(&id).map(|one| one.scope.clone());
                let token = new_for(&scope.unwrap_or_default());
                (AccessRequest::Rotate(id, token.hash(), overlap), Some(token))
            }
        };
        let outcome = self.land(Push::access(request, pusher)).await;
        if outcome.sequence.is_none() {
            return Err(outcome.refusals);
        }
        let id = token.as_ref().map(|token| token.hash().id());
        let token = token.map(|token| token.reveal().to_owned());
        Ok(TokenAnswer { token, id, sequence: outcome.sequence, notes: outcome.notes, tokens: None })
    }
}

fn new_for(scope: &Scope) -> Token {
    match scope {
        Scope::Join(_) => Token::generate_for_joining(),
        Scope::Policy | Scope::Slave(_) | Scope::Host { .. } => Token::generate(),
    }
}

fn listed(one: &TokenEntry, used: Option<&TokenUse>) -> ListedToken {
    ListedToken {
        id: one.id(),
        name: one.name.clone(),
        groups: one.groups.clone(),
        scope: one.scope.clone(),
        created: when(one.created),
        by: one.by.clone(),
        expires: one.expires.map(when),
        revoked: one.revoked.map(when),
        suspended: one.suspended.map(when),
        used: used.map(|used| when(used.at)),
        used_from: used.map(|used| used.from.clone()),
        joined_by: one.joined_by.clone(),
        hosts: one.hosts,
        good: one.fault(now()).is_none(),
        key: one.key.is_some(),
    }
}
