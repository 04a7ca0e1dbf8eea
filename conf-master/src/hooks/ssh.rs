//! The server's side of `conf-master receive`: what clients over SSH say reaches Git through here,
//! as what they say over HTTP does.

use std::{net::IpAddr, sync::Arc};

use conf_core::git_http::{HookEnvironment, ReceivePack, UploadPack};
use conf_core::http::{ShareBounds, Shares, Who};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::hooks::protocol::{PUSH_VARIABLE, SshAnswer, SshCall, SshService};
use crate::hooks::pushers::{Pushers, user_name};
use crate::landing::Pusher;
use crate::text::one_line;

/// 16 pushes and 16 fetches at once, a quarter of them for one peer. They go on at the pace of
/// their clients, so they are counted apart from those over HTTP.
const AT_ONCE: u64 = 16;

/// Git for clients over SSH.
#[derive(Clone, Debug)]
pub(crate) struct OverSsh {
    receive: Arc<ReceivePack>,
    upload: Arc<UploadPack>,
    pushes: Shares,
    fetches: Shares,
}

impl OverSsh {
    /// Passes clients on to these.
    pub(crate) fn new(receive: Arc<ReceivePack>, upload: Arc<UploadPack>) -> Self {
        let shares = || Shares::new(ShareBounds { places: AT_ONCE, of_one: AT_ONCE / 4, waiting: 0 });
        OverSsh { receive, upload, pushes: shares(), fetches: shares() }
    }

    /// Talks with a client that came to `user` of this machine, until either side ends.
    pub(crate) async fn converse(
        &self,
        call: SshCall,
        user: u32,
        socket: UnixStream,
        pushers: &Pushers,
    ) -> anyhow::Result<()> {
        let who = peer_of(&call, user);
        let places = match call.service {
            SshService::ReceivePack => &self.pushes,
            SshService::UploadPack => &self.fetches,
        };
        let place = places.try_take(who, 1);
        let answer = match &place {
            Some(_) => SshAnswer::Begin,
            None => SshAnswer::Refused("too many pushes or fetches over SSH at once; try again in a moment".to_owned()),
        };
        let (reader, mut writer) = socket.into_split();
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        match call.service {
            _ if place.is_none() => {}
            SshService::ReceivePack => {
                let push = pushers.begin(pusher(&call, user, who));
                let variables = vec![(PUSH_VARIABLE.to_owned(), push.id.clone())];
                let hooks = HookEnvironment { variables, held: Some(Box::new(push)) };
                self.receive.converse(reader, &mut writer, who, hooks).await?;
            }
            SshService::UploadPack => self.upload.converse(reader, &mut writer, who, &call.protocol).await?,
        }
        Ok(())
    }
}

/// Whose places a client takes: one user of this machine has the pushes of all who come by its key,
/// and sshd says from where.
fn peer_of(call: &SshCall, user: u32) -> Who {
    let address = call.from.parse::<IpAddr>().ok().filter(|_| is_own(user)).map(Who::from);
    address.unwrap_or(Who::User(user))
}

/// Who is recorded.
fn pusher(call: &SshCall, user: u32, who: Who) -> Pusher {
    let user = user_name(user);
    let by = call.name.as_deref().map(|name| format!("{user} as {}", one_line(name)));
    Pusher { by: Some(by.unwrap_or(user)), through: format!("ssh {}", one_line(&call.from)), who }
}

/// Tells whether a user may do what this program may.
fn is_own(user: u32) -> bool {
    let own = rustix::process::getuid();
    own.as_raw() == user || user == 0
}
