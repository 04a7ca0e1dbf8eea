//! What was good, so that it is looked at once.

use std::collections::{BTreeMap, HashSet};

use conf_core::layers::Ingredients;

/// How many good ingredients, or steps between them, are remembered; then all are forgotten.
pub(crate) const MOST_GOOD: usize = 200_000;

/// Ingredients that were good, and steps between ingredients. Each ingredients are kept once and
/// have a number: every change brings some.
#[derive(Debug, Default)]
pub(crate) struct Good {
    numbers: BTreeMap<Ingredients, u32>,
    settings: HashSet<u32>,
    /// From these ingredients to those not too many settings go.
    steps: HashSet<[u32; 2]>,
}

impl Good {
    /// Remembers ingredients whose settings are good.
    pub(crate) fn add(&mut self, ingredients: &Ingredients) {
        self.bound();
        let number = self.number(ingredients);
        self.settings.insert(number);
    }

    /// Remembers a step.
    pub(crate) fn add_step(&mut self, from: &Ingredients, to: &Ingredients) {
        self.bound();
        let step = [self.number(from), self.number(to)];
        self.steps.insert(step);
    }

    /// Tells whether the settings are good.
    pub(crate) fn has(&self, ingredients: &Ingredients) -> bool {
        self.numbers.get(ingredients).is_some_and(|number| self.settings.contains(number))
    }

    /// Tells whether a step is good.
    pub(crate) fn has_step(&self, from: &Ingredients, to: &Ingredients) -> bool {
        let step = [from, to].map(|one| self.numbers.get(one).copied());
        matches!(step, [Some(from), Some(to)] if self.steps.contains(&[from, to]))
    }

    fn number(&mut self, ingredients: &Ingredients) -> u32 {
        if let Some(number) = self.numbers.get(ingredients) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).expect("they are bounded");
        self.numbers.insert(ingredients.clone(), number);
        number
    }

    /// Makes room. What is forgotten is looked at again.
    fn bound(&mut self) {
        if self.numbers.len() >= MOST_GOOD || self.steps.len() >= MOST_GOOD {
            *self = Good::default();
        }
    }
}
