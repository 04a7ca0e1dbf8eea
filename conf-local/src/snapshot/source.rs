//! Where this host reads a secret: a file, or the output of a command.
//!
//! This host's own file alone decides which there are: `secret-sources:` ([`Offers`]). A snapshot
//! names one of them. Nothing else reads files or runs commands for a secret. Errors hold no value,
//! nor a part of one.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant, SystemTime},
};

use conf_core::{
    secret::{MAX_VALUE_BYTES, SecretValue, Source},
    suspect::CommandWords,
};
use libconf::name::SourceName;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::process::{CommandText, GRACE_OF_GUARDIAN, RunAs, guarded, is_root, words};

/// 10 s for a command that prints a secret: rendering waits for it.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// 100 ms: a command ends within this when the agent stops.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// A source of a secret on this host: an entry of `secret-sources:` in the YAML file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "RawSource")]
pub(crate) enum HostSource {
    /// A file, and the user who reads it; without one, the agent's.
    File(PathBuf, Option<RunAs>),
    /// A program and its words, and the user who runs it; without one, the agent's, which is not
    /// root.
    Command(Vec<String>, Option<RunAs>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    file: Option<PathBuf>,
    command: Option<CommandText>,
    user: Option<RunAs>,
}

impl TryFrom<RawSource> for HostSource {
    type Error = String;

    fn try_from(raw: RawSource) -> Result<Self, String> {
        match (raw.file, raw.command) {
            (Some(path), None) if path.is_absolute() => Ok(HostSource::File(path, raw.user)),
            (Some(_), None) => Err("'file' must be an absolute path".to_owned()),
            (None, Some(command)) => Ok(HostSource::Command(words(command)?.words().to_vec(), raw.user)),
            _ => Err("a secret source has either 'file' or 'command'".to_owned()),
        }
    }
}

/// The sources of secrets that this host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Offers(BTreeMap<SourceName, HostSource>);

impl Offers {
    /// Refuses entries that this agent cannot obey: a command that would run as root without saying
    /// so, and, where the agent is not root, another user.
    pub(crate) fn expect_users(&self) -> Result<(), String> {
        for (name, source) in &self.0 {
            let (HostSource::File(_, user) | HostSource::Command(_, user)) = source;
            if let Some(user) = user.as_ref().filter(|user| !is_root() && !user.is_own()) {
                return Err(format!(
                    "secret-sources: {name}: the agent is not root, so nothing runs as {user}; take `user` out"
                ));
            }
            if user.is_none() && is_root() && matches!(source, HostSource::Command(..)) {
                return Err(format!(
                    "secret-sources: {name}: the agent is root, so say who runs the command: write user: <name> (user: root, \
                     if it must be)"
                ));
            }
        }
        Ok(())
    }

    /// True if a command is among them.
    pub(crate) fn have_commands(&self) -> bool {
        self.0.values().any(|source| matches!(source, HostSource::Command(..)))
    }

    /// Lists their names.
    pub(crate) fn names(&self) -> Vec<SourceName> {
        self.0.keys().cloned().collect()
    }

    /// Returns where this host reads a declared secret; `None` for a value that conf-master keeps.
    pub(crate) fn source(&self, declared: &Source) -> Option<Result<&HostSource, String>> {
        match declared {
            Source::Generate(_) | Source::Given => None,
            Source::Host(name) => Some(self.0.get(name).ok_or_else(|| {
                format!("this host offers no secret source {name}; add it to `secret-sources:` in its conf-local.yaml")
            })),
            Source::Chosen(key) => Some(Err(format!(
                "its `{key}` counts no more, since only this host's own file chooses what is read or run here; write from: \
                 <name> centrally, and the {key} to `secret-sources:` in its conf-local.yaml"
            ))),
        }
    }
}

/// What a look at a file shows without reading it. Two equal stamps are of the same content, if the
/// file was not written just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// It was changed so shortly before this look that another change may not show.
    is_fresh: bool,
}

/// 1 s: file systems note times in steps that are shorter.
const FRESH: Duration = Duration::from_secs(1);

impl HostSource {
    /// Reads the value. Blocks; a command for at most 10 s, or until `is_stopped`.
    pub(crate) fn read(&self, is_stopped: &dyn Fn() -> bool) -> Result<SecretValue, String> {
        match self {
            HostSource::File(path, None) => from_file(path),
            HostSource::File(path, Some(user)) => user
                .act(|| from_file(path))
                .map_err(|error| format!("{} cannot be read as {user}: {error}", path.display()))?,
            HostSource::Command(words, user) => from_command(words, user.as_ref(), COMMAND_LIMIT, is_stopped),
        }
    }

    /// Looks at a file; `None` for one that is not there, and for a command.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let HostSource::File(path, _) = self else { return None };
        // Follows links: a mounted secret is often a link that is exchanged.
        let seen = fs::metadata(path).ok()?;
        let since = |time: Option<SystemTime>| time.and_then(|time| SystemTime::now().duration_since(time).ok());
        Some(Stamp {
            file: (seen.dev(), seen.ino()),
            size: seen.size(),
            modified: (seen.mtime(), seen.mtime_nsec()),
            changed: (seen.ctime(), seen.ctime_nsec()),
            is_fresh: since(seen.modified().ok()).is_none_or(|since| since < FRESH),
        })
    }
}

impl Stamp {
    /// True if the content is certainly the same.
    pub(crate) fn is_unchanged(&self, before: &Stamp) -> bool {
        !before.is_fresh
            && self.file == before.file
            && self.size == before.size
            && self.modified == before.modified
            && self.changed == before.changed
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
/// environment. It is ended with all that it started, wherever that moved: when it has ended
/// itself, takes too long or prints too much.
fn from_command(
    words: &[String],
    user: Option<&RunAs>,
    limit: Duration,
    is_stopped: &dyn Fn() -> bool,
) -> Result<SecretValue, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("its command is empty".to_owned()) };
    let mut command = guarded(program, user);
    let program = CommandWords::from(program.as_str());
    if let Some(user) = user {
        user.account().map_err(|error| format!("{program} cannot be started as {user}: {error}"))?;
    }
    command.args(arguments).env_clear().current_dir("/").process_group(0);
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    // Its other output may hold the value too.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut guardian = Guardian(child);
    let failed = |error: io::Error| format!("the output of {program} cannot be read: {error}");
    let mut output = guardian.0.stdout.take().ok_or_else(|| format!("{program} was started without a pipe"))?;
    let (deadline, mut bytes, mut part) = (Instant::now() + limit, buffer(), Zeroizing::new([0; 4096]));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let look = left.min(STOP_LOOK);
        let wait = Timespec { tv_sec: look.as_secs().try_into().unwrap_or(0), tv_nsec: look.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&wait)) {
            Ok(0) if is_stopped() => return Err("the agent stops".to_owned()),
            Ok(0) if !left.is_zero() => continue,
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
    while Instant::now() < deadline && !is_stopped() {
        match guardian.0.try_wait().map_err(failed)? {
            Some(status) if status.success() => {
                return text(&bytes).map_err(|why| format!("the output of {program}: {why}"));
            }
            Some(status) if status.code() == Some(NOT_STARTED) => {
                return Err(format!("{program} cannot be started; is it there, and may its user run it?"));
            }
            Some(status) => return Err(format!("{program} ended with {status}")),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Err(format!("{program} was ended after {} s", limit.as_secs_f64()))
}

/// The exit code of a guardian, as of a shell, for a command that cannot be started.
const NOT_STARTED: i32 = 127;

/// A command and all that it started, below their guardian. Dropping this ends them.
struct Guardian(Child);

impl Drop for Guardian {
    fn drop(&mut self) {
        // The number is the guardian's until it is reaped, and `try_wait` reaps it.
        if matches!(self.0.try_wait(), Ok(None))
            && let Ok(id) = i32::try_from(self.0.id())
        {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            let since = Instant::now();
            while since.elapsed() < GRACE_OF_GUARDIAN && matches!(self.0.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
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
        const SHORT: Duration = Duration::from_secs(1);
        const LONG: Duration = Duration::from_secs(60);
        let run = |script: &str, limit| from_command(&words(script), None, limit, &|| false);
        let value = |text: &str| Ok(SecretValue::Text(Zeroizing::new(text.to_owned())));
        assert_eq!(run("echo canary", LONG), value("canary"));
        assert_eq!(run("printf 'a\\nb\\r\\n'", LONG), value("a\nb"));
        assert_eq!(run("echo \"${HOME-none}\"", LONG), value("none"));
        for (script, limit, words) in [
            ("echo canary; echo canary >&2; exit 3", LONG, "ended with exit status: 3"),
            ("echo canary; sleep 600", SHORT, "ended after 1 s"),
            ("echo canary; exec 1>&-; sleep 600", SHORT, "ended after 1 s"),
            ("yes canary", LONG, "prints more than"),
            ("true", LONG, "it is empty"),
            ("printf '\\344'", LONG, "not UTF-8"),
        ] {
            let why = run(script, limit).unwrap_err();
            assert!(why.contains(words) && !why.contains("canary"), "{script}: {why}");
        }
        let none = from_command(&["/nowhere/at/all".to_owned()], None, COMMAND_LIMIT, &|| false).unwrap_err();
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
    /// Lists the processes whose command line has this word.
    fn running(word: &str) -> Vec<String> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.split(' ').any(|one| one == word)).collect()
    }

    #[test]
    fn nothing_that_a_command_starts_survives_it() {
        // Numbers that no other process sleeps for.
        let number = |kind: u32| format!("{kind}{}", std::process::id());
        let (daemon, late) = (number(1_000), number(2_000));
        let script = format!("setsid sh -c 'setsid sleep {daemon} & setsid sleep {daemon} &'; echo canary");
        let value = from_command(&words(&script), None, COMMAND_LIMIT, &|| false);
        assert_eq!(value, Ok(SecretValue::Text(Zeroizing::new("canary".to_owned()))));
        assert_eq!(running(&daemon), [""; 0]);
        let script = format!("setsid sleep {late} & exec setsid sleep {late}");
        from_command(&words(&script), None, Duration::from_millis(300), &|| false).unwrap_err();
        assert_eq!(running(&late), [""; 0]);
    }

    #[test]
    fn a_command_and_a_file_of_a_user_are_that_users() {
        let nobody = RunAs::try_from("nobody".to_owned()).unwrap();
        let none = RunAs::try_from("no-such-user".to_owned()).unwrap();
        let run = |user: &RunAs| from_command(&words("id -un; id -Gn; pwd"), Some(user), COMMAND_LIMIT, &|| false);
        let why = run(&none).unwrap_err();
        assert!(why.contains("this host has no user no-such-user"), "{why}");
        let sources = |text: &str| conf_core::settings::from_yaml::<Offers>(text);
        for (text, words) in [
            ("a: {file: x}", "must be an absolute path"),
            ("a: {}", "either 'file' or 'command'"),
            ("a: {file: /x, command: [/x]}", "either 'file' or 'command'"),
            ("a-b: {file: /x}", "a secret source's name"),
            ("a: {file: /x, user: '-'}", "is not the name of a user"),
            ("a: {file: /x, readers: []}", "unknown field `readers`"),
        ] {
            let why = sources(text).unwrap_err().to_string();
            assert!(why.contains(words), "{text}: {why}");
        }
        let unsaid = sources("a: {command: [/bin/true]}").unwrap().expect_users();
        if !is_root() {
            unsaid.unwrap();
            return;
        }
        assert!(unsaid.unwrap_err().contains("secret-sources: a: the agent is root, so say who runs the command"));
        sources("a: {command: [/bin/true], user: root}\nb: {file: /x}").unwrap().expect_users().unwrap();
        let value = |text: &str| Ok(SecretValue::Text(Zeroizing::new(text.to_owned())));
        assert_eq!(run(&nobody), value("nobody\nnogroup\n/"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "canary\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let read = |user| HostSource::File(path.clone(), user).read(&|| false);
        assert_eq!(read(None), value("canary"));
        let why = read(Some(nobody)).unwrap_err();
        assert!(why.contains("cannot be read") && !why.contains("canary"), "{why}");
    }
}
