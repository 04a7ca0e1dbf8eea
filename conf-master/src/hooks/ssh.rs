//! The server's side of `conf-master receive`: what clients over SSH say reaches Git through here,
//! as what they say over HTTP does.

use std::{net::IpAddr, sync::Arc, time::Duration};

use conf_core::access::Principal;
use conf_core::audit::{AuditEntry, AuditLog, Verdict};
use conf_core::git_http::{HookEnvironment, ReceivePack, UploadPack};
use conf_core::http::{ShareBounds, Shares, Who};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::hooks::protocol::{PUSH_VARIABLE, SshAnswer, SshCall, SshService};
use crate::hooks::pushers::{Pushers, account, named};
use crate::landing::{Published, Pusher};
use crate::text::one_line;

/// 16 pushes and 16 fetches at once, a quarter of them for one peer. They go on at the pace of
/// their clients, so these places are not those of programs of Git.
const AT_ONCE: u64 = 16;
/// 2 hours: twice what `conf-master receive` takes unless told otherwise. Others of the group may
/// come to the socket without it.
const LONGEST: Duration = Duration::from_secs(7200);

/// Git for clients over SSH.
#[derive(Clone, Debug)]
pub(crate) struct OverSsh {
    receive: Arc<ReceivePack>,
    upload: Arc<UploadPack>,
    pushes: Shares,
    fetches: Shares,
    published: watch::Receiver<Arc<Published>>,
    /// Whose word counts for the owner of a key, besides root's and this program's own user's.
    speaker: Option<u32>,
    audit: AuditLog,
}

impl OverSsh {
    /// Passes clients on to these. `speaker` is the user whom sshd runs `conf-master receive` as.
    pub(crate) fn new(
        receive: Arc<ReceivePack>,
        upload: Arc<UploadPack>,
        published: watch::Receiver<Arc<Published>>,
        speaker: Option<u32>,
        audit: AuditLog,
    ) -> Self {
        let shares = || Shares::new(ShareBounds { places: AT_ONCE, of_one: AT_ONCE / 4, waiting: 0 });
        OverSsh { receive, upload, pushes: shares(), fetches: shares(), published, speaker, audit }
    }

    /// Talks with a client that came to `user` of this machine, until either side ends.
    pub(crate) async fn converse(
        &self,
        call: SshCall,
        user: u32,
        socket: UnixStream,
        pushers: &Pushers,
    ) -> anyhow::Result<()> {
        // sshd says from where. Whoever may come to the socket may say so: the administrator of
        // this machine has chosen them.
        let who = call.from.parse::<IpAddr>().map_or(Who::User(user), Who::from);
        let places = match call.service {
            SshService::ReceivePack => &self.pushes,
            SshService::UploadPack => &self.fetches,
        };
        let place = places.try_take(who, 1);
        let pusher = self.pusher(&call, user, who);
        let objection = self.objection(&pusher.principal, call.service);
        if let Some(words) = &objection {
            self.note_denied(&pusher, call.service, words);
        }
        let is_let_in = place.is_some() && objection.is_none();
        let answer = match (&place, objection) {
            (Some(_), None) => SshAnswer::Begin,
            (Some(_), Some(words)) => SshAnswer::Refused(words),
            (None, _) => {
                SshAnswer::Refused("too many pushes or fetches over SSH at once; try again in a moment".to_owned())
            }
        };
        let (reader, mut writer) = socket.into_split();
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        match call.service {
            _ if !is_let_in => {}
            SshService::ReceivePack => {
                let principal = pusher.principal.clone();
                let push = pushers.begin(pusher);
                let variables = vec![(PUSH_VARIABLE.to_owned(), push.id.clone())];
                let hooks = HookEnvironment { variables, held: Some(Box::new(push)) };
                timeout(LONGEST, self.receive.converse(reader, &mut writer, (&principal, who), hooks)).await??;
            }
            SshService::UploadPack => {
                timeout(LONGEST, self.upload.converse(reader, &mut writer, who, &call.protocol)).await??;
            }
        }
        Ok(())
    }

    /// Who comes. The name of a key's owner counts from those alone whom sshd runs the command as:
    /// whoever else may open the socket would be whoever he says.
    fn pusher(&self, call: &SshCall, user: u32, who: Who) -> Pusher {
        let speaks = user == 0 || user == nix::unistd::getuid().as_raw() || Some(user) == self.speaker;
        let principal = match &call.name {
            Some(name) if speaks => named(Some(name.clone()), user),
            // Without a name for each key, all that come to an account are one.
            _ => account(user),
        };
        Pusher { principal, through: format!("ssh {}", one_line(&call.from)), who }
    }

    fn note_denied(&self, pusher: &Pusher, service: SshService, words: &str) {
        let request = match service {
            SshService::ReceivePack => "git-receive-pack",
            SshService::UploadPack => "git-upload-pack",
        };
        let policy = self.published.borrow().rights.version().map(|version| version.to_string());
        let (by, request) = (pusher.by(), Some(request.to_owned()));
        let (from, peer) = (pusher.through.clone(), pusher.who.to_string());
        let entry = AuditEntry::at_the_door(Verdict::Denied, from, peer, words);
        self.audit.note(AuditEntry { by, request, policy, ..entry });
    }

    /// Says why somebody may not begin: over HTTP the same is asked for before the route.
    fn objection(&self, who: &Principal, service: SshService) -> Option<String> {
        let rights = self.published.borrow().rights.clone();
        let policy = &rights.policy;
        let may = match service {
            SshService::UploadPack => policy.reads_everything(who),
            SshService::ReceivePack => policy.changes_something(who),
        };
        (!rights.is_open && !may).then(|| {
            let right = if service == SshService::UploadPack { "read" } else { "push" };
            format!(
                "{who} lacks the right `{right}`; an administrator can give it, in policy.yaml on the branch policy"
            )
        })
    }
}
