//! A command as it is shown: in a status, a problem or a log.

use std::{fmt, ops::Range};

use crate::{
    address::hide_logins,
    settings::one_line,
    suspect::{
        effort::Effort,
        forms,
        line::{self, Values},
    },
};

/// A command: a program and its arguments. What `Display` and `Debug` show of it holds nothing that
/// looks like a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandWords(Vec<String>);

impl CommandWords {
    /// The words as they are run.
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl From<Vec<String>> for CommandWords {
    fn from(words: Vec<String>) -> Self {
        CommandWords(words)
    }
}

impl From<&str> for CommandWords {
    /// A text that should have been a command, as one word.
    fn from(text: &str) -> Self {
        CommandWords(vec![text.to_owned()])
    }
}

impl fmt::Display for CommandWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for CommandWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", shown(&self.0))
    }
}

/// Stands for what is hidden.
const HIDDEN: &str = "…";

fn shown(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| hide_logins(word)).collect();
    let (mut line, mut places) = (String::new(), Vec::new());
    let mut before = "";
    for word in &words {
        // A script is a line of its own. The search takes another word of several words for one by
        // its quotes.
        let is_script = before.starts_with('-') && before.ends_with('c');
        let around = match word.contains(char::is_whitespace) {
            true if is_script => "\n",
            true if word.contains('\'') => "\"",
            true => "'",
            false => "",
        };
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(around);
        places.push(line.len()..line.len() + word.len());
        line.push_str(word);
        line.push_str(around);
        before = word;
    }
    let found = secrets(&line);
    let words: Vec<String> = words.iter().zip(&places).map(|(word, place)| without(word, place, &found)).collect();
    one_line(&words.join(" "))
}

/// Finds what looks like a secret, and what may be one.
fn secrets(line: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    forms::in_text(line, Values::All, |range, _, _| found.push(range));
    let mut start = 0;
    for one in line.split_inclusive('\n') {
        let bare = one.trim_end_matches(['\n', '\r']);
        let effort = Effort::of(usize::MAX);
        line::in_line(bare, Values::All, &effort, |_, value| found.push(start + value.start..start + value.end));
        start += one.len();
    }
    found.retain(|range| !range.is_empty());
    found.sort_by_key(|range| (range.start, range.end));
    found
}

/// Writes one word, which stands at `place`, without what was found.
fn without(word: &str, place: &Range<usize>, found: &[Range<usize>]) -> String {
    // Of an argument all that follows is hidden. A script has several words, and goes on.
    let is_argument = word.starts_with('-') || !word.contains(char::is_whitespace);
    let (mut shown, mut at) = (String::new(), 0);
    for range in found.iter().filter(|range| range.start < place.end && place.start < range.end) {
        let start = range.start.max(place.start) - place.start;
        let end = if is_argument { word.len() } else { range.end.min(place.end) - place.start };
        if start >= at {
            shown.push_str(&word[at..start]);
            shown.push_str(HIDDEN);
        }
        at = at.max(end);
    }
    shown.push_str(&word[at..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_without_its_secrets() {
        for (words, wanted) in [
            (&["curl", "-fsS", "-u", "jo:s3cret&x", "http://h/reload"][..], "curl -fsS -u jo:… http://h/reload"),
            (&["curl", "-sujo:s3cret", "http://h"], "curl -sujo:… http://h"),
            (&["curl", "--user", "jo:a s3cret", "http://h"], "curl --user jo:… http://h"),
            (&["curl", "-H", "Authorization: Bearer s3cret", "h"], "curl -H Authorization: Bearer … h"),
            (&["curl", "-H", "authorization: s3cret"], "curl -H authorization: …"),
            (&["curl", "-H", "X-Vault-Token: s3cret", "h"], "curl -H X-Vault-Token: … h"),
            (&["curl", "-H", "Cookie: id=s3cret; b=s3cret", "h"], "curl -H Cookie: … h"),
            (&["curl", "-f", "http://jo:s3cret@h/?token=s3cret"], "curl -f http://…@h/?…"),
            (&["mysql", "-u", "root", "-ps3cret", "db"], "mysql -u root -p… db"),
            (&["/usr/bin/mysqladmin", "-pa s3cret", "reload"], "/usr/bin/mysqladmin -p… reload"),
            (&["mariadb", "-p7331", "db"], "mariadb -p… db"),
            (&["tool", "-ps3cret"], "tool -p…"),
            (&["tool", "--password", "s3cret", "go"], "tool --password … go"),
            (&["tool", "--password", "a s3cret", "go"], "tool --password … go"),
            (&["tool", "--password=a s3cret", "go"], "tool --password=… go"),
            (&["tool", "--password", "required"], "tool --password …"),
            (&["tool", "-token", "s3cret"], "tool -token …"),
            (&["tool", "--api-key=s3cret;s3cret", "go"], "tool --api-key=… go"),
            (&["env", "PGPASSWORD=s3cret", "psql", "-h", "db"], "env PGPASSWORD=… psql -h db"),
            (&["sh", "-c", "PGPASSWORD=s3cret psql -h db"], "sh -c PGPASSWORD=… psql -h db"),
            (&["sh", "-c", "mysql -p's3cret word' db && reload"], "sh -c mysql -p'…' db && reload"),
            (&["sh", "-c", "cd /x\ncurl -u jo:s3cret h"], "sh -c cd /x curl -u jo:… h"),
            (&["sshpass", "-p", "s3cret", "ssh", "-p", "22", "h"], "sshpass -p … ssh -p 22 h"),
            (&["redis-cli", "-a", "s3cret", "ping"], "redis-cli -a … ping"),
            (&["ldapsearch", "-x", "-w", "s3cret"], "ldapsearch -x -w …"),
            (&["docker", "login", "-u", "a", "-p", "s3cret", "h"], "docker login -u a -p … h"),
            (&["openssl", "rsa", "-passin", "pass:s3cret"], "openssl rsa -passin pass:…"),
            (&["mosquitto_pub", "-P", "s3cret", "-t", "x"], "mosquitto_pub -P … -t x"),
            (&["smbclient", "-U", "jo%s3cret", "//h/x"], "smbclient -U jo%… //h/x"),
            (&["htpasswd", "-b", "f", "jo", "s3cret"], "htpasswd -b f jo …"),
            // What holds none stays as it is.
            (&["systemctl", "reload", "nginx"], "systemctl reload nginx"),
            (&["ssh", "-p22", "h", "docker", "run", "-p", "80:80"], "ssh -p22 h docker run -p 80:80"),
            (&["sh", "-c", "kill -HUP $(cat /run/x.pid)"], "sh -c kill -HUP $(cat /run/x.pid)"),
            (
                &["tool", "--password", "$PASSWORD", "--password-file", "/run/p"],
                "tool --password $PASSWORD --password-file /run/p",
            ),
            (&["curl", "-u", "$USER:$PASSWORD", "h"], "curl -u $USER:$PASSWORD h"),
        ] {
            let words: CommandWords = words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>().into();
            assert_eq!(words.to_string(), wanted);
            assert!(!format!("{words:?}").contains("s3cret"), "{words:?}");
        }
    }
}
