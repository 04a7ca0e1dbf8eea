//! The output: one block per push, with the moment at which each tier and each job had it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use owo_colors::Style;
use poc::Report;

use crate::{
    engineers::{Change, Push, Way},
    observe::Observation,
    place::PLACES,
    print::{clock, paint, say},
    story::SECRET,
};

/// One line of a block.
#[derive(Clone, Debug)]
struct Entry {
    at: SystemTime,
    who: String,
    what: String,
    kind: Kind,
}

/// A kind of entry, in the order in which they must have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Landed,
    Published,
    Woken,
    Exported(usize),
    Read(usize),
}

/// Sorts entries by time. An event of a tier may arrive later than the report of a job that read it
/// there. Then the tier had the change by that time.
fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    let earliest = |entries: &[Entry], wanted: &dyn Fn(Kind) -> bool| {
        entries.iter().filter(|entry| wanted(entry.kind)).map(|entry| entry.at).min()
    };
    for at in 0..entries.len() {
        let proven = match entries[at].kind {
            Kind::Exported(place) => earliest(&entries, &|kind| kind == Kind::Read(place)),
            Kind::Published => earliest(&entries, &|kind| kind > Kind::Published),
            Kind::Landed => earliest(&entries, &|kind| kind > Kind::Landed),
            Kind::Woken | Kind::Read(_) => None,
        };
        if let Some(proven) = proven {
            entries[at].at = entries[at].at.min(proven);
        }
    }
    entries.sort_by_key(|entry| (entry.at, entry.kind));
    entries
}

/// The observations of each change, and the latencies.
#[derive(Default)]
pub(crate) struct Timeline {
    entries: BTreeMap<u64, Vec<Entry>>,
    /// Milliseconds from the end of the command until each kind of job knew of the change.
    latencies: BTreeMap<&'static str, Vec<f64>>,
    /// The numbers of pushes that landed, and that were refused.
    pushes: (u32, u32),
}

impl Timeline {
    /// Keeps an observation until its change is shown.
    pub(crate) fn note(&mut self, observation: &Observation) {
        let (sequence, at, who, what, kind) = match observation {
            Observation::Landed(sequence, at) => {
                (*sequence, *at, "conf-master".into(), "has it, durable".into(), Kind::Landed)
            }
            Observation::Published(sequence, at) => {
                (*sequence, *at, "conf-slave".into(), "has it; the pointers in Consul move".into(), Kind::Published)
            }
            Observation::Exported(place, sequence, at) => {
                let what = "conf-local has switched the files".into();
                (*sequence, *at, PLACES[*place].host.into(), what, Kind::Exported(*place))
            }
            Observation::Job(place, report) => {
                let who = format!("{} {}", PLACES[*place].host, PLACES[*place].job);
                let kind = if report.reason == "woken" { Kind::Woken } else { Kind::Read(*place) };
                (report.sequence, report.at, who, description(report), kind)
            }
            Observation::Died(..) => return,
        };
        self.entries.entry(sequence).or_default().push(Entry { at, who, what, kind });
    }

    /// Forgets the observations of changes up to this one.
    pub(crate) fn forget_up_to(&mut self, sequence: u64) {
        self.entries = self.entries.split_off(&(sequence + 1));
    }

    /// Returns the changes that others made, once they are older than `age`.
    pub(crate) fn others(&self, shown: u64, age: Duration) -> Vec<u64> {
        let old = |entries: &Vec<Entry>| {
            let first = entries.iter().map(|entry| entry.at).min();
            first.is_some_and(|first| first.elapsed().is_ok_and(|elapsed| elapsed > age))
        };
        self.entries.range(shown + 1..).filter(|(_, entries)| old(entries)).map(|(sequence, _)| *sequence).collect()
    }

    /// Shows a push that landed.
    pub(crate) fn show(&mut self, sequence: u64, change: &Change, push: &Push) {
        self.pushes.0 += 1;
        let took = milliseconds(push.began, push.ended);
        say!();
        let command = match push.way {
            Way::Push => "git push",
            Way::Api => "conf-master update",
            Way::Rotation => "conf-master secret rotate",
        };
        say!("{}  {}", heading(push, change), paint(&format!("#{sequence}, {command} took {took:.0} ms"), dim()));
        self.rows(sequence, push.ended);
    }

    /// Shows a change that someone else made: the reader.
    pub(crate) fn show_other(&mut self, sequence: u64) {
        let Some(first) = self.entries.get(&sequence).and_then(|entries| entries.iter().map(|entry| entry.at).min())
        else {
            return;
        };
        say!();
        let heading = format!("{}  someone else's push lands", clock(first));
        say!("{}  {}", paint(&heading, Style::new().bold()), paint(&format!("#{sequence}"), dim()));
        self.rows(sequence, first);
    }

    /// Prints rows in the order of time, counted from `zero`.
    fn rows(&mut self, sequence: u64, zero: SystemTime) {
        let entries = in_order(self.entries.remove(&sequence).unwrap_or_default());
        let (Some(first), Some(last)) = (entries.first().map(|entry| entry.at), entries.last().map(|entry| entry.at))
        else {
            return;
        };
        for Entry { at, who, what, kind } in entries {
            let track = track(milliseconds(first, at), milliseconds(first, last));
            let offset = format!("{:>+9.1} ms  {track}", milliseconds(zero, at));
            let (who, what) = match kind {
                Kind::Landed | Kind::Published | Kind::Exported(_) => (format!("  {who:<20}"), what),
                Kind::Woken | Kind::Read(_) => {
                    (paint(&format!("▸ {who:<20}"), Style::new().cyan()), paint(&what, Style::new().cyan()))
                }
            };
            say!("{}  {who} {what}", paint(&offset, dim()));
        }
    }

    /// Records the time from the end of the command to a job's report.
    pub(crate) fn measure(&mut self, push: &Push, place: usize, report: &Report) {
        let way = match (place, report.reason.as_str()) {
            (0, "SIGHUP") => "signal",
            (1, "libconf") => "libconf",
            (2, "start") => "restart",
            // The job was killed and started again meanwhile.
            _ => return,
        };
        self.latencies.entry(way).or_default().push(milliseconds(push.ended, report.at));
    }

    /// Shows a push that was refused, with the reason that git printed.
    pub(crate) fn show_refused(&mut self, change: &Change, push: &Push) {
        self.pushes.1 += 1;
        say!();
        say!("{}  {}", heading(push, change), paint("refused, nothing lands", Style::new().red().bold()));
        let after = |prefix: &'static str| {
            let lines = push.output.lines().filter_map(move |line| line.trim().strip_prefix(prefix));
            lines.map(str::trim).filter(|line| !line.is_empty())
        };
        // The server's own words; without them git's summary, or the output of the command.
        let reasons = after("remote:").chain(after("! ").take(usize::from(after("remote:").next().is_none())));
        let own = after("").take(if push.way == Way::Push { 0 } else { usize::MAX });
        let mut reasons = reasons.chain(own).peekable();
        while let Some(reason) = reasons.next() {
            let branch = if reasons.peek().is_some() { "├" } else { "└" };
            say!("          {}  {}", paint(branch, dim()), paint(reason, Style::new().red()));
        }
    }

    /// Prints the summary.
    pub(crate) fn summary(&self) {
        let (landed, refused) = self.pushes;
        if landed == 0 {
            return;
        }
        say!();
        let changes = if landed == 1 { "change" } else { "changes" };
        say!("{landed} {changes} landed, {refused} refused. From the end of the command until");
        for (way, words) in [
            ("signal", "the shell script had its SIGHUP   (push-to-signal)"),
            ("libconf", "the Rust program had the settings (libconf)"),
            ("restart", "the restarted job had read its files"),
        ] {
            if let Some((p50, max, count)) = self.latencies.get(way).and_then(|all| spread(all)) {
                say!("  {words:<51} p50 {p50:>6.1} ms   max {max:>6.1} ms   ({count} times)");
            }
        }
        if self.latencies.values().flatten().any(|latency| *latency < 0.0) {
            say!(
                "Below zero: the job had the change before the command ended, which takes a moment after conf-master's answer."
            );
        }
    }
}

fn description(report: &Report) -> String {
    let how = match report.reason.as_str() {
        "woken" => return "its manager is woken by the component's key in Consul".to_owned(),
        "SIGHUP" => "gets SIGHUP",
        "libconf" => "is notified by libconf",
        "start" => "is started",
        other => other,
    };
    format!("{how}, reads {}", report.words)
}

fn heading(push: &Push, change: &Change) -> String {
    let names: Vec<_> = change.edits.keys().map(|branch| branch.trim_end_matches("/main")).collect();
    let services: Vec<_> = names.iter().filter_map(|name| name.strip_prefix("services/")).collect();
    let what = match &names[..] {
        [one] => (*one).to_owned(),
        _ => format!("services/{{{}}}", services.join(",")),
    };
    let (at, author, subject) = (clock(push.began), change.author, &change.subject);
    let heading = match push.way {
        Way::Push => format!("{at}  {author} pushes {what}: \"{subject}\""),
        Way::Api => format!("{at}  {author} updates {what} through the API: \"{subject}\""),
        Way::Rotation => format!("{at}  {author} gives the secret {SECRET} a new value"),
    };
    paint(&heading, Style::new().bold())
}

/// Draws a moment between the first and the last one.
fn track(moment: f64, whole: f64) -> String {
    const WIDTH: f64 = 16.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and WIDTH")]
    let place = (moment / whole.max(0.1) * WIDTH).clamp(0.0, WIDTH).round() as usize;
    format!("{:<17}", "·".repeat(place) + "●")
}

/// Returns the median, the maximum and the count of some numbers.
fn spread(all: &[f64]) -> Option<(f64, f64, usize)> {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    Some((all[all.len().checked_sub(1)? / 2], *all.last()?, all.len()))
}

/// Returns the milliseconds from one moment to another, negative if the other is earlier.
fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(after) => after.as_secs_f64() * 1e3,
        Err(before) => -before.duration().as_secs_f64() * 1e3,
    }
}

fn dim() -> Style {
    Style::new().dimmed()
}

#[cfg(test)]
mod tests {
    use super::{Kind::*, *};

    #[test]
    fn a_late_event_moves_to_where_it_must_have_happened() {
        let entry = |milliseconds: u64, kind| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            Entry { at, who: String::new(), what: String::new(), kind }
        };
        let late =
            vec![entry(9, Exported(0)), entry(7, Read(0)), entry(6, Published), entry(5, Woken), entry(1, Landed)];
        let kinds: Vec<_> = in_order(late).into_iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Landed, Published, Woken, Exported(0), Read(0)]);
    }

    #[test]
    fn a_moment_has_its_place() {
        assert_eq!(track(0.0, 0.0), "●                ");
        assert_eq!(track(5.0, 10.0), "········●        ");
        assert_eq!(track(10.0, 10.0), "················●");
    }

    #[test]
    fn the_median_is_one_of_the_numbers() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[4.0]), Some((4.0, 4.0, 1)));
        assert_eq!(spread(&[3.0, -1.0, 2.0]), Some((2.0, 3.0, 3)));
        assert_eq!(spread(&[3.0, 1.0, 2.0, 9.0]), Some((2.0, 9.0, 4)));
    }
}
