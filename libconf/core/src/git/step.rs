//! One step of a fetch, and its request.

use bytes::Bytes;
use git2::Repository;

use crate::git::{
    connectivity::{Missing, complete, complete_history, complete_two},
    pktline::push_line,
};
use libconf::name::{CommitId, ObjectId};

/// How much history a first fetch brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Full,
    /// The wanted commit alone; the repository becomes a shallow one.
    One,
    /// The wanted commit and the one before it.
    Two,
}

/// One step from what a repository has to what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A commit that is here, complete; `None` for a first fetch.
    pub have: Option<CommitId>,
    /// The commit to get.
    pub want: CommitId,
    /// How much history, when there is no `have`.
    pub depth: Depth,
}

impl Step {
    /// The body of the request: the same bytes from every program that makes this step.
    pub fn request(&self) -> Bytes {
        Ask::from(*self).body()
    }

    /// Reads a request that is a step, byte for byte as [`Step::request`] makes it.
    pub fn parse(request: &[u8]) -> Option<Step> {
        // Two ids and the lines around them.
        let text = std::str::from_utf8(request).ok().filter(|text| text.len() < 512)?;
        let id = |word: &str| text.lines().find_map(|line| line.get(4..)?.strip_prefix(word)?.parse().ok());
        let step = Step { want: id("want ")?, have: id("have "), depth: Depth::Full };
        [step, Step { depth: Depth::One, ..step }].into_iter().find(|step| step.request() == request)
    }
}

/// The content of one POST.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) wants: Vec<ObjectId>,
    pub(crate) haves: Vec<ObjectId>,
    pub(crate) depth: Depth,
}

impl From<Step> for Ask {
    fn from(step: Step) -> Self {
        Ask { wants: vec![step.want], haves: step.have.into_iter().collect(), depth: step.depth }
    }
}

impl Ask {
    /// A `fetch` of Git protocol v2 that negotiates nothing.
    pub(crate) fn body(&self) -> Bytes {
        let mut text = String::new();
        push_line(&mut text, "command=fetch");
        text.push_str("0001");
        for line in ["thin-pack", "no-progress", "ofs-delta"] {
            push_line(&mut text, line);
        }
        for want in &self.wants {
            push_line(&mut text, &format!("want {want}"));
        }
        for have in &self.haves {
            push_line(&mut text, &format!("have {have}"));
        }
        match self.depth {
            Depth::One if self.haves.is_empty() => push_line(&mut text, "deepen 1"),
            Depth::Two if self.haves.is_empty() => push_line(&mut text, "deepen 2"),
            Depth::Full | Depth::One | Depth::Two => {}
        }
        push_line(&mut text, "done");
        text.push_str("0000");
        text.into()
    }

    /// Checks that every wanted object is present.
    pub(crate) fn check(&self, repo: &Repository) -> Result<(), Missing> {
        match self.depth {
            Depth::Full => complete_history(repo, &self.haves, &self.wants),
            Depth::One => self.wants.iter().try_for_each(|want| complete(repo, self.haves.first().copied(), *want)),
            Depth::Two => self.wants.iter().try_for_each(|want| complete_two(repo, *want)),
        }
    }
}
