//! Files that can be used and files that cannot, and what happens when they change.

use std::{
    error::Error as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use crate::tls::{
    Certificates, ClientFiles, ClientFlags, ListenFlags, OldestTls, ServerTls, TlsError, client::git_settings,
    kept::Looked, words::words,
};

/// An error with its cause.
fn chain(error: &TlsError) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Today, in days since 1970.
fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / (24 * 3600)
}

/// A certificate that is good from one day to another, and its key.
fn pair(from: u64, until: u64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let at = |day: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(day * 24 * 3600);
    (params.not_before, params.not_after) = (at(from), at(until));
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn good() -> (String, String) {
    pair(today() - 1, today() + 90)
}

/// The files of a listener, in a folder of their own.
struct Case {
    folder: TempDir,
    flags: ListenFlags,
    certificates: Certificates,
}

impl Case {
    fn new((certificate, key): &(String, String)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(folder.path().join(name));
        let flags = ListenFlags { tls_cert: path("crt"), tls_key: path("key"), ..ListenFlags::default() };
        let case = Case { folder, flags, certificates: Certificates::default() };
        case.write("crt", certificate);
        case.write("key", key);
        case
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        // As a new file: its time may be the same as that of the old one.
        let next = self.folder.path().join("next");
        fs::write(&next, content).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, self.folder.path().join(name)).unwrap();
    }

    fn load(&self) -> ServerTls {
        ServerTls::load(&self.flags, &self.certificates).unwrap().unwrap()
    }

    /// What is wrong, without the folder.
    fn fault(&self) -> String {
        let fault = ServerTls::load(&self.flags, &self.certificates).unwrap_err();
        chain(&fault).replace(self.folder.path().to_str().unwrap(), "")
    }

    /// Looks at the files again; what needs somebody is marked.
    fn look(&self, is_asked: bool) -> Vec<String> {
        let looked = self.certificates.look(is_asked).into_iter();
        let looked = looked.map(|one| match one {
            Looked::Read(words) => words,
            Looked::Refused(fault) => format!("! {}", chain(&fault)),
            Looked::Due(words) => format!("? {words}"),
        });
        looked.map(|words| words.replace(self.folder.path().to_str().unwrap(), "")).collect()
    }
}

#[test]
fn a_file_that_cannot_be_used_says_what_to_do() {
    let (certificate, key) = good();
    let bom = |text: &str| ["\u{feff}", text].concat();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    for (name, content, words) in [
        ("crt", String::new(), "--tls-cert: /crt is empty; write the PEM text into it"),
        ("key", String::new(), "--tls-key: /key is empty; write the PEM text into it"),
        (
            "crt",
            bom(&certificate),
            "--tls-cert: /crt begins with a byte order mark; save it as plain ASCII, without one",
        ),
        ("key", bom(&key), "--tls-key: /key begins with a byte order mark; save it as plain ASCII, without one"),
        ("crt", key.clone(), "--tls-cert: /crt holds a private key and no certificate; were the two files swapped?"),
        (
            "key",
            certificate.clone(),
            "--tls-key: /key holds a certificate and no private key; were the two files swapped?",
        ),
        ("crt", "nothing".to_owned(), "--tls-cert: /crt holds no certificate as PEM, which begins with -----BEGIN"),
        ("key", "nothing".to_owned(), "--tls-key: /key holds no private key as PEM, which begins with -----BEGIN"),
        ("key", encrypted, "--tls-key: /key has a passphrase, which no daemon can type: write the key without it"),
        ("key", good().1, "--tls-key: /key is not the key of the certificate /crt (--tls-cert); give the two that"),
        ("crt", certificate.replacen("MII", "!!!", 1), "--tls-cert: /crt is damaged"),
        ("crt", certificate[..200].to_owned(), "--tls-cert: /crt is damaged"),
        ("crt", "x".repeat(5 << 20), "--tls-cert: /crt has over 4 MiB; is it the right file?"),
    ] {
        let case = Case::new(&(certificate.clone(), key.clone()));
        case.write(name, &content);
        let fault = case.fault().replace(case.folder.path().to_str().unwrap(), "");
        assert!(fault.starts_with(words), "{fault}\nin place of\n{words}");
    }
    let case = Case::new(&(certificate, key));
    fs::remove_file(case.folder.path().join("key")).unwrap();
    assert_eq!(case.fault(), "--tls-key: cannot read /key: No such file or directory (os error 2)");
}

#[test]
fn flags_that_do_not_go_together() {
    let case = Case::new(&good());
    let flags = |cert: bool, key: bool, ca: bool| ListenFlags {
        tls_cert: case.flags.tls_cert.clone().filter(|_| cert),
        tls_key: case.flags.tls_key.clone().filter(|_| key),
        tls_client_ca: case.flags.tls_cert.clone().filter(|_| ca),
        ..ListenFlags::default()
    };
    let load = |flags: &ListenFlags| ServerTls::load(flags, &case.certificates).map(|tls| tls.is_some());
    assert!(!load(&flags(false, false, false)).unwrap() && load(&flags(true, true, true)).unwrap());
    for (cert, key, ca, words) in [
        (true, false, false, "--tls-cert and --tls-key go together: give both"),
        (false, true, true, "--tls-cert and --tls-key go together: give both"),
        (false, false, true, "--tls-client-ca is for TLS: give --tls-cert and --tls-key too"),
    ] {
        assert_eq!(load(&flags(cert, key, ca)).unwrap_err().to_string(), words);
    }
}

#[test]
fn a_new_pair_holds_and_halves_of_two_pairs_do_not() {
    let case = Case::new(&good());
    let tls = case.load();
    let first = tls.config();
    let holds = |config: &Arc<_>| Arc::ptr_eq(config, &tls.config());
    assert_eq!(case.look(true), Vec::<String>::new());
    let (certificate, key) = good();

    // In between the two do not fit: nobody is told at the first look, and then once.
    case.write("crt", certificate);
    assert_eq!(case.look(false), Vec::<String>::new());
    let fault = "! --tls-key: /key is not the key of the certificate /crt (--tls-cert); give the two that were made \
                 together";
    assert_eq!(case.look(false), [fault]);
    assert_eq!(case.look(false), Vec::<String>::new());
    assert_eq!(case.look(true), [fault], "who asks is told again");
    assert!(holds(&first));

    case.write("key", key);
    assert_eq!(case.look(false), ["--tls-cert /crt, --tls-key /key: read again; new connections use it"]);
    assert!(!holds(&first));
    let second = tls.config();
    case.write("crt", "");
    assert_eq!(case.look(true), ["! --tls-cert: /crt is empty; write the PEM text into it"]);
    fs::remove_file(case.folder.path().join("crt")).unwrap();
    let gone = case.look(true);
    assert!(gone[0].starts_with("! --tls-cert: cannot read /crt: No such file"), "{gone:?}");
    assert!(holds(&second));
}

#[test]
fn the_dates_of_a_certificate() {
    let case = Case::new(&good());
    let tls = case.load();
    let first = tls.config();
    let put = |(certificate, key): (String, String)| {
        case.write("crt", certificate);
        case.write("key", key);
    };
    put(pair(today() - 9, today() - 2));
    let refused = case.look(true);
    assert!(
        refused[0].starts_with("! the new certificate of --tls-cert /crt, --tls-key /key expired on 20"),
        "{refused:?}"
    );
    put(pair(today() + 2, today() + 9));
    let refused = case.look(true);
    assert!(refused[0].contains("is good only from 20"), "{refused:?}");
    assert!(Arc::ptr_eq(&first, &tls.config()));
    put(pair(today() - 9, today() + 7));
    let soon = case.look(true);
    assert!(soon[0].ends_with("new connections use it") && soon[1].contains("expires on 20"), "{soon:?}");
    assert_eq!(case.look(true), Vec::<String>::new(), "it is told once");
    put(good());
    assert_eq!(case.look(true).len(), 1);

    // A daemon that starts with one serves: what was there before it has it still, and nobody asks.
    let case = Case::new(&pair(today() - 9, today() - 2));
    case.load();
    case.write("key", "");
    assert!(case.look(true)[0].starts_with("! --tls-key: /key is empty"));
}

#[test]
fn an_error_that_is_not_of_tls_has_no_words() {
    let error = std::io::Error::other(rustls::Error::General("strange".to_owned()));
    assert_eq!(words(&error, "--ca").unwrap(), "TLS failed: unexpected error: strange");
    let nested = std::io::Error::other(std::io::Error::other(error));
    assert_eq!(words(&nested, "--ca").unwrap(), "TLS failed: unexpected error: strange");
    assert_eq!(words(&std::io::Error::other("else"), "--ca"), None);
    assert_eq!(words(&std::io::Error::from(std::io::ErrorKind::TimedOut), "--ca"), None);
}

#[test]
fn flags_of_tls_are_of_use_where_a_server_is_asked_over_it() {
    let given = |ca: bool, cert: bool| {
        let path = |is_given: bool| is_given.then(|| "x".into());
        ClientFlags { ca: path(ca), client_cert: path(cert), client_key: path(cert) }
    };
    let plain = ["http://a:1", "b:8500", "unix:///run/consul"];
    assert_eq!(given(false, false).unused(plain), None);
    assert!(given(true, true).unused(plain).unwrap().starts_with("--ca is of no use"));
    assert!(given(false, true).unused(plain).unwrap().starts_with("--client-cert is of no use"));
    assert_eq!(given(true, false).unused([plain[0], "https://a:1"]), None);
}

#[test]
fn git_trusts_the_file_that_this_program_takes_for_the_systems() {
    let of = |ca: Option<&str>, file: &str| {
        let flags = ClientFlags { ca: ca.map(Into::into), ..ClientFlags::default() };
        let variable = |name: &str| (name == "SSL_CERT_FILE").then(|| file.into());
        let settings = git_settings(&ClientFiles::of(&flags), OldestTls::default(), variable);
        settings.into_iter().find(|(name, _)| *name == "http.sslCAInfo").map(|(_, file)| file)
    };
    assert_eq!(of(None, "/etc/own.crt"), Some("/etc/own.crt".into()));
    assert_eq!(of(Some("/ca.crt"), "/etc/own.crt"), Some("/ca.crt".into()));
    assert_eq!(of(None, ""), None);
}
