//! Text with wildcards.

/// Matches a glob: `*` is any number of characters, `?` is one. Going back to the last `*` alone
/// keeps the time from growing with the number of `*`.
pub(crate) fn matches(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((back, from)) = star else { return false };
                star = Some((back, from + 1));
                at = back + 1;
                seen = from + 1;
            }
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_glob_matches_the_name_that_it_was_made_from(name in "[a-c]{1,8}", stars in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
            // A '*' in the place of any part of a name still matches the name.
            let mut glob = name.clone();
            for star in stars {
                let at = star.index(glob.len());
                glob.replace_range(at..=at, "*");
            }
            prop_assert!(matches(&glob, &name), "{} {}", glob, name);
            let longer = format!("{name}x");
            prop_assert_eq!(matches(&glob, &longer), glob.ends_with('*'));
        }
    }

    #[test]
    fn a_glob_of_many_stars_ends() {
        let name = "a".repeat(100);
        assert!(!matches(&("*a".repeat(50) + "b"), &name));
        assert!(matches(&"*a".repeat(50), &name));
    }
}
