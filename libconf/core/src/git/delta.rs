//! Deltas: how one object is told by another. Source: gitformat-pack(5).

use std::ops::Range;

use crate::git::pack::low_byte;

/// Makes the delta from `old` to `new`: it copies the equal bytes at both ends and inserts the
/// bytes between. Trees and settings mostly differ in one place, and for those no delta is smaller.
pub(crate) fn delta(old: &[u8], new: &[u8]) -> Vec<u8> {
    let prefix = old.iter().zip(new).take_while(|(one, other)| one == other).count();
    let (old_rest, new_rest) = (&old[prefix..], &new[prefix..]);
    let suffix = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(one, other)| one == other).count();
    let mut delta = Vec::new();
    push_size(&mut delta, old.len());
    push_size(&mut delta, new.len());
    push_copy(&mut delta, 0, prefix);
    for part in new_rest[..new_rest.len() - suffix].chunks(0x7f) {
        delta.push(low_byte(part.len()));
        delta.extend_from_slice(part);
    }
    push_copy(&mut delta, old.len() - suffix, suffix);
    delta
}

fn push_size(delta: &mut Vec<u8>, mut size: usize) {
    while size > 0x7f {
        delta.push(low_byte(size & 0x7f) | 0x80);
        size >>= 7;
    }
    delta.push(low_byte(size));
}

/// Copies at most 65,535 bytes at a time: a larger size has another form in old readers.
fn push_copy(delta: &mut Vec<u8>, mut offset: usize, mut length: usize) {
    while length > 0 {
        let part = length.min(0xffff);
        let at = delta.len();
        delta.push(0x80);
        let mut push = |bits: std::ops::Range<usize>, number: usize| {
            for (place, bit) in bits.enumerate() {
                let byte = low_byte(number >> (8 * place));
                if byte != 0 {
                    delta[at] |= 1 << bit;
                    delta.push(byte);
                }
            }
        };
        // Four bytes of offset reach far beyond the largest object here; two bytes of length hold
        // `part`.
        push(0..4, offset);
        push(4..6, part);
        offset += part;
        length -= part;
    }
}

/// Applies a delta. `left` is how many bytes the result may have, and is lowered by them. `None`
/// when it may not, or when the delta is damaged or against something else.
pub(crate) fn apply(old: &[u8], delta: &[u8], left: &mut usize) -> Option<Vec<u8>> {
    let mut delta = delta;
    let (old_size, new_size) = (take_size(&mut delta)?, take_size(&mut delta)?);
    *left = left.checked_sub(new_size)?;
    if old_size != old.len() {
        return None;
    }
    let mut new = Vec::with_capacity(new_size);
    while let Some(order) = take(&mut delta) {
        let part = match order {
            0 => return None,
            1..0x80 => {
                let (part, rest) = delta.split_at_checked(usize::from(order))?;
                delta = rest;
                part
            }
            _ => {
                let offset = take_number(&mut delta, order, 0..4)?;
                let length = take_number(&mut delta, order, 4..7)?;
                let length = if length == 0 { 0x1_0000 } else { length };
                old.get(offset..offset.checked_add(length)?)?
            }
        };
        if part.len() > new_size - new.len() {
            return None;
        }
        new.extend_from_slice(part);
    }
    (new.len() == new_size).then_some(new)
}

fn take(delta: &mut &[u8]) -> Option<u8> {
    let (first, rest) = delta.split_first()?;
    *delta = rest;
    Some(*first)
}

/// Takes a size: groups of 7 bits, the lowest first. More than 2^35 is refused.
fn take_size(delta: &mut &[u8]) -> Option<usize> {
    let mut size = 0;
    for group in 0..5 {
        let byte = take(delta)?;
        size |= usize::from(byte & 0x7f).checked_shl(7 * group)?;
        if byte & 0x80 == 0 {
            return Some(size);
        }
    }
    None
}

/// Takes the bytes of a number that `order` says are there; the others are 0.
fn take_number(delta: &mut &[u8], order: u8, bits: Range<u8>) -> Option<usize> {
    let mut number = 0;
    for bit in bits.clone().filter(|bit| order & 1 << bit != 0) {
        number |= usize::from(take(delta)?) << (8 * (bit - bits.start));
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(old: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
        apply(old, delta, &mut 10_000_000)
    }

    proptest! {
        #[test]
        fn a_delta_gives_the_new_bytes(
            head in prop::collection::vec(any::<u8>(), 0..300),
            tail in prop::collection::vec(any::<u8>(), 0..300),
            one in prop::collection::vec(any::<u8>(), 0..300),
            other in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let old = [&head[..], &one, &tail].concat();
            let new = [&head[..], &other, &tail].concat();
            prop_assert_eq!(applied(&old, &delta(&old, &new)), Some(new));
        }
    }

    #[test]
    fn large_objects_are_copied_in_parts() {
        let old: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut new = old.clone();
        new[400_000] ^= 1;
        assert_eq!(applied(&old, &delta(&old, &new)), Some(new.clone()));
        assert!(delta(&old, &new).len() < 200);
    }

    #[test]
    fn a_delta_of_another_size_or_beyond_its_bounds_is_refused() {
        let old = b"0123456789";
        let good = [10, 4, 0x90, 4];
        assert_eq!(applied(old, &good).as_deref(), Some(&b"0123"[..]));
        assert_eq!(apply(old, &good, &mut 3), None, "more than may be");
        let mut left = 9;
        assert!(apply(old, &good, &mut left).is_some() && left == 5);
        for bad in [
            &[9, 4, 0x90, 4][..],                     // against something shorter
            &[10, 5, 0x90, 4],                        // makes less than it says
            &[10, 3, 0x90, 4],                        // makes more than it says
            &[10, 4, 0x91, 7, 4],                     // copies from beyond the end
            &[10, 4, 0],                              // an order that is not there
            &[10, 4, 5, 1, 2],                        // inserts more than it has
            &[10, 4, 0x90],                           // ends within an order
            &[10, 0x80],                              // ends within a size
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], // a size without an end
        ] {
            assert_eq!(applied(old, bad), None, "{bad:?}");
        }
        let long = vec![7; 0x1_0000];
        assert_eq!(
            applied(&long, &[0x80, 0x80, 4, 0x80, 0x80, 4, 0x80]).as_ref(),
            Some(&long),
            "no length is the longest"
        );
    }
}
