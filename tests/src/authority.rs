//! An authority for certificates, made by openssl as docs/tls.md says.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::program::{command, run, text};

/// An authority of a test's own.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
    name: String,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one, whose files have this name, in a folder.
    pub fn new(folder: &Path, name: &str) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        let authority = Authority { folder: folder.to_owned(), name: name.to_owned() };
        authority.make_key(name);
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        authority.openssl(&[
            "req",
            "-x509",
            "-key",
            &key,
            "-out",
            &certificate,
            "-days",
            "30",
            "-subj",
            &format!("/CN=the authority {name}"),
        ]);
        authority
    }

    /// Returns its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// Signs a certificate for a server with these names, as in `IP:127.0.0.1,DNS:localhost`, or,
    /// without names, for a client. It is good for so many days.
    pub fn pair(&self, file: &str, names: &str, days: u32) -> Pair {
        self.make_key(file);
        let [key, request, certificate, wishes] = ["key", "csr", "crt", "ext"].map(|ending| format!("{file}.{ending}"));
        self.openssl(&["req", "-new", "-key", &key, "-out", &request, "-subj", "/CN=a test"]);
        let names = if names.is_empty() { String::new() } else { format!("subjectAltName={names}\n") };
        fs::write(self.folder.join(&wishes), format!("{names}basicConstraints=CA:FALSE\n")).expect("it can be written");
        let (ca, ca_key, days) = (format!("{}.crt", self.name), format!("{}.key", self.name), days.to_string());
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-out",
            &certificate,
            "-days",
            &days,
            "-extfile",
            &wishes,
        ]);
        Pair { certificate: self.folder.join(certificate), key: self.folder.join(key) }
    }

    /// The same, of a certificate that was good for one day in 2020.
    pub fn expired(&self, file: &str, names: &str) -> Pair {
        let pair = self.pair(file, names, 30);
        fs::write(self.folder.join("index.txt"), "").expect("it can be written");
        let settings = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=.\n\
                        default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n";
        fs::write(self.folder.join("ca.cnf"), settings).expect("it can be written");
        let (ca, ca_key) = (format!("{}.crt", self.name), format!("{}.key", self.name));
        let [request, certificate, wishes] = ["csr", "crt", "ext"].map(|ending| format!("{file}.{ending}"));
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "ca.cnf",
            "-cert",
            &ca,
            "-keyfile",
            &ca_key,
            "-in",
            &request,
            "-out",
            &certificate,
            "-extfile",
            &wishes,
            "-startdate",
            "20200101000000Z",
            "-enddate",
            "20200102000000Z",
        ]);
        pair
    }

    fn make_key(&self, file: &str) {
        let key = format!("{file}.key");
        self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut openssl = command("openssl", &self.folder);
        openssl.args(arguments).current_dir(&self.folder);
        let output = run(openssl);
        assert!(output.status.success(), "openssl {arguments:?}:\n{}", text(&output));
    }
}

impl Pair {
    /// Returns the flags of a daemon's listener.
    pub fn flags(&self) -> [String; 4] {
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        ["--tls-cert".to_owned(), text(&self.certificate), "--tls-key".to_owned(), text(&self.key)]
    }
}
