//! The whole system on this machine: the three tiers, three jobs, and engineers who push changes with the real git.
//!
//! Read in this order: [`site`] starts everything, [`story`] says what is pushed, [`engineers`] push it, [`observe`] sees
//! when each tier and job has it, [`timeline`] shows it.

/// Prints a line. When nobody reads any more (`| head`), the whole ends: children are tethered, and the directory is
/// swept by the next run.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($words)*).is_err() {
            std::process::exit(1);
        }
    }};
}

mod engineers;
mod observe;
mod site;
mod story;
mod timeline;
mod try_it;

use std::{
    collections::BTreeMap,
    process::{ExitCode, ExitStatus},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use poc::{Report, tether};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    engineers::{Change, Engineers, Push, Way},
    site::{DATACENTER, PLACES, Site, Unit},
    story::{SECRET, Step, Story},
    timeline::Timeline,
};

/// Shows conf at work on this machine: conf-master, conf-slave, three hosts with conf-local, a job on each; a change is
/// pushed every few seconds, and a timeline shows when each of them had it.
#[derive(Parser)]
#[command(name = "./poc/run", version)]
struct Arguments {
    /// Make three changes, an update and a new secret, and end with 0 only if every job saw every one of them
    #[arg(long)]
    once: bool,
    /// A real Consul for the pointers (its usual variables count); without it conf-slave stands in for one
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
    /// Seconds between two pushes
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = parse_seconds)]
    every: f64,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("not between 0.1 and 3600".to_owned()) }
}

/// Something that was observed.
#[derive(Debug)]
pub(crate) enum Seen {
    /// conf-master has a snapshot with this sequence.
    Landed(u64, SystemTime),
    /// It stands in Consul.
    Published(u64, SystemTime),
    /// The host of this place has it.
    Exported(usize, u64, SystemTime),
    /// The job of this place told something.
    Job(usize, Report),
    /// A program ended, which none should.
    Died(Unit, ExitStatus),
}

/// How long a change may take until every job has seen it; far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    tether::obey();
    let arguments = Arguments::parse();
    // One thread: children are tethered to the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\npoc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let (sender, receiver) = mpsc::channel(1024);
    let site = Site::new(arguments.consul.clone(), sender)?;
    let timeline = Timeline::default();
    let mut show = Show { site, seen: receiver, timeline, shown: 0, woken: BTreeMap::new(), jobs: BTreeMap::new() };
    let outcome = tokio::select! {
        outcome = show.play(arguments) => outcome,
        outcome = stopped() => outcome.and_then(|()| {
            if arguments.once {
                bail!("stopped before all changes were made");
            }
            say!("\nStopping.");
            Ok(())
        }),
    };
    show.timeline.summary();
    show.site.stop().await;
    outcome
}

/// Returns when the user wants it to end: Ctrl-C, a closed terminal, or a request to end.
async fn stopped() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

struct Show {
    site: Site,
    seen: mpsc::Receiver<Seen>,
    timeline: Timeline,
    /// The newest change that was shown.
    shown: u64,
    /// The job managers that were woken and have not started their jobs yet.
    woken: BTreeMap<usize, Report>,
    /// What each job read, by change and place.
    jobs: BTreeMap<(u64, usize), Report>,
}

impl Show {
    async fn play(&mut self, arguments: &Arguments) -> Result<()> {
        say!("Starting the three tiers and three jobs in {} …", self.site.dir.display());
        let mut story = Story::new();
        let engineers = self.begin(&story).await?;
        try_it::print_what_runs(&self.site, arguments.consul.as_deref())?;
        if arguments.once {
            let mut step = 0;
            while let Some(next) = story.short(step) {
                ensure!(self.step(&engineers, next).await?, "a change was refused that should have landed");
                step += 1;
            }
            return Ok(());
        }
        let reader = self.site.dir.join("yours");
        engineers.clone_for_reader(&reader).await?;
        try_it::print(&self.site, &reader)?;
        for step in 0.. {
            self.idle(Instant::now() + Duration::from_secs_f64(arguments.every)).await?;
            let next = story.long(step);
            self.step(&engineers, next).await?;
        }
        Ok(())
    }

    /// Starts the tiers, lands the first content, starts the jobs.
    async fn begin(&mut self, story: &Story) -> Result<Engineers> {
        self.site.init().await.context("cannot make the central repository")?;
        self.site.start(Unit::Master).await?;
        let url = format!("{}conf.git", self.site.url(Unit::Master)?);
        let engineers = Engineers::new(self.site.dir.join("engineers.git"), url).await?;
        let push = engineers.push(&story.beginning(&self.site.identities().await?)).await?;
        self.shown = landed_as(&push).with_context(|| format!("the first push did not land:\n{}", push.output))?;
        self.site.start(Unit::Slave).await?;
        for place in 0..PLACES.len() {
            self.site.start(Unit::Host(place)).await?;
        }
        for (place, at) in PLACES.iter().enumerate() {
            let arguments = ["wait", at.component, "--timeout", "30"];
            self.site.agent(place, arguments.map(Into::into)).await?;
            self.site.start(Unit::Job(place)).await?;
        }
        self.site.observe()?;
        // What was there already is no news.
        self.idle(Instant::now() + Duration::from_millis(300)).await?;
        Ok(engineers)
    }

    /// Makes a step; answers whether what it meant to do was done. Where a reader changes the same branch at the same
    /// moment, it is not.
    async fn step(&mut self, engineers: &Engineers, step: Step) -> Result<bool> {
        let (change, push, wanted) = match step {
            Step::Change(change, wanted) => {
                let push = engineers.push(&change).await?;
                (change, push, wanted)
            }
            Step::Update(change, wanted) => {
                let update = self.site.update(&change).await?;
                (change, update, wanted)
            }
            Step::Rotate(change, wanted) => {
                let rotation = self.site.rotate(SECRET).await?;
                (change, rotation, wanted)
            }
            Step::Mistake(change) => {
                let push = engineers.push(&change).await?;
                if push.accepted {
                    bail!("a push that pins a tag that does not exist was accepted:\n{}", push.output);
                }
                self.timeline.show_refused(&change, &push);
                return Ok(true);
            }
        };
        if push.accepted {
            self.follow(&change, &push, &wanted).await?;
        } else {
            self.timeline.show_refused(&change, &push);
        }
        Ok(push.accepted)
    }

    /// Waits until every job that the change concerns has read it, and shows the change.
    async fn follow(&mut self, change: &Change, push: &Push, wanted: &[(usize, String)]) -> Result<()> {
        let sequence =
            landed_as(push).with_context(|| format!("conf-master did not say as what it landed:\n{}", push.output))?;
        let deadline = Instant::now() + PATIENCE;
        let read = |jobs: &BTreeMap<(u64, usize), Report>, (place, words): &(usize, String)| {
            jobs.get(&(sequence, *place)).is_some_and(|report| report.words == *words)
        };
        while let Some(missing) = wanted.iter().find(|wanted| !read(&self.jobs, wanted)) {
            if !self.next(deadline).await? {
                self.timeline.show(sequence, change, push);
                let at = &PLACES[missing.0];
                bail!(
                    "the {} on {} did not read \"{}\" of change #{sequence} within {} s; it read {:?}\n{}",
                    at.job,
                    at.host,
                    missing.1,
                    PATIENCE.as_secs(),
                    self.jobs.iter().rfind(|((_, place), _)| *place == missing.0),
                    self.site.failure(Unit::Host(missing.0)),
                );
            }
        }
        for (place, _) in wanted {
            self.timeline.measure(push, *place, &self.jobs[&(sequence, *place)]);
        }
        // The other hosts, which only move on to the new sequence, are seen as well.
        let grace = Instant::now() + Duration::from_millis(150);
        while self.next(grace).await? {}
        self.timeline.show(sequence, change, push);
        self.shown = self.shown.max(sequence);
        self.jobs.retain(|(seen, _), _| *seen >= sequence);
        Ok(())
    }

    /// Lets time pass; shows what others do meanwhile.
    async fn idle(&mut self, until: Instant) -> Result<()> {
        loop {
            let more = self.next(until.min(Instant::now() + Duration::from_millis(100))).await?;
            for sequence in self.timeline.strangers(self.shown, Duration::from_millis(500)) {
                self.timeline.show_stranger(sequence);
                self.shown = self.shown.max(sequence);
            }
            if !more && Instant::now() >= until {
                self.timeline.forget_up_to(self.shown);
                return Ok(());
            }
        }
    }

    /// Takes note of the next thing that is seen; answers whether there was one before `deadline`.
    async fn next(&mut self, deadline: Instant) -> Result<bool> {
        let Ok(seen) = timeout_at(deadline, self.seen.recv()).await else {
            return Ok(false);
        };
        let seen = seen.context("nobody observes any more")?;
        if let Seen::Died(unit, status) = seen {
            say!("\n{}  {} ended ({status}); it is started again", site::clock(SystemTime::now()), unit.name());
            self.site.forget(unit);
            // As systemd does.
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.site.start(unit).await?;
            return Ok(true);
        }
        match seen {
            // For which change a job manager was woken is known when it has started its job.
            Seen::Job(place, report) if report.sequence == 0 => {
                if report.reason == "woken" {
                    self.woken.insert(place, report);
                } else {
                    say!("\n{}  {} {}", site::clock(report.at), PLACES[place].host, report.words);
                }
            }
            Seen::Job(place, report) => {
                if let Some(woken) = self.woken.remove(&place) {
                    self.timeline.note(&Seen::Job(place, Report { sequence: report.sequence, ..woken }));
                }
                self.timeline.note(&Seen::Job(place, report.clone()));
                self.jobs.insert((report.sequence, place), report);
            }
            seen => self.timeline.note(&seen),
        }
        Ok(true)
    }
}

/// The sequence that conf-master told: `us-west/v1 #1234: …` of a push, `services/web@main: version 5, #1234` of an update,
/// `sessionKey of us-west/v1: #1234` of a secret.
fn landed_as(push: &Push) -> Option<u64> {
    let before = match push.way {
        Way::Push => format!("{DATACENTER} #"),
        Way::Api => ", #".to_owned(),
        Way::Rotation => ": #".to_owned(),
    };
    let after = push.output.split_once(&before)?.1;
    let digits = after.find(|character: char| !character.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}
