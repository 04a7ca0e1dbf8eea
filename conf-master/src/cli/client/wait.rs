//! `conf-master wait`: ends when enough hosts run a change, or when time is up.

use std::env;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use conf_core::daemon::chain;
use conf_core::{
    retry::Backoff,
    terminal::{in_colours, note, print},
    upstream::{UpstreamError, Upstreams},
};
use indicatif::{ProgressBar, ProgressStyle};
use libconf::name::{DatacenterName, Sequence};
use reqwest::Method;

use crate::cli::client::connect::{ClientFlags, call};
use crate::cli::client::print::{print_json, words};
use crate::delivery::{Delivery, Percent};

/// The longest question: a proxy may cut a silent connection after half a minute.
const POLL: Duration = Duration::from_secs(25);
/// The time that the network may add to an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// The pause between two questions, and between two moves of the bar.
const PAUSE: Duration = Duration::from_millis(250);
/// The pause between two lines.
const LINE: Duration = Duration::from_secs(1);
/// How many hosts are listed at the end: all of them.
const MOST_SHOWN: usize = 1_000_000;

/// Flags of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct WaitFlags {
    /// The datacenters
    #[arg(value_name = "ID/VERSION", required = true)]
    datacenters: Vec<DatacenterName>,
    /// The change that the hosts must run; for a datacenter that it does not touch, the newest
    /// snapshot before it. Without it, the newest change
    #[arg(long, value_name = "N")]
    sequence: Option<Sequence>,
    /// The share of each datacenter's hosts that is enough, 1 to 100
    #[arg(long, value_name = "PERCENT", default_value = "100")]
    percent: Percent,
    /// Count only reports that hosts have signed, which needs their keys in the inventory
    #[arg(long)]
    proven: bool,
    /// The most seconds to wait; 0 shows the state now
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Waits, and prints who runs the change.
pub(crate) async fn run(flags: &WaitFlags) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let timeout = Duration::from_secs(flags.timeout);
    let servers = flags.client.connect()?;
    let mut progress = Progress::new(flags.client.json);
    let mut question = Question { flags, sequence: flags.sequence, delivered: None };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut last = loop {
        let left = timeout.saturating_sub(started.elapsed());
        // The first question returns the state at once.
        let wait = if question.delivered.is_some() { left.min(POLL) } else { Duration::ZERO };
        let pause = match question.ask(&servers, wait, None).await {
            Ok(delivery) => {
                backoff.reset();
                // The newest change is looked up once.
                question.sequence = Some(delivery.sequence);
                question.delivered = Some(delivery.datacenters.iter().map(|one| one.delivered).sum());
                progress.show(&delivery);
                if delivery.complete || left.is_zero() {
                    break delivery;
                }
                PAUSE
            }
            Err(WaitError::Passing(error)) if !left.is_zero() => {
                // conf-master may be restarting: then the hosts report to it again by themselves.
                progress.away(&error);
                backoff.after(error.retry_after())
            }
            Err(WaitError::Passing(error)) => return Err(error).context("the state of the hosts is unknown"),
            Err(WaitError::Refused(error)) => return Err(error),
        };
        tokio::time::sleep(pause.min(timeout.saturating_sub(started.elapsed()))).await;
    };
    progress.end();
    if !last.complete
        && last.datacenters.iter().any(|one| one.more > 0)
        && let Ok(all) = question.ask(&servers, Duration::ZERO, Some(MOST_SHOWN)).await
    {
        last = all;
    }
    if flags.client.json {
        print_json(&last)?;
    } else {
        print(&last)?;
        if !last.complete {
            note(format_args!("conf-master: not enough hosts run #{} after {} s", last.sequence, flags.timeout));
        }
    }
    Ok(if last.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Question<'f> {
    flags: &'f WaitFlags,
    sequence: Option<Sequence>,
    /// The number of hosts that ran it at the last answer.
    delivered: Option<usize>,
}

/// Why there is no answer.
enum WaitError {
    /// Asked again, the server may answer.
    Passing(UpstreamError),
    /// The server refuses; it would do so again.
    Refused(anyhow::Error),
}

impl Question<'_> {
    async fn ask(&self, servers: &Upstreams, wait: Duration, limit: Option<usize>) -> Result<Delivery, WaitError> {
        let Question { flags, sequence, delivered } = self;
        let options = [
            sequence.map(|sequence| format!("&sequence={sequence}")),
            delivered.map(|delivered| format!("&delivered={delivered}")),
            limit.map(|limit| format!("&limit={limit}")),
            flags.proven.then(|| "&proven=true".to_owned()),
        ];
        let datacenters = flags.datacenters.iter().map(|one| format!("&datacenter={one}"));
        let options = datacenters.chain(options.into_iter().flatten()).collect::<Vec<_>>().concat();
        // Whole seconds are sent, rounded up.
        let seconds = wait.as_millis().div_ceil(1000);
        let path = format!("api/v1/delivery?percent={}&timeout={seconds}{options}", flags.percent);
        let (status, body) = match call(servers, Method::GET, &path, &[], None, wait + ANSWER).await {
            Ok(answer) => answer,
            Err(error @ (UpstreamError::Unreachable { .. } | UpstreamError::NoServer)) => {
                return Err(WaitError::Passing(error));
            }
            Err(error) => return Err(WaitError::Refused(error.into())),
        };
        let words = || words(body.get("error").filter(|error| error.is_string()).unwrap_or(&body));
        if status.is_server_error() {
            let (url, words) = (flags.client.server.to_string(), words());
            return Err(WaitError::Passing(UpstreamError::Refused { url, status, words, retry_after: None }));
        }
        let read = || {
            if !status.is_success() {
                bail!("{}", words());
            }
            serde_json::from_value(body.clone()).context("the answer is not of this project; is the URL right?")
        };
        read().map_err(WaitError::Refused)
    }
}

/// Shows the progress on standard error: a bar on a terminal, lines elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    line: Option<(String, Instant)>,
    is_away: bool,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        // A bar moves the cursor, which a dumb terminal cannot.
        let moves = in_colours(io::stderr().is_terminal(), |name| env::var(name).ok().filter(|_| name == "TERM"));
        let bar = moves.then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:32}] {pos}/{len} hosts, {elapsed}");
            ProgressBar::no_length().with_style(style.expect("the template is good").progress_chars("=> "))
        });
        Progress { lines: bar.is_none() && !quiet, bar, line: None, is_away: false }
    }

    fn show(&mut self, delivery: &Delivery) {
        if std::mem::take(&mut self.is_away) {
            self.say("conf-master answers again");
        }
        let (mut hosts, mut delivered) = (0, 0);
        for one in &delivery.datacenters {
            (hosts, delivered) = (hosts + one.hosts, delivered + one.delivered);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("#{}", delivery.sequence));
            bar.set_length(hosts as u64);
            bar.set_position(delivered as u64);
            return;
        }
        let line = format!("#{}: {delivered} of {hosts} hosts run it", delivery.sequence);
        let is_due = self.line.as_ref().is_none_or(|(last, at)| *last != line && at.elapsed() >= LINE);
        if self.lines && is_due {
            note(&line);
            self.line = Some((line, Instant::now()));
        }
    }

    fn away(&mut self, error: &UpstreamError) {
        if !std::mem::replace(&mut self.is_away, true) {
            self.say(&format!("no answer from conf-master, asked again until time is up: {}", chain(error)));
        }
    }

    fn say(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.println(words),
            None if self.lines => note(words),
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
