//! Circles: sets of modules in which each reaches every other one.

use std::collections::{BTreeMap, BTreeSet};

use crate::arrows::Arrows;

/// The circles among these arrows; each is in the order of its numbers.
pub(crate) fn of(arrows: &Arrows) -> Vec<Vec<usize>> {
    let mut after: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(from, to) in arrows.keys() {
        after.entry(from).or_default().push(to);
    }
    let reach: BTreeMap<usize, BTreeSet<usize>> = after.keys().map(|&from| (from, reached(from, &after))).collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for (&module, reached) in &reach {
        if seen.contains(&module) || !reached.contains(&module) {
            continue;
        }
        let comes_back = |other: &&usize| reach.get(other).is_some_and(|back| back.contains(&module));
        let circle: Vec<usize> = reached.iter().filter(comes_back).copied().collect();
        seen.extend(circle.iter().copied());
        circles.push(circle);
    }
    circles
}

/// All that can be reached from a module by one arrow or more.
fn reached(from: usize, after: &BTreeMap<usize, Vec<usize>>) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![from];
    while let Some(module) = waiting.pop() {
        let next = after.get(&module).into_iter().flatten();
        waiting.extend(next.filter(|&&to| reached.insert(to)));
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrows::Arrow;

    #[test]
    fn circles_are_found_whole() {
        let check = |arrows: &[(usize, usize)], expected: &[&[usize]]| {
            let arrows: Arrows = arrows.iter().map(|&between| (between, Arrow::default())).collect();
            assert_eq!(of(&arrows), expected, "{arrows:?}");
        };
        check(&[(1, 2), (2, 3), (1, 3)], &[]);
        check(&[(1, 2), (2, 1)], &[&[1, 2]]);
        check(&[(1, 2), (2, 3), (3, 1), (3, 4), (4, 5), (5, 4)], &[&[1, 2, 3], &[4, 5]]);
    }
}
