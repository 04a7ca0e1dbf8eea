//! Which keys name secrets.

/// Words that say so wherever a key ends with them: `dbpassword`, `JWTSecret`, `olcRootPW`.
const ENDINGS: [&str; 19] = [
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "pw",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "signkey",
    "encryptionkey",
    "authkey",
    "accountkey",
    "sharedkey",
    "sessionkey",
];
/// Words that say so as a key's last one.
const LAST: [&str; 5] = ["secrets", "masterauth", "credential", "credentials", "pin"];
/// Words that end like one of those by chance.
const OTHERS: [&str; 4] = ["compass", "encompass", "bypass", "surpass"];
/// Directives of nginx and Apache: where to pass a request on.
const PASSED_TO: [&str; 6] = ["proxy", "fastcgi", "uwsgi", "scgi", "grpc", "memcached"];

/// True for a key whose value is a secret.
pub(crate) fn is_secret(key: &str) -> bool {
    let words = words(key);
    let [.., last] = words.as_slice() else { return false };
    if matches!(words.as_slice(), [.., to, pass] if pass == "pass" && PASSED_TO.contains(&to.as_str())) {
        return false;
    }
    let together = words.concat();
    LAST.contains(&last.as_str())
        || (ENDINGS.iter().any(|ending| together.ends_with(ending)) && !OTHERS.contains(&last.as_str()))
}

/// What stands under such a key, with its article.
pub(crate) fn what(key: &str) -> &'static str {
    let last = words(key).pop().unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| last.ends_with(ending));
    if ends(&["token"]) {
        "a token"
    } else if ends(&["key"]) {
        "a key"
    } else if ends(&["secret", "secrets", "credential", "credentials"]) {
        "a secret"
    } else {
        "a password"
    }
}

/// The words of a key: `ssoCookieSignSecret`, `SSO_COOKIE_SIGN_SECRET` and `sso-cookie.sign-secret` have the same.
pub fn words(key: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = '_';
    for letter in key.chars() {
        let begins = !before.is_ascii_alphanumeric() || (letter.is_ascii_uppercase() && !before.is_ascii_uppercase());
        if letter.is_ascii_alphanumeric() {
            if begins || words.is_empty() {
                words.push(String::new());
            }
            words.last_mut().expect("one was just pushed").push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words
}
