//! `conf-pages FOLDER` writes what the packages hold besides the programs: manual pages,
//! completions for shells, and sample configuration. All of it follows the real command lines.

/// Sample configuration, with every setting of a daemon.
mod sample;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Command, Parser};
use clap_complete::Shell;

/// Writes the manual pages, the completions and the sample configuration of the three daemons.
#[derive(Debug, Parser)]
#[command(name = "conf-pages", version)]
struct Flags {
    /// The folder to write to; it gets `man`, `bash`, `zsh`, `fish` and `conf`
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let folder = Flags::parse().folder;
    let programs = [
        (conf_master::described(), "serve", include_str!("../conf-master/conf-master.yaml")),
        (conf_slave::CommandLine::described(), "run", include_str!("../conf-slave/conf-slave.yaml")),
        (conf_local::CommandLine::described(), "run", include_str!("../conf-local/conf-local.yaml")),
    ];
    for (program, daemon, head) in programs {
        write(&folder, &program, daemon, head).with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    Ok(())
}

/// Writes the files of one program, whose command `daemon` reads the configuration.
fn write(folder: &Path, program: &Command, daemon: &str, head: &str) -> anyhow::Result<()> {
    let name = program.get_name().to_owned();
    let below = |part: &str| -> anyhow::Result<PathBuf> {
        let path = folder.join(part);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    clap_mangen::generate_to(program.clone(), below("man")?)?;
    for (shell, part) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        clap_complete::generate_to(shell, &mut program.clone(), &name, below(part)?)?;
    }
    let daemon = program.find_subcommand(daemon).context("the command of the daemon is there")?;
    fs::write(below("conf")?.join(format!("{name}.yaml")), sample::write(daemon, head))?;
    Ok(())
}
