//! One step of a fetch, and its request.

use bytes::Bytes;
use git2::Repository;

use crate::git::{
    connectivity::{Missing, complete, complete_history, complete_two},
    pktline::push_line,
};
use libconf::name::CommitId;

/// How much history a first fetch brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Full,
    /// The wanted commit alone; the repository becomes a shallow one.
    One,
    /// The wanted commit and the one before it.
    Two,
    /// The wanted commit alone, also when there is a `have`: nothing comes that only commits
    /// between the two have.
    Alone,
}

/// One step from what a repository has to what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A commit that is here, complete; `None` for a first fetch.
    pub have: Option<CommitId>,
    /// The commit to get.
    pub want: CommitId,
    /// How much history: with a `have`, all that leads to it, unless this is [`Depth::Alone`].
    pub depth: Depth,
}

impl Step {
    /// The body of the request, a `fetch` of Git protocol v2 that negotiates nothing: the same
    /// bytes from every program that makes this step.
    pub fn request(&self) -> Bytes {
        let mut text = String::new();
        push_line(&mut text, "command=fetch");
        text.push_str("0001");
        for line in ["thin-pack", "no-progress", "ofs-delta"] {
            push_line(&mut text, line);
        }
        push_line(&mut text, &format!("want {}", self.want));
        if let Some(have) = self.have {
            push_line(&mut text, &format!("have {have}"));
        }
        match (self.have, self.depth) {
            (_, Depth::Alone) | (None, Depth::One) => push_line(&mut text, "deepen 1"),
            (None, Depth::Two) => push_line(&mut text, "deepen 2"),
            (Some(_), _) | (None, Depth::Full) => {}
        }
        push_line(&mut text, "done");
        text.push_str("0000");
        text.into()
    }

    /// Reads a request that is a step, byte for byte as [`Step::request`] makes it.
    pub fn parse(request: &[u8]) -> Option<Step> {
        // Two ids and the lines around them.
        let text = std::str::from_utf8(request).ok().filter(|text| text.len() < 512)?;
        let id = |word: &str| text.lines().find_map(|line| line.get(4..)?.strip_prefix(word)?.parse().ok());
        let step = Step { want: id("want ")?, have: id("have "), depth: Depth::Full };
        [step, Step { depth: Depth::One, ..step }].into_iter().find(|step| step.request() == request)
    }

    /// Checks that every object of the step is present.
    pub(crate) fn check(&self, repo: &Repository) -> Result<(), Missing> {
        match self.depth {
            Depth::Full => complete_history(repo, self.have.as_slice(), &[self.want]),
            Depth::One | Depth::Alone => complete(repo, self.have, self.want),
            Depth::Two => complete_two(repo, self.want),
        }
    }
}
