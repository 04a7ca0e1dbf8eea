//! `git receive-pack` over smart HTTP.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use libconf::name::ObjectId;
use tokio::sync::OnceCell;

use crate::{
    access::Principal,
    daemon::blocking,
    git::{self, Packet, PacketReader, push_line},
    git_http::{
        answer::{answered, service_line, whole},
        child::{Bounds, Output, Received, Run, Urgency, input_of, start},
        commands::{Commands, refusal},
        failure::Failure,
        part::Asked,
        weight::too_heavy,
    },
    http::{Request, Response, Share, ShareBounds, Shares, Spools, Who, counted},
};

/// The most bytes of a push; `receive.maxInputSize` may set less.
pub(crate) const MOST_BYTES: u64 = 4 << 30;

/// The most refs that one push may move. Each is judged, and named to whoever asks what happened.
pub const MOST_REFS: usize = 1000;
/// From so many bytes on, a push is worked on after all that takes less.
const LARGE: u64 = 4 << 20;
/// From so many refs on as well: people push a few, and each is read, judged and named.
const MANY: usize = 100;
/// The most requests that wait for a process.
const WAITING: usize = 1024;
/// How long a push waits for a process. Git's own clients wait in silence.
const PATIENCE: Duration = Duration::from_secs(60);

/// 512 MiB: a commit or a chain of differences that inflates to more ends the push, and not this
/// machine.
const MEMORY: u64 = 512 << 20;
/// 60 s for each program of a push.
const SECONDS: u64 = 60;

/// The bounds of a push into a repository. Git maps the indexes of packs whole, and they grow with
/// the repository.
fn bounds_of(repo: &Path) -> Bounds {
    let files = fs::read_dir(repo.join("objects/pack")).into_iter().flatten().flatten();
    let indexes = files.filter(|file| file.path().extension().is_none_or(|ending| ending != "pack"));
    let bytes: u64 = indexes.filter_map(|index| Some(index.metadata().ok()?.len())).sum();
    // Once more for those that a program joins.
    Bounds { memory: MEMORY + 2 * bytes, seconds: SECONDS }
}

const RESULT: &str = "application/x-git-receive-pack-result";

/// What lets large repositories and large files be in little memory: small windows of packs, and
/// large files as streams.
const IN_LITTLE_MEMORY: [&str; 4] =
    ["core.packedGitWindowSize=16m", "core.packedGitLimit=64m", "pack.threads=1", "core.bigFileThreshold=16m"];

/// What the hooks of a push see, on top of the clean environment.
#[derive(Default)]
pub struct HookEnvironment {
    /// The variables.
    pub variables: Vec<(String, String)>,
    /// It is dropped when the push's Git program has ended.
    pub held: Option<Box<dyn Send>>,
}

type Environment = Box<dyn Fn(&Request) -> HookEnvironment + Send + Sync>;
type Refs = Box<dyn Fn(&Principal) -> Asked<'static, ListedRefs> + Send + Sync>;

/// The refs that a pusher is shown, full name and object.
#[derive(Debug)]
pub enum ListedRefs {
    /// All of them.
    All(Vec<(String, ObjectId)>),
    /// Those that he may know of.
    Part(Vec<(String, ObjectId)>),
}

/// `git receive-pack` of one repository.
pub struct ReceivePack {
    repo: PathBuf,
    places: Shares,
    spools: Spools,
    environment: Environment,
    /// Lists the refs; without it Git does.
    refs: Option<Refs>,
    /// What Git can do with a push. It stays the same while this program runs.
    capabilities: OnceCell<String>,
}

impl fmt::Debug for ReceivePack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivePack").field("repo", &self.repo).finish_non_exhaustive()
    }
}

impl ReceivePack {
    /// Serves `repo`, at most `processes` pushes at once, a quarter of them of one peer. Bodies
    /// wait in `spools` until they are whole.
    pub fn new(
        repo: PathBuf,
        spools: Spools,
        processes: usize,
        environment: impl Fn(&Request) -> HookEnvironment + Send + Sync + 'static,
    ) -> Arc<Self> {
        ReceivePack::with(repo, spools, processes, Box::new(environment), None)
    }

    /// Like [`ReceivePack::new`], but each pusher is shown these refs, without a process of Git
    /// that reads them all from the disk.
    pub fn listing(
        repo: PathBuf,
        spools: Spools,
        processes: usize,
        environment: impl Fn(&Request) -> HookEnvironment + Send + Sync + 'static,
        refs: impl Fn(&Principal) -> Asked<'static, ListedRefs> + Send + Sync + 'static,
    ) -> Arc<Self> {
        ReceivePack::with(repo, spools, processes, Box::new(environment), Some(Box::new(refs)))
    }

    fn with(
        repo: PathBuf,
        spools: Spools,
        processes: usize,
        environment: Environment,
        refs: Option<Refs>,
    ) -> Arc<Self> {
        let places = processes as u64;
        let bounds = ShareBounds { places, of_one: places.div_ceil(4), waiting: WAITING };
        let (places, capabilities) = (Shares::new(bounds), OnceCell::new());
        Arc::new(ReceivePack { repo, places, spools, environment, refs, capabilities })
    }

    /// Answers `GET info/refs?service=git-receive-pack`.
    pub async fn advertise(&self, request: Request) -> Response {
        let kind = "application/x-git-receive-pack-advertisement";
        let advertise = async move {
            let who = request.who();
            let asked = (request.header("git-protocol"), &request.principal);
            let refs = self.advertisement(asked, who).await?;
            let list: Bytes = [service_line("git-receive-pack").into(), refs].concat().into();
            // It counts for the reader until it is taken.
            let mut share = self.spools.memory(who).ok_or(Failure::Busy)?;
            if !share.grow(list.len() as u64) {
                return Err(Failure::Busy);
            }
            Ok(whole(kind, counted(list, Some(share))))
        };
        advertise.await.unwrap_or_else(|failure: Failure| failure.response())
    }

    /// Lists the refs, and what Git can do with a push.
    pub(crate) async fn advertisement(
        &self,
        (protocol, principal): (Option<&str>, &Principal),
        who: Who,
    ) -> Result<Bytes, Failure> {
        // Git answers version 2 as it answers none, and version 1 begins with a line of its own.
        let is_plain = matches!(protocol, None | Some("version=0" | "version=2"));
        let refs = match &self.refs {
            None => None,
            Some(refs) => Some(refs(principal).await.map_err(|_| Failure::Busy)?),
        };
        let refs = match refs {
            Some(ListedRefs::All(refs)) if is_plain && !refs.is_empty() => refs,
            Some(ListedRefs::Part(refs)) if is_plain => refs,
            Some(ListedRefs::Part(_)) => return Err(Failure::Partial),
            _ => return self.list_of_git(protocol, who).await?.all().await,
        };
        let capabilities = self.capabilities.get_or_try_init(|| self.read_capabilities(who)).await?;
        Ok(list_of(refs, capabilities))
    }

    async fn read_capabilities(&self, who: Who) -> Result<String, Failure> {
        let list = self.list_of_git(None, who).await?.all().await?;
        let mut packets = PacketReader::default();
        packets.feed(&list);
        let Ok(Some(Packet::Data(line))) = packets.next() else {
            return Err(Failure::Git("it lists no refs".to_owned()));
        };
        let line = String::from_utf8_lossy(&line);
        let capabilities = line.split_once('\0').map(|(_, capabilities)| capabilities.trim().to_owned());
        capabilities.ok_or_else(|| Failure::Git("it does not say what it can do".to_owned()))
    }

    async fn list_of_git(&self, protocol: Option<&str>, who: Who) -> Result<Output, Failure> {
        let place = self.place(who).await?;
        let mut command = self.command(protocol);
        command.arg("--http-backend-info-refs").arg(&self.repo);
        let run = Run { command, bounds: None, urgency: Urgency::Usual, is_list: true, held: place };
        start(run, input_of(Bytes::new()), 0, (&self.spools, who), || {})
    }

    /// Answers `POST git-receive-pack`. A process is taken when the whole body is here, so that no
    /// sender is waited for with one. When git dies the connection is torn down, since a pusher
    /// would wait for ever after a proper end.
    pub async fn serve(&self, request: Request) -> Response {
        let who = request.who();
        let serve = async {
            let of_hooks = request.without_body();
            let received = match Received::of_push(request, MOST_BYTES).await {
                Ok(received) => received,
                Err((failure, first)) => return Ok(not_taken(failure, first).await),
            };
            let commands = Commands::read(received.input(), MOST_REFS).await?;
            let refuse = |why: &str| {
                tracing::warn!(?who, why, "a push is refused before Git starts");
                Ok(whole(RESULT, refusal(&commands, why)))
            };
            if let Some(why) = commands.refused() {
                return refuse(&why);
            }
            if !commands.is_whole() {
                return Err(Failure::Input("it is no push".to_owned()));
            }
            let place = self.place(who).await?;
            if let Some(why) = too_heavy(received.input()).await? {
                return refuse(&why);
            }
            let hooks = (self.environment)(&of_hooks);
            let (push, protocol) = ((&received, &commands), of_hooks.header("git-protocol"));
            let output = self.run(push, (who, place), protocol, hooks).await?;
            answered(RESULT, Bytes::new(), output).await
        };
        serve.await.unwrap_or_else(|failure: Failure| failure.response())
    }

    /// Waits until the peer may have a process.
    pub(crate) async fn place(&self, who: Who) -> Result<Share, Failure> {
        Ok(self.places.take(who, 1, PATIENCE).await?)
    }

    /// Gives a push that is all here to Git. It was weighed before.
    pub(crate) async fn run(
        &self,
        (received, commands): (&Received, &Commands),
        (who, place): (Who, Share),
        protocol: Option<&str>,
        hooks: HookEnvironment,
    ) -> Result<Output, Failure> {
        let mut command = self.command(protocol);
        command.envs(hooks.variables).arg(&self.repo);
        let repo = self.repo.clone();
        let bounds = Some(blocking(move || bounds_of(&repo)).await);
        let is_large = received.length() >= LARGE || commands.count() >= MANY;
        let urgency = if is_large { Urgency::Low } else { Urgency::Usual };
        let run = Run { command, bounds, urgency, is_list: false, held: (place, hooks.held) };
        start(run, received.input(), MOST_BYTES, (&self.spools, who), || {})
    }

    /// The room for pushes.
    pub(crate) fn spools(&self) -> &Spools {
        &self.spools
    }

    fn command(&self, protocol: Option<&str>) -> Command {
        let mut git = git::command(&self.repo);
        git.args(IN_LITTLE_MEMORY.iter().flat_map(|setting| ["-c", setting]));
        git.args(["receive-pack", "--stateless-rpc"]);
        if let Some(protocol) = protocol {
            git.env("GIT_PROTOCOL", protocol);
        }
        git
    }
}

/// A list of refs, as Git writes it. Source: gitprotocol-pack(5), "Reference Discovery".
fn list_of(mut refs: Vec<(String, ObjectId)>, capabilities: &str) -> Bytes {
    refs.sort_unstable();
    if refs.is_empty() {
        // How Git says what it can do where there is no ref.
        refs.push(("capabilities^{}".to_owned(), ObjectId::ZERO));
    }
    let mut list = String::with_capacity(refs.len() * 80 + capabilities.len());
    for (index, (name, id)) in refs.iter().enumerate() {
        let tail = if index == 0 { format!("\0{capabilities}") } else { String::new() };
        push_line(&mut list, &format!("{id} {name}{tail}"));
    }
    list.push_str("0000");
    list.into()
}

/// The answer to a push that is not taken in: in Git's own form, if its beginning asks for one.
async fn not_taken(failure: Failure, first: Bytes) -> Response {
    let told = match (&failure, Commands::read(input_of(first), MOST_REFS).await) {
        (Failure::Busy | Failure::Disk(_), Ok(commands)) => refusal(&commands, &failure.to_string()),
        _ => Bytes::new(),
    };
    if told.is_empty() { failure.response() } else { whole(RESULT, told) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_into_a_large_repository_has_room_for_its_indexes() {
        let folder = tempfile::tempdir().unwrap();
        let packs = folder.path().join("objects/pack");
        assert_eq!(bounds_of(folder.path()).memory, MEMORY);
        fs::create_dir_all(&packs).unwrap();
        for (name, bytes) in [("pack-a.idx", 3 << 30), ("multi-pack-index", 1 << 30), ("pack-a.pack", 9 << 30)] {
            fs::File::create(packs.join(name)).unwrap().set_len(bytes).unwrap();
        }
        assert_eq!(bounds_of(folder.path()).memory, MEMORY + (8 << 30));
    }
}
