//! Values that stand beside each other, joined as far as possible before substitutions are known.

use std::borrow::Cow;

use crate::settings::{
    fault::Fault,
    hocon::{
        scalar::check_number,
        tree::{Node, Scalar, Shape},
    },
};

/// Makes one value of those that stand beside each other, as far as that can be done before
/// substitutions are known.
pub(crate) fn combine(mut pieces: Vec<Node<'_>>, line: usize) -> Result<Vec<Node<'_>>, Fault> {
    if let [Node { shape, .. }] = &pieces[..] {
        if let Shape::Scalar(Scalar::Number(text)) = shape {
            check_number(text, line)?;
        }
        return Ok(pieces);
    }
    let has = |test: fn(&Shape<'_>) -> bool| pieces.iter().any(|piece| test(&piece.shape));
    let texts = has(|shape| matches!(shape, Shape::Scalar(scalar) if !matches!(scalar, Scalar::Blanks(_))));
    let arrays = has(|shape| matches!(shape, Shape::Array(_)));
    let objects = has(|shape| matches!(shape, Shape::Object(_)));
    let substitutions = has(|shape| matches!(shape, Shape::Substitution(_)));
    if [texts, arrays, objects].into_iter().filter(|kind| *kind).count() > 1 {
        return Err(Fault::new(line, MIXED));
    }
    let definition = pieces[0].definition;
    if !texts && (arrays || objects) {
        pieces.retain(|piece| !matches!(piece.shape, Shape::Scalar(_)));
    }
    if objects {
        // Merged one after the other, like fields that are written one below the other.
        for piece in &mut pieces {
            if let Shape::Substitution(substitution) = &mut piece.shape {
                substitution.must_be_object = true;
            }
        }
        return Ok(pieces);
    }
    let shape = if substitutions {
        Shape::Concatenation(pieces)
    } else if arrays {
        Shape::Array(pieces.into_iter().flat_map(|piece| elements_of(piece.shape)).collect())
    } else {
        Shape::Scalar(Scalar::Text(Cow::Owned(pieces.iter().map(|piece| text_of(&piece.shape)).collect())))
    };
    Ok(vec![Node { line, definition, shape }])
}

pub(crate) const MIXED: &str =
    "text, lists and objects stand beside each other in one value; write a comma or a line break between them";

fn elements_of(shape: Shape<'_>) -> Vec<Node<'_>> {
    match shape {
        Shape::Array(elements) => elements,
        _ => Vec::new(),
    }
}

fn text_of<'t>(shape: &'t Shape<'_>) -> &'t str {
    match shape {
        Shape::Scalar(scalar) => scalar.as_text(),
        _ => "",
    }
}

/// Makes one node of the parts of a value.
pub(crate) fn single(parts: Vec<Node<'_>>, line: usize) -> Node<'_> {
    match <[Node<'_>; 1]>::try_from(parts) {
        Ok([node]) => node,
        Err(parts) => Node { line, definition: parts[0].definition, shape: Shape::Concatenation(parts) },
    }
}
