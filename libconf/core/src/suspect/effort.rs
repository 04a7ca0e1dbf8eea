//! A bound of the work of a search.

use std::cell::Cell;

/// How much work a search may be, in bytes that are looked at again. Without a bound, the time for
/// a line can grow with the square of its length.
pub struct Effort {
    left: Cell<usize>,
}

impl Effort {
    /// Makes a bound.
    pub fn of(bytes: usize) -> Self {
        Effort { left: Cell::new(bytes) }
    }

    /// Takes from what is left; `false` when nothing is.
    pub fn spend(&self, bytes: usize) -> bool {
        self.left.set(self.left.get().saturating_sub(bytes));
        !self.is_spent()
    }

    /// Tells whether nothing is left: then not everything was found.
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}
