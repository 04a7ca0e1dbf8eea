//! The changes to push: the first content, and then one change after the other.
//!
//! `services/web` has a template besides its settings, with a secret in it that conf-master makes
//! and seals to its host.

use crate::{
    engineers::Change,
    place::{DATACENTER, PLACES, Place},
};

/// The class that the datacenter runs.
const CLASS: &str = "datacenter-configuration/small";

/// The secret of `services/web`.
pub(crate) const SECRET: &str = "sessionKey";

/// The template of `web`: its settings, facts about the host and the platform, and the secret.
const PAGE: &str = "{{ settings.greeting }} from {{ host.name }}, {{ platform.domain }}\n{{ secrets.sessionKey }}\n";

/// The next step.
pub(crate) enum Step {
    /// A change that lands, and the words that the job of each place (by index) then reports.
    Change(Change, Vec<(usize, String)>),
    /// The same through the API, as a program would do it: it replaces one section.
    Update(Change, Vec<(usize, String)>),
    /// A new value for the secret, which only the job of one place reads.
    Rotate(Change, Vec<(usize, String)>),
    /// A change that must be refused.
    Mistake(Change),
}

/// The settings of a component: a value, and the release that changed it last.
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
    /// Begins the story, before the first push.
    pub(crate) fn new() -> Self {
        let now = [0, 10, 50].map(|value| Content { release: 0, value });
        Story { release: 0, now, before: now }
    }

    /// Makes the first push: the class, the datacenter with its hosts' public keys, and three
    /// components.
    pub(crate) fn beginning(&self, keys: &[String]) -> Change {
        let host = |(place, key): (&Place, &String)| {
            format!("    {}: {{components: [{}], key: {key}}}\n", place.host, place.component)
        };
        let hosts: String = PLACES.iter().zip(keys).map(host).collect();
        let secret = format!("  {SECRET}: {{generate: {{length: 32, encoding: base64}}, readers: [services/web]}}\n");
        let instance = format!(
            "conf: {CLASS}/latest\nplatform: {{domain: example.com}}\nsecrets:\n{secret}inventories:\n  hosts:\n{hosts}"
        );
        let change = Change::new("ana", "begin").edit(CLASS, "datacenter.yaml", class("latest")).edit(
            format!("datacenters/{DATACENTER}"),
            "datacenter.yaml",
            instance,
        );
        (0..3).fold(change, |change, place| self.edit(change, place))
    }

    /// Makes a step of the short story: three changes for every job, one mistake, one change
    /// through the API, and a new value for the secret.
    pub(crate) fn short(&mut self, step: u64) -> Option<Step> {
        match step {
            2 => Some(Self::mistake()),
            0..=3 => Some(self.everywhere()),
            4 => Some(self.update()),
            5 => Some(self.rotate()),
            _ => None,
        }
    }

    /// Makes a step of the long story, which never ends.
    pub(crate) fn long(&mut self, step: u64) -> Step {
        match step % 7 {
            0 => self.everywhere(),
            1 => self.change("ben", &[0], |greeting| greeting + 1, "change the greeting"),
            2 => self.change("chen", &[1, 2], |value| value + 5, "sell more, with more connections"),
            3 => Self::mistake(),
            4 => self.update(),
            5 => self.rotate(),
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

    /// A program writes a discount that it worked out through the API.
    fn update(&mut self) -> Step {
        match self.change("pricing", &[1], |discount| discount + 3, "a discount worked out by a program") {
            Step::Change(change, wanted) => Step::Update(change, wanted),
            other => other,
        }
    }

    /// An engineer replaces a key that someone may have seen, without a commit.
    fn rotate(&self) -> Step {
        Step::Rotate(Change::new("chen", "rotate"), vec![(0, self.words(0))])
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

    /// An engineer pins a version that has no tag.
    fn mistake() -> Step {
        Step::Mistake(Change::new("chen", "run v9 of web").edit(CLASS, "datacenter.yaml", class("v9")))
    }

    fn edit(&self, change: Change, place: usize) -> Change {
        let text = self.settings(place).map(|(key, value)| format!("{key}: {value}\n")).concat();
        let branch = format!("{}/main", PLACES[place].component);
        let change = if place == 0 { change.edit(branch.clone(), "page.txt.j2", PAGE) } else { change };
        change.edit(branch, "config.yaml", text)
    }

    /// Returns the words that a job reports.
    pub(crate) fn words(&self, place: usize) -> String {
        let settings = self.settings(place);
        let words = settings.each_ref().map(|(key, value)| format!("{key} {value}")).join(", ");
        if place != 0 {
            return words;
        }
        // 44 characters: 32 bytes in base64.
        format!("{words}, page \"{} from {}, example.com\", a key of 44 characters", settings[1].1, PLACES[0].host)
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

/// Makes the class's `datacenter.yaml`, with this tag of `web`.
fn class(tag_of_web: &str) -> String {
    let entry = |place: &Place| {
        let name = place.component.trim_start_matches("services/");
        let tag = if name == "web" { tag_of_web } else { "latest" };
        format!("  - {{name: {name}, branch: main, tag: {tag}}}\n")
    };
    format!("services:\n{}", PLACES.each_ref().map(entry).concat())
}
