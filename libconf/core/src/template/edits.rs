//! Edits of a template's source, and the way back from the edited source to the author's.

use std::ops::Range;

/// Replacements in a source. None overlaps another.
#[derive(Debug, Default)]
pub(crate) struct Edits(Vec<(Range<usize>, String)>);

/// A source as the engine gets it.
#[derive(Debug)]
pub(crate) struct Edited {
    pub(crate) text: String,
    /// The author's own bytes in `text`, piece by piece.
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Where the piece begins in the edited text.
    edited: usize,
    /// Where it is in the source.
    original: Range<usize>,
}

impl Edits {
    /// Replaces a range; an empty one is a place to insert at.
    pub(crate) fn replace(&mut self, range: Range<usize>, words: &[&str]) {
        self.0.push((range, words.concat()));
    }

    pub(crate) fn apply(mut self, source: &str) -> Edited {
        self.0.sort_by_key(|(range, _)| range.start);
        let (mut text, mut kept, mut at) = (String::with_capacity(source.len()), Vec::new(), 0);
        for (range, words) in self.0 {
            kept.push(Kept { edited: text.len(), original: at..range.start });
            text.push_str(&source[at..range.start]);
            text.push_str(&words);
            at = range.end;
        }
        kept.push(Kept { edited: text.len(), original: at..source.len() });
        text.push_str(&source[at..]);
        Edited { text, kept }
    }
}

impl Edited {
    /// Returns the author's words for a range of the edited source. What was inserted has none.
    pub(crate) fn original<'s>(&self, range: Range<usize>, source: &'s str) -> Option<&'s str> {
        let place = |at: usize| {
            let last = self.kept.partition_point(|kept| kept.edited <= at).checked_sub(1)?;
            let Kept { edited, original } = &self.kept[last];
            Some(original.end.min(original.start + (at - edited)))
        };
        source.get(place(range.start)?..place(range.end)?)
    }
}
