//! Where this host reads a secret: a file, or the output of a command.
//!
//! What a snapshot declares becomes a [`HostSource`] in one place, [`HostSource::of`], and nothing
//! else reads files or runs commands for a secret. Errors hold no value, nor a part of one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use conf_core::secret::{MAX_VALUE_BYTES, SecretValue, Source};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::Zeroizing;

/// 10 s for a command that prints a secret: rendering waits for it.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// 100 ms: a command ends within this when the agent stops.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// A source of a secret on this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostSource {
    File(PathBuf),
    /// A program and its words.
    Command(Vec<String>),
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
    /// Returns the source if this host reads it; `None` for a value that conf-master keeps.
    pub(crate) fn of(source: &Source) -> Option<Self> {
        match source {
            Source::Generate(_) | Source::Given => None,
            Source::File(path) => Some(HostSource::File(path.clone())),
            Source::Command(words) => Some(HostSource::Command(words.clone())),
        }
    }

    /// Reads the value. Blocks; a command for at most 10 s, or until `is_stopped`.
    pub(crate) fn read(&self, is_stopped: &dyn Fn() -> bool) -> Result<SecretValue, String> {
        match self {
            HostSource::File(path) => from_file(path),
            HostSource::Command(words) => from_command(words, COMMAND_LIMIT, is_stopped),
        }
    }

    /// Looks at a file; `None` for one that is not there, and for a command.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let HostSource::File(path) = self else { return None };
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
/// environment. It is ended with its whole process group when it takes too long or prints too much.
fn from_command(words: &[String], limit: Duration, is_stopped: &dyn Fn() -> bool) -> Result<SecretValue, String> {
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
        let run = |script: &str| from_command(&words(script), Duration::from_secs(1), &|| false);
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
        let none = from_command(&["/nowhere/at/all".to_owned()], COMMAND_LIMIT, &|| false).unwrap_err();
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
}
