//! `conf-master credential`: Git's credential helper, for the token in a file.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use conf_core::access::Token;
use conf_core::terminal::print;
use zeroize::Zeroizing;

/// The most bytes of a file with a token, and of what Git says.
const MOST: u64 = 64 << 10;

/// Flags of `credential`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct CredentialFlags {
    /// The file that holds the token
    #[arg(long, value_name = "FILE", env = "CONF_MASTER_TOKEN_FILE")]
    token_file: PathBuf,
    /// What Git asks for: only `get` has an answer
    #[arg(value_name = "ACTION")]
    action: String,
}

const EXAMPLE: &str = "\
For one server:
  git config --global credential.https://conf.example.com.helper \\
    '!conf-master credential --token-file /home/ann/.conf-token'";

/// Answers Git. Source: gitcredentials(7), \"CUSTOM HELPERS\".
pub(crate) fn run(flags: &CredentialFlags) -> anyhow::Result<ExitCode> {
    // Git may take an end of its pipe for a failure of the helper.
    std::io::stdin().take(MOST).read_to_end(&mut Vec::new())?;
    if flags.action != "get" {
        return Ok(ExitCode::SUCCESS);
    }
    let file = flags.token_file.display();
    let mut text = Zeroizing::new(String::new());
    let opened = fs::File::open(&flags.token_file).and_then(|open| open.take(MOST).read_to_string(&mut text));
    opened.with_context(|| format!("cannot read the token in {file}"))?;
    match text.lines().next().unwrap_or_default().trim().parse::<Token>() {
        // The server takes the name from the token.
        Ok(token) => print(format!("username=token\npassword={}\n", token.reveal()))?,
        Err(bad) => bail!("{file}: {bad}"),
    }
    Ok(ExitCode::SUCCESS)
}
