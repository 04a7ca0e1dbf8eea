//! The demonstration itself: starts everything, makes each step of the story, and waits until every
//! job has read it.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use poc::Report;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    engineers::{Change, Engineers, Push, Way},
    observe::Observation,
    place::{DATACENTER, PLACES, Unit},
    print::{clock, say},
    site::Site,
    story::{SECRET, Step, Story},
    timeline::Timeline,
    try_it,
};

/// The longest time from a change until every job has read it; far above the usual time on a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The demonstration.
pub(crate) struct Show {
    /// Everything that runs.
    pub site: Site,
    /// The times.
    pub timeline: Timeline,
    observed: mpsc::Receiver<Observation>,
    /// The newest change that was shown.
    shown: u64,
    /// The reports of job managers that were woken and have not started their jobs yet.
    woken: BTreeMap<usize, Report>,
    /// The report of each job, by change and place.
    jobs: BTreeMap<(u64, usize), Report>,
}

impl Show {
    /// Makes the site; runs nothing yet.
    pub(crate) fn new(consul: Option<String>, tls: bool) -> Result<Self> {
        let (sender, observed) = mpsc::channel(1024);
        let (site, timeline) = (Site::new(consul, tls, sender)?, Timeline::default());
        Ok(Show { site, timeline, observed, shown: 0, woken: BTreeMap::new(), jobs: BTreeMap::new() })
    }

    /// Plays the short story once, or else the long one without an end, with a change every `every`
    /// seconds.
    pub(crate) async fn play(&mut self, once: bool, every: f64) -> Result<()> {
        say!("Starting the three tiers and three jobs in {} …", self.site.layout.dir.display());
        let mut story = Story::new();
        let engineers = self.begin(&story).await?;
        try_it::print_overview(&self.site)?;
        if once {
            let mut step = 0;
            while let Some(next) = story.short(step) {
                ensure!(self.step(&engineers, next).await?, "a change was refused that should have landed");
                step += 1;
            }
            return Ok(());
        }
        let reader = self.site.layout.dir.join("yours");
        engineers.clone_for_reader(&reader, &self.site.layout.credential_helper()).await?;
        try_it::print(&self.site, &reader)?;
        for step in 0.. {
            self.idle(Instant::now() + Duration::from_secs_f64(every)).await?;
            let next = story.long(step);
            self.step(&engineers, next).await?;
        }
        Ok(())
    }

    /// Starts the tiers, pushes the first content, and starts the jobs.
    async fn begin(&mut self, story: &Story) -> Result<Engineers> {
        self.site.init().await.context("cannot make the central repository")?;
        self.site.start(Unit::Master).await?;
        let url = format!("{}conf.git", self.site.layout.url(Unit::Master)?);
        self.site.make_tokens().await.context("cannot make the tokens of the other programs")?;
        let token = fs::read_to_string(self.site.layout.token(None))?.trim().to_owned();
        let layout = &self.site.layout;
        let authority = layout.tls.as_ref().map(|tls| tls.authority.clone());
        let engineers = Engineers::new(layout.dir.join("engineers.git"), url, token, authority).await?;
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
        // The first content is no news.
        self.idle(Instant::now() + Duration::from_millis(300)).await?;
        Ok(engineers)
    }

    /// Makes a step. Returns false if it was refused, as when the reader changes the same branch at
    /// the same moment.
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
        let sequence = landed_as(push)
            .with_context(|| format!("conf-master did not print the change's sequence:\n{}", push.output))?;
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
        // Also shows the other hosts, which only move on to the new sequence.
        let grace = Instant::now() + Duration::from_millis(150);
        while self.next(grace).await? {}
        self.timeline.show(sequence, change, push);
        self.shown = self.shown.max(sequence);
        self.jobs.retain(|(change, _), _| *change >= sequence);
        Ok(())
    }

    /// Lets time pass, and shows the changes that others make meanwhile.
    async fn idle(&mut self, until: Instant) -> Result<()> {
        loop {
            let more = self.next(until.min(Instant::now() + Duration::from_millis(100))).await?;
            for sequence in self.timeline.others(self.shown, Duration::from_millis(500)) {
                self.timeline.show_other(sequence);
                self.shown = self.shown.max(sequence);
            }
            if !more && Instant::now() >= until {
                self.timeline.forget_up_to(self.shown);
                return Ok(());
            }
        }
    }

    /// Notes the next observation. Returns false if there was none before `deadline`.
    async fn next(&mut self, deadline: Instant) -> Result<bool> {
        let Ok(observation) = timeout_at(deadline, self.observed.recv()).await else {
            return Ok(false);
        };
        let observation = observation.context("the observing tasks have ended")?;
        if let Observation::Died(unit, status) = observation {
            say!("\n{}  {} ended ({status}); it is started again", clock(SystemTime::now()), unit.name());
            self.site.forget(unit);
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.site.start(unit).await?;
            return Ok(true);
        }
        match observation {
            // The change that woke a job manager is known once it has started its job.
            Observation::Job(place, report) if report.sequence == 0 => {
                if report.reason == "woken" {
                    self.woken.insert(place, report);
                } else {
                    say!("\n{}  {} {}", clock(report.at), PLACES[place].host, report.words);
                }
            }
            Observation::Job(place, report) => {
                if let Some(woken) = self.woken.remove(&place) {
                    self.timeline.note(&Observation::Job(place, Report { sequence: report.sequence, ..woken }));
                }
                self.timeline.note(&Observation::Job(place, report.clone()));
                self.jobs.insert((report.sequence, place), report);
            }
            other => self.timeline.note(&other),
        }
        Ok(true)
    }
}

/// Reads the sequence from the output: `us-west/v1 #1234: …` of a push, `services/web@main: version
/// 5, #1234` of an update, `sessionKey of us-west/v1: #1234` of a secret.
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
