//! conf-slave: see the library.

use std::process::ExitCode;

use conf_core::{
    daemon::{self, Threads},
    terminal::note,
};
use conf_slave::{Command, CommandLine, Slave};

fn main() -> ExitCode {
    let Command::Run(options) = CommandLine::parse_all().command;
    daemon::fix_umask(None);
    if let Err(error) = options.common.start_logging() {
        note(format_args!("conf-slave: {error}"));
        return ExitCode::from(2);
    }
    let reload = CommandLine::reload().with_certificates(&options.common.certificates);
    daemon::run(Threads::PerProcessor, reload, |stop| async move {
        let slave = Slave::bind(*options).await?;
        daemon::ready(slave.scheme(), slave.address());
        slave.run(stop).await;
        Ok::<_, anyhow::Error>(())
    })
}
