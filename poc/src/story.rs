//! What is pushed: the first content, and then one change after the other.

use crate::{
    engineers::Change,
    site::{DATACENTER, PLACES, Place},
};

/// The class that the datacenter runs.
const CLASS: &str = "datacenter-configuration/small";

/// What is pushed next.
pub(crate) enum Step {
    /// A change that lands, and what the job of each place (by index) then reads.
    Change(Change, Vec<(usize, String)>),
    /// The same through the API, as a program would do it: one section, replaced.
    Update(Change, Vec<(usize, String)>),
    /// A mistake.
    Mistake(Change),
}

/// The settings of the three components: one that lives, and the release that touched it last.
#[derive(Clone, Copy)]
struct Content {
    release: u64,
    value: u64,
}

/// The story so far.
pub(crate) struct Story {
    release: u64,
    now: [Content; 3],
    before: [Content; 3],
}

const GREETINGS: [&str; 6] = ["Good morning", "Good day", "Good evening", "Hello", "Welcome", "Ahoy"];

impl Story {
    /// Nothing was pushed yet.
    pub(crate) fn new() -> Self {
        let now = [0, 10, 50].map(|value| Content { release: 0, value });
        Story { release: 0, now, before: now }
    }

    /// The first push: the class, the datacenter, and three components.
    pub(crate) fn beginning(&self) -> Change {
        let host = |place: &Place| format!("    {}: {{components: [{}]}}", place.host, place.component);
        let hosts = PLACES.each_ref().map(host).join("\n");
        let instance = format!("conf: {CLASS}/latest\ninventories:\n  hosts:\n{hosts}\n");
        let change = Change::new("ana", "begin").edit(CLASS, "datacenter.yaml", class("latest")).edit(
            format!("datacenters/{DATACENTER}"),
            "datacenter.yaml",
            instance,
        );
        (0..3).fold(change, |change, place| self.edit(change, place))
    }

    /// Three changes that everybody sees, one mistake, and one change through the API.
    pub(crate) fn short(&mut self, step: u64) -> Option<Step> {
        match step {
            2 => Some(Self::mistake()),
            0..=3 => Some(self.everywhere()),
            4 => Some(self.update()),
            _ => None,
        }
    }

    /// An endless day.
    pub(crate) fn long(&mut self, step: u64) -> Step {
        match step % 6 {
            0 => self.everywhere(),
            1 => self.change("ben", &[0], |greeting| greeting + 1, "greet otherwise"),
            2 => self.change("chen", &[1, 2], |value| value + 5, "sell more, with more connections"),
            3 => Self::mistake(),
            4 => self.update(),
            _ => self.rollback(),
        }
    }

    fn everywhere(&mut self) -> Step {
        let subject = format!("release {}", self.release + 1);
        self.change("ana", &[0, 1, 2], |value| value + 1, &subject)
    }

    fn change(&mut self, author: &'static str, places: &[usize], value: impl Fn(u64) -> u64, subject: &str) -> Step {
        self.release += 1;
        for place in places {
            self.before[*place] = self.now[*place];
            self.now[*place] = Content { release: self.release, value: value(self.now[*place].value) };
        }
        self.step(Change::new(author, subject), places)
    }

    /// What a program finds out, it writes through the API: here the shop's prices.
    fn update(&mut self) -> Step {
        match self.change("pricing", &[1], |discount| discount + 3, "a discount worked out by a program") {
            Step::Change(change, wanted) => Step::Update(change, wanted),
            other => other,
        }
    }

    fn rollback(&mut self) -> Step {
        self.now[1] = self.before[1];
        self.now[2] = self.before[2];
        self.step(Change::new("ben", "roll back: too many connections"), &[1, 2])
    }

    fn step(&self, change: Change, places: &[usize]) -> Step {
        let change = places.iter().fold(change, |change, place| self.edit(change, *place));
        Step::Change(change, places.iter().map(|place| (*place, self.words(*place))).collect())
    }

    /// A version that nobody tagged.
    fn mistake() -> Step {
        Step::Mistake(Change::new("chen", "run v9 of web").edit(CLASS, "datacenter.yaml", class("v9")))
    }

    fn edit(&self, change: Change, place: usize) -> Change {
        let text = self.settings(place).map(|(key, value)| format!("{key}: {value}\n")).concat();
        change.edit(format!("{}/main", PLACES[place].component), "config.yaml", text)
    }

    /// What a job says that it read.
    pub(crate) fn words(&self, place: usize) -> String {
        self.settings(place).map(|(key, value)| format!("{key} {value}")).join(", ")
    }

    fn settings(&self, place: usize) -> [(&'static str, String); 2] {
        let Content { release, value } = self.now[place];
        let own = match place {
            0 => ("greeting", GREETINGS[usize::try_from(value).unwrap_or(0) % GREETINGS.len()].to_owned()),
            1 => ("discount", (value % 100).to_string()),
            _ => ("connections", value.to_string()),
        };
        [("release", release.to_string()), own]
    }
}

/// The class's `datacenter.yaml`, with this tag of `web`.
fn class(tag_of_web: &str) -> String {
    let entry = |place: &Place| {
        let name = place.component.trim_start_matches("services/");
        let tag = if name == "web" { tag_of_web } else { "latest" };
        format!("  - {{name: {name}, branch: main, tag: {tag}}}\n")
    };
    format!("services:\n{}", PLACES.each_ref().map(entry).concat())
}
