//! The secrets of this host. Values that conf-master sealed to it are opened here, in memory.
//! Values that a declaration names are read here, from a file or from the output of a command.
//!
//! Values go to the process that renders, and into files that only their owner may read. Logs,
//! errors and reports hold names alone.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::git::{Durability, replace_file};
use conf_core::{
    layers::Sources,
    render::Secrets,
    secret::{self, Identity, IdentityError, MAX_SEALED_BYTES, MAX_VALUE_BYTES, SecretValue, Source},
};
use git2::Repository as Git;
use libconf::name::{ComponentName, ObjectId, SecretName};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rand::RngCore as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::Zeroizing;

/// 10 s for a command that prints a secret: rendering waits for it.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// A file in the state folder.
const SALT: &str = "salt";
const SALT_BYTES: usize = 32;

/// Returns the path of the identity: the given one, or the usual one in the state folder.
pub(crate) fn identity_path(state: &Path, given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| state.join("identity"), Path::to_owned)
}

/// Reads or creates the salt, on which the names of secret renderings depend. A damaged one is
/// replaced: everything that was rendered with it is rendered again.
pub(crate) fn salt(state: &Path) -> io::Result<Vec<u8>> {
    let path = state.join(SALT);
    match std::fs::read(&path) {
        Ok(salt) if salt.len() == SALT_BYTES => return Ok(salt),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut salt = vec![0; SALT_BYTES];
    rand::rng().fill_bytes(&mut salt);
    replace_file(&path, &salt, 0o600, Durability::Full)?;
    Ok(salt)
}

/// Writes the salt again if somebody has removed it.
pub(crate) fn keep_salt(state: &Path, salt: &[u8]) -> io::Result<()> {
    let path = state.join(SALT);
    if path.exists() { Ok(()) } else { replace_file(&path, salt, 0o600, Durability::Full) }
}

/// Loads this host's private key from a file, or creates both.
pub(crate) fn load_identity(path: &Path) -> Result<Arc<Identity>, IdentityError> {
    let (identity, made) = Identity::load_or_create(path)?;
    if made {
        tracing::info!(
            path = %path.display(), key = %identity.recipient(),
            "created this host's identity; write the key into `inventories` for its secrets and its reports"
        );
    }
    if !identity.recipient().signs() {
        tracing::info!(path = %path.display(), "this is an age identity: it opens secrets, but cannot sign reports");
    }
    Ok(Arc::new(identity))
}

/// Reads the secrets of one snapshot, each at most once. Values are kept until this is dropped.
pub(crate) struct SecretReader<'a> {
    identity: &'a Identity,
    git: &'a Git,
    known: HashMap<SecretName, Result<SecretValue, String>>,
}

impl<'a> SecretReader<'a> {
    pub(crate) fn new(identity: &'a Identity, git: &'a Git) -> Self {
        SecretReader { identity, git, known: HashMap::new() }
    }

    /// Returns the secrets that a component may read.
    pub(crate) fn of(&mut self, sources: &Sources<'_>, component: &ComponentName) -> Secrets {
        let mut secrets = Secrets::default();
        if sources.raw {
            return secrets;
        }
        for (name, declared) in sources.secrets_of(component) {
            if !self.known.contains_key(name) {
                let value = match &declared.source {
                    Source::Generate(_) | Source::Given => self.sealed(sources, name),
                    Source::File(path) => from_file(path),
                    Source::Command(words) => from_command(words, COMMAND_LIMIT),
                };
                self.known.insert(name.clone(), value);
            }
            if let Some(value) = self.known.get(name) {
                secrets.insert(name, value.clone());
            }
        }
        secrets
    }

    fn sealed(&self, sources: &Sources<'_>, name: &SecretName) -> Result<SecretValue, String> {
        let Some(id) = sources.sealed.get(name) else {
            return Err("the snapshot holds no value of it".to_owned());
        };
        let sealed = self.blob(*id)?;
        secret::open(self.identity, &sealed, &sources.datacenter.id, name).map_err(|error| error.to_string())
    }

    fn blob(&self, id: ObjectId) -> Result<Vec<u8>, String> {
        let blob = self.git.find_blob(id.into()).map_err(|error| format!("it cannot be read: {}", error.message()))?;
        if blob.size() > MAX_SEALED_BYTES {
            return Err("it is too large".to_owned());
        }
        Ok(blob.content().to_vec())
    }
}

/// Converts to text, without the newline at its end.
fn text(bytes: &[u8]) -> Result<SecretValue, String> {
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(format!("it has more than {MAX_VALUE_BYTES} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(SecretValue::Text(Zeroizing::new(text.to_owned())))
}

fn buffer() -> Zeroizing<Vec<u8>> {
    // With its final capacity: a buffer that grows leaves copies behind.
    Zeroizing::new(Vec::with_capacity(MAX_VALUE_BYTES + 2))
}

fn from_file(path: &Path) -> Result<SecretValue, String> {
    let failed = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    // A pipe without a writer must not block the agent.
    let open = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(failed)?;
    let about = open.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    if about.mode() & 0o007 != 0 {
        return Err(format!("every user may read or write {}; run chmod o= on it", path.display()));
    }
    let mut bytes = buffer();
    open.take(MAX_VALUE_BYTES as u64 + 2).read_to_end(&mut bytes).map_err(failed)?;
    text(&bytes).map_err(|why| format!("{}: {why}", path.display()))
}

/// Reads a secret from the output of a command. The command has no input and none of the agent's
/// environment. It is ended with its whole process group when it takes too long or prints too much.
fn from_command(words: &[String], limit: Duration) -> Result<SecretValue, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("its command is empty".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").process_group(0);
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    // Its other output may hold the value too.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut group = Group(child);
    let failed = |error: io::Error| format!("the output of {program} cannot be read: {error}");
    let mut output = group.0.stdout.take().ok_or_else(|| format!("{program} was started without a pipe"))?;
    let (deadline, mut bytes, mut part) = (Instant::now() + limit, buffer(), Zeroizing::new([0; 4096]));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return Err(format!("{program} was ended after {} s", limit.as_secs_f64())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(failed(error.into())),
        }
        match output.read(&mut *part).map_err(failed)? {
            0 => break,
            count if bytes.len() + count > MAX_VALUE_BYTES + 2 => {
                return Err(format!("{program} prints more than {MAX_VALUE_BYTES} bytes"));
            }
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
    // It has closed its output. It ends soon, or is ended.
    while Instant::now() < deadline {
        match group.0.try_wait().map_err(failed)? {
            Some(status) if status.success() => {
                return text(&bytes).map_err(|why| format!("the output of {program}: {why}"));
            }
            Some(status) => return Err(format!("{program} ended with {status}")),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Err(format!("{program} was ended after {} s", limit.as_secs_f64()))
}

/// A command and all that it started. Dropping this ends them.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.0.id()) {
            // The number belongs to the group until the command is reaped.
            if matches!(self.0.try_wait(), Ok(None)) {
                let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn words(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_secret_of_the_host_is_bounded_and_in_no_error() {
        let run = |script: &str| from_command(&words(script), Duration::from_secs(1));
        let value = |text: &str| Ok(SecretValue::Text(Zeroizing::new(text.to_owned())));
        assert_eq!(run("echo canary"), value("canary"));
        assert_eq!(run("printf 'a\\nb\\r\\n'"), value("a\nb"));
        assert_eq!(run("echo \"${HOME-none}\""), value("none"));
        for (script, words) in [
            ("echo canary; echo canary >&2; exit 3", "ended with exit status: 3"),
            ("echo canary; sleep 600", "ended after 1 s"),
            ("echo canary; exec 1>&-; sleep 600", "ended after 1 s"),
            ("yes canary", "prints more than"),
            ("true", "it is empty"),
            ("printf '\\344'", "not UTF-8"),
        ] {
            let why = run(script).unwrap_err();
            assert!(why.contains(words) && !why.contains("canary"), "{script}: {why}");
        }
        let none = from_command(&["/nowhere/at/all".to_owned()], COMMAND_LIMIT).unwrap_err();
        assert!(none.contains("cannot be started"), "{none}");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "canary\n").unwrap();
        assert!(from_file(&path).unwrap_err().contains("chmod o="));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(from_file(&path), value("canary"));
        assert!(from_file(folder.path()).unwrap_err().contains("is not a file"));
        assert!(from_file(&folder.path().join("none")).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_salt_is_created_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = salt(folder.path()).unwrap();
        assert_eq!(salt(folder.path()).unwrap(), first);
        let mode = std::fs::metadata(folder.path().join(SALT)).unwrap().mode() & 0o777;
        assert_eq!((first.len(), mode), (SALT_BYTES, 0o600));
        std::fs::write(folder.path().join(SALT), "short").unwrap();
        assert_ne!(salt(folder.path()).unwrap(), first);
    }
}
