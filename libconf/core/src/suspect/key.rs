//! Decides which keys name secrets.

/// Words that name a secret wherever a key ends with them: `dbpassword`, `JWTSecret`, `olcRootPW`.
const ENDINGS: &str = "password passwd passphrase pass pwd pw secret token apikey accesskey secretkey privatekey signingkey \
                       signkey encryptionkey authkey accountkey sharedkey sessionkey authsalt noncesalt loggedinsalt";
/// Words that name a secret as the last word of a key.
const LAST: &str = "secrets masterauth credential credentials pin";
/// Words that have such an ending by chance.
const OTHERS: &str = "compass encompass bypass surpass";
/// Directives of nginx and Apache that name where to pass a request on.
const PASSED_TO: &str = "proxy fastcgi uwsgi scgi grpc memcached";

fn is_one_of(list: &str, word: &str) -> bool {
    list.split(' ').any(|one| one == word)
}

/// Tells whether the value of a key is a secret.
pub(crate) fn is_secret(key: &str) -> bool {
    let words = words(key);
    let [.., last] = words.as_slice() else { return false };
    if matches!(words.as_slice(), [.., to, pass] if pass == "pass" && is_one_of(PASSED_TO, to)) {
        return false;
    }
    let together = words.concat();
    is_one_of(LAST, last) || (ENDINGS.split(' ').any(|ending| together.ends_with(ending)) && !is_one_of(OTHERS, last))
}

/// Describes the value of such a key, with an article.
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

/// Splits a key into words: `ssoCookieSignSecret`, `SSO_COOKIE_SIGN_SECRET` and
/// `sso-cookie.sign-secret` have the same.
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
