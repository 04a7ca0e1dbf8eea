//! The flags of `import`.

use std::path::PathBuf;

use conf_core::{address::BaseUrl, secret::HostKey};
use libconf::name::{BranchName, ClassName, ComponentName, DatacenterName, HostName, Kind, RoleName};

/// Flags of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ImportFlags {
    /// The folder to read: ROLE/COMPONENT/conf/… (or without conf/), at any depth
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Write branches for review into this new Git repository; without it nothing is written
    #[arg(long, value_name = "REPO")]
    pub(crate) out: Option<PathBuf>,
    /// The class that runs the components [default: the name of DIR]
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<ClassName>,
    /// The datacenter of that class [default: CLASS/v1]
    #[arg(long, value_name = "ID/VERSION")]
    pub(crate) datacenter: Option<DatacenterName>,
    /// The kind of the components: services, applications or devices
    #[arg(long, value_name = "KIND", default_value = "services")]
    pub(crate) kind: Kind,
    /// The branch on which components are written
    #[arg(long, value_name = "NAME", default_value = "master")]
    pub(crate) branch: BranchName,
    /// A host of the inventory and its roles; repeat for more hosts
    #[arg(long = "host", value_name = "NAME=ROLE[,ROLE]…", value_parser = host_roles)]
    pub(crate) hosts: Vec<HostRoles>,
    /// The public key of a host, to which its secrets are sealed: the output of `conf-local
    /// identity` there; repeat for more hosts
    #[arg(long = "host-key", value_name = "NAME=KEY", value_parser = host_key)]
    pub(crate) host_keys: Vec<KeyOfHost>,
    /// Name the component of this folder; repeat for more folders
    #[arg(long = "rename", value_name = "ROLE/FOLDER=[KIND/]NAME", value_parser = rename)]
    pub(crate) renames: Vec<Rename>,
    /// Turn repeated values into variables of `platform`, and the files that contain them into
    /// templates
    #[arg(long)]
    pub(crate) apply_variables: bool,
    /// Turn this value into a variable of this name, even when it does not repeat; repeat for more
    /// values
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) variables: Vec<NamedValue>,
    /// Commit what looks like a secret in this file (or this line of it) as it is; repeat for more
    /// files
    #[arg(long = "allow-secret", value_name = "FILE[:LINE]")]
    pub(crate) allowed: Vec<String>,
    /// Leave out this file or folder; repeat for more
    #[arg(long = "leave-out", value_name = "PATH")]
    pub(crate) left_out: Vec<String>,
    /// The server to which the written repository will be pushed
    #[arg(long, value_name = "URL", env = "CONF_MASTER_URL", default_value = "http://127.0.0.1:7400")]
    pub(crate) server: BaseUrl,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLE: &str = "\
What would these folders become?
  conf-master import /srv/installation
Write it down for review, with what repeats as variables:
  conf-master import /srv/installation --apply-variables --host core-1=core --out moved
Paths after --allow-secret and --leave-out are below DIR, as the report shows them. What looks like a private key, a
password or a token is never committed: it is declared as a secret, and its value is written beside REPO, in REPO.secrets.

Exit codes: 0 done, 1 something must be settled first, 2 wrong usage.";

/// `NAME=ROLE[,ROLE]…`
#[derive(Clone, Debug)]
pub(crate) struct HostRoles {
    /// The host.
    pub(crate) host: HostName,
    /// Its roles, in order.
    pub(crate) roles: Vec<RoleName>,
}

/// `NAME=KEY`
#[derive(Clone, Debug)]
pub(crate) struct KeyOfHost {
    /// The host.
    pub(crate) host: HostName,
    /// Its public key.
    pub(crate) key: HostKey,
}

/// `ROLE/FOLDER=[KIND/]NAME`
#[derive(Clone, Debug)]
pub(crate) struct Rename {
    /// The folder, below the folder that is read.
    pub(crate) folder: String,
    /// The component's kind, when the flag names one.
    pub(crate) kind: Option<Kind>,
    /// The component's name.
    pub(crate) name: String,
}

/// `NAME=VALUE`
#[derive(Clone, Debug)]
pub(crate) struct NamedValue {
    /// Its name in templates, below `platform`.
    pub(crate) name: String,
    /// The value in the files.
    pub(crate) value: String,
}

fn pair<'a>(text: &'a str, wanted: &str) -> Result<(&'a str, &'a str), String> {
    let pair = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    pair.ok_or_else(|| format!("write {wanted}"))
}

fn host_roles(text: &str) -> Result<HostRoles, String> {
    let (host, roles) = pair(text, "NAME=ROLE, as in web-1=static")?;
    let roles = roles.split(',').map(|role| role.parse().map_err(|bad| format!("{bad}")));
    Ok(HostRoles { host: host.parse().map_err(|bad| format!("{bad}"))?, roles: roles.collect::<Result<_, _>>()? })
}

fn host_key(text: &str) -> Result<KeyOfHost, String> {
    let (host, key) = pair(text, "NAME=KEY, as in \"web-1=ssh-ed25519 …\"")?;
    let host = host.parse().map_err(|bad| format!("{bad}"))?;
    Ok(KeyOfHost { host, key: key.parse().map_err(|bad| format!("{bad}"))? })
}

fn rename(text: &str) -> Result<Rename, String> {
    let (folder, name) = pair(text, "ROLE/FOLDER=NAME, as in core/nginx=front")?;
    let (kind, name) = match name.split_once('/') {
        Some((kind, name)) => (Some(kind.parse::<Kind>().map_err(|bad| format!("{bad}"))?), name),
        None => (None, name),
    };
    let whole = format!("{}/{name}", kind.unwrap_or(Kind::Services));
    whole.parse::<ComponentName>().map_err(|bad| format!("{bad}"))?;
    Ok(Rename { folder: folder.trim_end_matches('/').to_owned(), kind, name: name.to_owned() })
}

fn variable(text: &str) -> Result<NamedValue, String> {
    let (name, value) = pair(text, "NAME=VALUE, as in domain=example.com")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.bytes().all(plain) || name.as_bytes()[0].is_ascii_digit() {
        return Err(format!("`{name}` cannot name a variable: letters, digits and '_', not a digit first"));
    }
    if value.contains(['\n', '\r']) {
        return Err("a variable's value is one line".to_owned());
    }
    Ok(NamedValue { name: name.to_owned(), value: value.to_owned() })
}
