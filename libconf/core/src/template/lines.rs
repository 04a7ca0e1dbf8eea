//! Lines that hold only tags leave no line.
//!
//! The engine can only drop every line break that follows a tag, and every blank that a line begins
//! with before a tag, whatever else the line holds. So it drops neither, and this pass marks what
//! goes, before the engine reads the source: it makes a comment of it. Line breaks stay line
//! breaks, so that faults have their lines.

use crate::template::{
    edits::Edits,
    scan::{Kind, Part, Sign},
};

/// A run of blanks, with the line break that ends it, in a line that may go.
struct Blanks {
    begin: usize,
    end: usize,
    /// The part before it, in the same line.
    left: Option<usize>,
    /// The part behind it, in the same line.
    right: Option<usize>,
}

/// One line, as far as it is read.
#[derive(Default)]
struct Line {
    blanks: Vec<Blanks>,
    has_tag: bool,
    has_content: bool,
}

/// Marks the blanks and line breaks of each line that holds nothing but tags, comments, spaces and
/// tabs. A tag or a comment that spans lines makes one line of them.
pub(crate) fn drop_lines_of_tags(source: &str, parts: &[Part], edits: &mut Edits) {
    let mut line = Line::default();
    for (number, part) in parts.iter().enumerate() {
        match part.kind {
            Kind::Tag | Kind::Raw | Kind::EndRaw | Kind::Comment => line.has_tag = true,
            Kind::Expression | Kind::Broken => line.has_content = true,
            Kind::Text | Kind::RawText => {
                let text = &source[part.range.clone()];
                let mut begin = part.range.start;
                for piece in text.split_inclusive('\n') {
                    let end = begin + piece.len();
                    let (left, right) = (
                        number.checked_sub(1).filter(|_| begin == part.range.start),
                        Some(number + 1).filter(|next| end == part.range.end && *next < parts.len()),
                    );
                    let ends_line = piece.ends_with('\n');
                    let right = right.filter(|_| !ends_line);
                    // The text of `{% raw %}` on one line with its tags is content, blanks too.
                    let is_inside = part.kind == Kind::RawText && signs(parts, left, right) == Some([Sign::None; 2]);
                    line.has_content |= is_inside || !is_blank(piece);
                    line.blanks.push(Blanks { begin, end, left, right });
                    if ends_line {
                        std::mem::take(&mut line).finish(source, parts, edits);
                    }
                    begin = end;
                }
            }
        }
    }
    line.finish(source, parts, edits);
}

/// Returns the signs around blanks that are between two parts.
fn signs(parts: &[Part], left: Option<usize>, right: Option<usize>) -> Option<[Sign; 2]> {
    Some([parts[left?].closing, parts[right?].opening])
}

/// True for spaces and tabs, and a line break at the end.
fn is_blank(piece: &str) -> bool {
    let blanks = piece.strip_suffix('\n').map_or(piece, |rest| rest.strip_suffix('\r').unwrap_or(rest));
    blanks.bytes().all(|byte| matches!(byte, b' ' | b'\t'))
}

impl Line {
    fn finish(self, source: &str, parts: &[Part], edits: &mut Edits) {
        if !self.has_tag || self.has_content {
            return;
        }
        for Blanks { begin, end, left, right } in self.blanks {
            let (left, right) = (left.map(|number| &parts[number]), right.map(|number| &parts[number]));
            // The engine follows the author's own signs.
            let signs = [left.map_or(Sign::None, |part| part.closing), right.map_or(Sign::None, |part| part.opening)];
            if signs != [Sign::None; 2] {
                continue;
            }
            let blanks = &source[begin..end];
            match (left, right) {
                // Around raw text the engine knows no comments, but ignores blanks in the tag.
                (Some(raw), _) if raw.kind == Kind::Raw => edits.replace(raw.range.end - 2..end, &[blanks, "%}"]),
                (_, Some(raw)) if raw.kind == Kind::EndRaw => {
                    edits.replace(begin..raw.range.start + 2, &["{%", blanks]);
                }
                _ => {
                    edits.replace(begin..begin, &["{#"]);
                    edits.replace(end..end, &["#}"]);
                }
            }
        }
    }
}
