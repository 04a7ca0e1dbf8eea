//! Names of files and folders: what may not be one, and which are one.

use icu_casemap::CaseMapper;
use icu_normalizer::DecomposingNormalizerBorrowed;

use crate::terminal::is_unprintable;

/// Checks one name; the answer is its fault.
pub fn fault_in_name(name: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(name) else { return Some("the name is not UTF-8") };
    let plain = text.trim_end_matches(['.', ' ']).to_ascii_lowercase();
    match text {
        "" | "." | ".." => Some("no such name may be here"),
        _ if name.len() > 255 => Some("the name is longer than 255 bytes"),
        _ if text.contains(['/', '\\']) => Some("a slash or backslash stands in the name"),
        _ if text.chars().any(is_unprintable) => {
            Some("a control, invisible or direction-changing character stands in the name")
        }
        _ if matches!(plain.split(':').next(), Some(".git" | "git~1")) => Some("no name may mean .git"),
        _ => None,
    }
}

/// Returns the form in which two names are the same: for a file system that folds case, such as
/// those of macOS and Windows, or for people. Source: Unicode, 3.13.5, D145 (canonical caseless
/// matching).
pub fn folded_name(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    let decompose = DecomposingNormalizerBorrowed::new_nfd();
    decompose.normalize(&CaseMapper::new().fold_string(&decompose.normalize(name))).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["nginx.conf", ".gitignore", ".gitattributes", ".gitmodules", "ümlaut", "a b", "..a", "git"] {
            assert_eq!(fault_in_name(good.as_bytes()), None, "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            ".git",
            ".GIT",
            ".git.",
            ".git ",
            "GIT~1",
            ".git::$INDEX_ALLOCATION",
            "a\\b",
            "a\nb",
            "a\u{202e}b",
            ".g\u{200c}it",
            &long,
        ] {
            assert!(fault_in_name(bad.as_bytes()).is_some(), "{bad:?}");
        }
        assert!(fault_in_name(b"\xff").is_some());
    }

    #[test]
    fn twins() {
        for (one, other) in [
            ("README", "readme"),
            ("Größe", "GRÖSSE"),
            ("stra\u{df}e", "STRASSE"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{3a3}ig", "\u{3c2}IG"),
            ("\u{fb01}n", "fin"),
            ("\u{1e9b}\u{323}", "\u{1e9b}\u{323}"),
            ("\u{212b}", "\u{e5}"),
        ] {
            assert_eq!(folded_name(one), folded_name(other), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("cafe", "caf\u{e9}"), ("\u{131}", "i"), ("\u{ff21}", "a")] {
            assert_ne!(folded_name(one), folded_name(other), "{one} {other}");
        }
    }
}
