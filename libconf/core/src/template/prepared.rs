//! The source that the engine reads in place of the author's.

use crate::template::{
    concat,
    edits::{Edited, Edits},
    lines, scan,
};

/// Makes a source with the same lines, that means for the engine what the author's means for us.
pub(crate) fn prepared(source: &str) -> Edited {
    let (parts, mut edits) = (scan::parts(source), Edits::default());
    lines::drop_lines_of_tags(source, &parts, &mut edits);
    concat::operands_as_texts(source, &parts, &mut edits);
    edits.apply(source)
}
