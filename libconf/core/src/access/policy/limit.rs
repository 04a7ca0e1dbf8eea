//! Until when somebody waits for a decision.

use std::time::Instant;

use crate::glob;

/// Until when somebody waits for a decision, if only for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(Option<Instant>);

impl Limit {
    /// However long it takes.
    pub(crate) fn none() -> Self {
        Limit(None)
    }

    /// Until then.
    pub(crate) fn until(until: Instant) -> Self {
        Limit(Some(until))
    }

    /// Tells whether nobody waits any more.
    pub(crate) fn is_over(self) -> bool {
        self.0.is_some_and(|until| Instant::now() >= until)
    }

    /// Tells whether one of these patterns matches a name. What comes after the end matches
    /// nothing.
    pub(crate) fn matches(self, patterns: &[String], name: &str) -> bool {
        let mut waited_for = patterns.iter().take_while(|_| !self.is_over());
        waited_for.any(|pattern| glob::matches(pattern, name))
    }
}
