//! Folders and what is proposed for them.

use std::{fs, os::unix, os::unix::fs::PermissionsExt as _, path::Path};

use clap::Parser as _;
use conf_core::git;
use conf_core::manifest::{ClassManifest, InstanceManifest, Strictness, pins, platform, secrets};
use git2::Repository;
use libconf::name::{DatacenterName, HostName};
use tempfile::TempDir;

use crate::import::flags::ImportFlags;
use crate::import::report::Report;
use crate::import::{propose, scan, write};

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIE\n-----END PRIVATE KEY-----";
const PASSWORD: &str = "Tr0ub4dor&3";

#[derive(clap::Parser)]
struct Import {
    #[command(flatten)]
    flags: ImportFlags,
}

struct Folders {
    folder: TempDir,
}

impl Folders {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Folders { folder };
        for (path, content) in files {
            made.file(path, content.as_bytes());
        }
        made
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("shop")
    }

    fn file(&self, path: &str, content: &[u8]) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn flags(&self, arguments: &[&str]) -> ImportFlags {
        let root = self.root();
        Import::try_parse_from(["import", root.to_str().unwrap()].iter().chain(arguments)).unwrap().flags
    }

    fn report(&self, arguments: &[&str]) -> Report {
        self.try_report(arguments).unwrap()
    }

    fn try_report(&self, arguments: &[&str]) -> anyhow::Result<Report> {
        let flags = self.flags(arguments);
        let tree = scan::scan(&flags)?;
        let proposal = propose::propose(&tree, &flags)?;
        Ok(Report::of(&tree, &proposal, &flags))
    }

    /// Writes the proposal and opens what was written.
    fn write(&self, arguments: &[&str]) -> Repository {
        let flags = self.flags(arguments);
        let tree = scan::scan(&flags).unwrap();
        let proposal = propose::propose(&tree, &flags).unwrap();
        assert_eq!(proposal.faults, [], "something is to be settled first");
        let out = self.folder.path().join("moved");
        write::write(&proposal, &out, &flags).unwrap();
        Repository::open(out).unwrap()
    }
}

fn names(report: &Report) -> Vec<String> {
    report.components.iter().map(|one| one.name.to_string()).collect()
}

fn faults(report: &Report) -> Vec<String> {
    report.faults.iter().map(ToString::to_string).collect()
}

fn blob(repo: &Repository, branch: &str, path: &str) -> Vec<u8> {
    let tree = repo.find_reference(&format!("refs/heads/{branch}")).unwrap().peel_to_tree().unwrap();
    let entry = tree.get_path(Path::new(path)).unwrap_or_else(|_| panic!("{branch} has no {path}"));
    repo.find_blob(entry.id()).unwrap().content().to_vec()
}

#[test]
fn equal_folders_become_one_component_and_unequal_ones_several() {
    let folders = Folders::new(&[
        ("core/nginx/conf/nginx.conf", "worker_processes 4;\n"),
        ("register/nginx/conf/nginx.conf", "worker_processes 1;\n"),
        ("core/ntp/ntp.conf", "pool\n"),
        ("register/ntp/conf/ntp.conf", "pool\n"),
    ]);
    let report = folders.report(&[]);
    assert_eq!(names(&report), ["services/core-nginx", "services/ntp", "services/register-nginx"]);
    assert_eq!(report.components[1].folders, ["core/ntp", "register/ntp/conf"]);
    assert!(report.components[0].notes[0].contains("not the same in core and in register"), "{report}");
    assert_eq!((report.class.as_str(), report.datacenter.to_string().as_str()), ("shop", "shop/v1"));
    let renames = ["--rename", "core/nginx=front", "--rename", "register/nginx=applications/nginx"];
    assert_eq!(names(&folders.report(&renames)), ["services/front", "services/ntp", "applications/nginx"]);
    let same = folders.report(&["--rename", "core/nginx=web", "--rename", "register/nginx=web"]);
    assert!(faults(&same)[0].contains("it would be called services/web"), "{same}");
    assert!(faults(&folders.report(&["--rename", "core/redis=x"]))[0].contains("no such folder"));
    folders.file("core/register-nginx/x", b"x");
    assert!(faults(&folders.report(&[]))[0].contains("--rename core/register-nginx=NAME"));
}

#[test]
fn repeated_values_are_offered_and_replaced_on_demand() {
    let files = [
        ("a/web/site.conf", "server_name web.example.com;\nproxy 10.0.0.5:80 {{x}};\n"),
        ("a/mail/main.cf", "mydomain = example.com\nrelay = 10.0.0.5\nother = example.org\n"),
    ];
    let folders = Folders::new(&files);
    let report = folders.report(&[]);
    let offered: Vec<_> = report.variables.iter().map(|one| (one.name.as_str(), one.value.as_str())).collect();
    assert_eq!(offered, [("domain", "example.com"), ("address", "10.0.0.5")]);
    assert!(report.components.iter().all(|one| one.templates.is_empty()));
    let named = folders.report(&["--variable", "relay=10.0.0.5", "--variable", "other=example.org"]);
    let applied: Vec<_> = named.variables.iter().map(|one| (one.name.as_str(), one.applied)).collect();
    assert_eq!(applied, [("relay", true), ("other", true), ("domain", false)]);
    assert!(faults(&folders.report(&["--variable", "x=nowhere"]))[0].contains("occurs in no file"));
    assert!(folders.try_report(&["--variable", "x=a", "--variable", "x=b"]).is_err());

    let repo = folders.write(&["--apply-variables"]);
    let site = String::from_utf8(blob(&repo, "services/web/master", "site.conf.j2")).unwrap();
    let wanted = "server_name web.{{ platform.domain }};\nproxy {{ platform.address }}:80 {{ \"{\" }}{x}};\n";
    assert_eq!(site, wanted);
    let datacenter = String::from_utf8(blob(&repo, "datacenters/shop/v1", "datacenter.yaml")).unwrap();
    let instance = InstanceManifest::parse(&datacenter, Strictness::Strict).unwrap();
    assert_eq!(
        serde_json::Value::Object(instance.platform).to_string(),
        r#"{"domain":"example.com","address":"10.0.0.5"}"#
    );
}

#[test]
fn secrets_are_declared_and_no_object_holds_one() {
    let folders = Folders::new(&[
        ("core/web/tls/web.key", &format!("{KEY}\n")),
        ("core/web/db.ini", &format!("user = shop\npassword = {PASSWORD}\n")),
        ("core/app/app.properties", &format!("db.url = x\ndb.pass = {PASSWORD}\n")),
        ("core/app/notes.sql", &format!("-- made for the user\nSELECT login('shop', '{PASSWORD}');\n")),
    ]);
    let report = folders.report(&[]);
    let found: Vec<_> = report.secrets.iter().map(|one| (one.name.as_str(), one.places.join(" "))).collect();
    assert_eq!(
        found,
        [
            ("db_pass", "core/app/app.properties:2 core/web/db.ini:2 core/app/notes.sql:2".to_owned()),
            ("web_key", "core/web/tls/web.key:1".to_owned()),
        ]
    );
    let shown = [report.to_string(), serde_json::to_string(&report).unwrap()].concat();
    assert!(!shown.contains(PASSWORD) && !shown.contains("MC4CAQ"), "{shown}");

    let key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let repo = folders.write(&["--host", "core-1=core", "--host-key", &format!("core-1={key}")]);
    let odb = repo.odb().unwrap();
    odb.foreach(|id| {
        let object = odb.read(*id).unwrap();
        let text = String::from_utf8_lossy(object.data()).into_owned();
        assert!(!text.contains(PASSWORD) && !text.contains("MC4CAQ"), "{id}: {text}");
        true
    })
    .unwrap();
    assert_eq!(blob(&repo, "services/web/master", "tls/web.key.j2"), b"{{ secrets.web_key }}\n");
    let class = String::from_utf8(blob(&repo, "datacenter-configuration/shop", "datacenter.yaml")).unwrap();
    let class = ClassManifest::parse(&class, Strictness::Strict).unwrap();
    let datacenter = String::from_utf8(blob(&repo, "datacenters/shop/v1", "datacenter.yaml")).unwrap();
    let instance = InstanceManifest::parse(&datacenter, Strictness::Strict).unwrap();
    assert_eq!(secrets(&class, &instance).len(), 2);
    assert_eq!(pins(&class, &instance).len(), 2);
    assert_eq!(platform(&class, &instance).len(), 0);
    let host: HostName = "core-1".parse().unwrap();
    assert_eq!(instance.hosts[&host].key.as_ref().unwrap().to_string(), key);

    let values = folders.folder.path().join("moved.secrets");
    assert_eq!(fs::read_to_string(values.join("web_key")).unwrap(), KEY);
    assert_eq!(fs::metadata(&values).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(values.join("db_pass")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn secrets_that_no_template_can_hold_must_be_settled() {
    let folders = Folders::new(&[
        ("core/app/config.yaml", &format!("db:\n  password: {PASSWORD}\n")),
        ("core/web/site.j2", "{% for host in groups.web %}\n"),
        ("core/web/db.ini", "password=hunter2\n"),
    ]);
    folders.file("core/web/tls/store.p12", b"\x30\x82\0");
    let report = folders.report(&[]);
    let found = faults(&report);
    assert!(
        found[0].starts_with("core/app/config.yaml:2: ") && found[0].contains("{\"$secret\": \"NAME\"}"),
        "{report}"
    );
    assert!(found[1].starts_with("core/web/db.ini:1: ") && found[1].contains("site.j2 would be taken"), "{report}");
    assert!(found[2].starts_with("core/web/tls/store.p12: ") && found[2].contains("--leave-out"), "{report}");
    assert_eq!(
        report.components[1].raw.as_deref(),
        Some("site.j2 would be taken for a template of this system, or be in the way of one")
    );
    let settled = folders.report(&[
        "--allow-secret",
        "core/app/config.yaml:2",
        "--allow-secret",
        "core/web/db.ini",
        "--leave-out",
        "core/web/tls",
    ]);
    assert_eq!(faults(&settled), [""; 0]);
    assert_eq!(settled.allowed.len(), 2);
    // The flag may name the folder of another role that holds the same files.
    folders.file("other/app/config.yaml", format!("db:\n  password: {PASSWORD}\n").as_bytes());
    let of_other = ["--allow-secret", "other/app/config.yaml", "--leave-out", "core/web"];
    assert_eq!(faults(&folders.report(&of_other)), [""; 0]);
    let unused = faults(&folders.report(&["--allow-secret", "core/web/else"])).join("\n");
    assert!(unused.contains("core/web/else: --allow-secret names it, and nothing there looks like"), "{unused}");
}

#[test]
fn every_byte_link_and_mode_is_kept_or_reported() {
    let folders =
        Folders::new(&[("README", "x"), ("a/note", "x"), ("a/web/bin/start", "x"), ("a/web/conf/x/run.sh", "#!\n")]);
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    folders.file("a/web/conf/logo.png", &bytes);
    folders.file("a/web/conf/dos.ini", b"a=1\r\n\r\n");
    fs::set_permissions(folders.root().join("a/web/conf/x/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let conf = folders.root().join("a/web/conf");
    unix::fs::symlink("../logo.png", conf.join("x/inside")).unwrap();
    unix::fs::symlink("/etc/passwd", conf.join("outside")).unwrap();
    unix::net::UnixListener::bind(conf.join("socket")).unwrap();
    fs::create_dir(conf.join("empty")).unwrap();
    let left_out: Vec<String> = folders.report(&[]).left_out.iter().map(|one| one.path.clone()).collect();
    let wanted = ["README", "a/web/bin", "a/web/conf/empty", "a/web/conf/outside", "a/web/conf/socket"];
    assert_eq!(left_out, wanted);

    let repo = folders.write(&["--datacenter", "lab/v2", "--class", "small", "--branch", "main"]);
    assert_eq!(blob(&repo, "services/web/main", "logo.png"), bytes);
    assert_eq!(blob(&repo, "services/web/main", "dos.ini"), b"a=1\r\n\r\n");
    assert_eq!(blob(&repo, "services/web/main", "x/inside"), b"../logo.png");
    let commit = repo.find_reference("refs/heads/services/web/main").unwrap().peel_to_commit().unwrap();
    assert_eq!(
        git::faults_in_commit(&repo, commit.id().into(), &git::TreeLimits::landing(), git::Links::Inside).unwrap(),
        []
    );
    let tree = commit.tree().unwrap();
    assert_eq!(tree.get_path(Path::new("x/run.sh")).unwrap().filemode(), 0o100_755);
    let datacenter: DatacenterName = "lab/v2".parse().unwrap();
    assert!(repo.find_reference(&format!("refs/heads/datacenters/{datacenter}")).is_ok());
    assert!(repo.workdir().unwrap().join("datacenter.yaml").exists());
    assert_eq!(repo.find_remote("origin").unwrap().url().unwrap(), "http://127.0.0.1:7400/conf.git");
}

#[test]
fn files_beside_the_components_of_a_role_are_taken_along() {
    let folders = Folders::new(&[
        ("core/web/web.conf", "x\n"),
        ("core/pryv.yml", "domain: example.com\n"),
        ("core/extra/pryv.yml", "y\n"),
        ("register/register/r.conf", "z\n"),
        ("register/pryv.yml", &format!("password: {PASSWORD}\n")),
        ("notes/todo.txt", "x\n"),
    ]);
    let report = folders.report(&[]);
    let wanted = ["services/core", "services/extra", "services/register", "services/register-files", "services/web"];
    assert_eq!(names(&report), wanted, "{report}");
    assert_eq!(report.components[0].folders, ["core"]);
    assert_eq!(report.secrets[0].places, ["register/pryv.yml:1"]);
    let left_out: Vec<&str> = report.left_out.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(left_out, ["notes/todo.txt"]);
    let renamed = folders.report(&["--rename", "core/core=base", "--leave-out", "register/pryv.yml"]);
    assert!(names(&renamed).contains(&"services/base".to_owned()), "{renamed}");
    assert!(!names(&renamed).contains(&"services/register-files".to_owned()), "{renamed}");
    let repo = folders.write(&[]);
    assert_eq!(blob(&repo, "services/core/master", "pryv.yml"), b"domain: example.com\n");
    assert_eq!(
        blob(&repo, "services/register-files/master", "pryv.yml.j2"),
        b"password: {{ secrets.register_files_password }}\n"
    );
}

#[test]
fn environments_are_no_components() {
    let check = |files: &[&str], role: &str, one: &str| {
        let files: Vec<(&str, &str)> = files.iter().map(|file| (*file, "x\n")).collect();
        let report = Folders::new(&files).report(&["--class", "c"]);
        assert!(!names(&report).iter().any(|name| name.contains("prod")), "{report}");
        let found = faults(&report);
        let is_told =
            |fault: &String| fault.starts_with(&format!("{role}: these are environments")) && fault.contains(one);
        assert!(found.iter().any(is_told), "{report}");
    };
    check(&["environments/prod/web/web.conf", "core/web/web.conf"], "environments", "shop/environments/prod --class");
    check(&["config/prod/web.conf", "config/staging/web.conf"], "config", "shop/config/prod --class");
    check(&["prod/core/web.conf", "staging/core/web.conf"], "prod", "shop/prod --class");
    let one = Folders::new(&[("core/test/web.conf", "x\n"), ("core/web/web.conf", "x\n")]);
    assert_eq!(names(&one.report(&[])), ["services/test", "services/web"]);
    let settled = Folders::new(&[("environments/prod/a", "x\n"), ("core/web/b", "x\n")]);
    assert_eq!(faults(&settled.report(&["--leave-out", "environments"])), [""; 0]);
}

#[test]
fn folders_that_are_no_installation_are_reported() {
    let folders = Folders::new(&[("file", "x")]);
    assert!(folders.try_report(&[]).unwrap_err().to_string().contains("<role>/<component>/"));
    folders.file("core/web/a", b"x");
    folders.file("core/web/A", b"x");
    folders.file("co re/web/x", b"x");
    folders.file("core/w eb/x", b"x");
    let found = faults(&folders.report(&[])).join("\n");
    for words in ["co re: a role's name", "--rename core/w eb=NAME", "only in case"] {
        assert!(found.contains(words), "{words} is not in {found}");
    }
    let error = folders.try_report(&["--host", "x=cor"]).unwrap_err().to_string();
    assert!(error.contains("no role cor; there are core"), "{error}");
    assert!(faults(&folders.report(&["--leave-out", "core/x"])).join("\n").contains("it is not there"));
}

#[test]
fn left_out_folders_are_not_committed() {
    let folders = Folders::new(&[
        ("core/web/conf/db.ini", "password=hunter2\n"),
        ("core/web/bin/start", "x"),
        ("core/mail/main.cf", "x"),
    ]);
    let report = folders.report(&["--leave-out", "core/web/conf"]);
    assert_eq!(names(&report), ["services/mail"], "{report}");
    let left_out: Vec<&str> = report.left_out.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(left_out, ["core/web/conf", "core/web/bin"]);
}

#[test]
fn a_password_in_a_file_of_another_encoding_must_be_settled() {
    let folders = Folders::new(&[]);
    folders.file("core/app/latin.ini", b"# f\xfcr alle\npassword = Tr0ub4dor&3\n");
    let report = folders.report(&[]);
    assert!(faults(&report)[0].starts_with("core/app/latin.ini: it looks like a password"), "{report}");
    assert_eq!(faults(&folders.report(&["--allow-secret", "core/app/latin.ini"])), [""; 0]);
}

#[test]
fn the_longest_secret_is_looked_for_first() {
    let folders = Folders::new(&[
        ("core/app/a.ini", "password = hunter2hunter2\ntoken = hunter2hunter2-and-more\n"),
        ("core/app/b.txt", "see hunter2hunter2-and-more here\n"),
    ]);
    let repo = folders.write(&[]);
    assert_eq!(blob(&repo, "services/app/master", "b.txt.j2"), b"see {{ secrets.app_token }} here\n");
}

#[test]
fn the_next_commands_can_be_pasted() {
    let folders = Folders::new(&[("core/app/a.ini", "password = hunter2hunter2\n")]);
    let flags = folders.flags(&["--server", "http://conf.example.com:7400"]);
    let tree = scan::scan(&flags).unwrap();
    let proposal = propose::propose(&tree, &flags).unwrap();
    let parent = folders.folder.path().join("it's here");
    fs::create_dir(&parent).unwrap();
    let mut report = Report::of(&tree, &proposal, &flags);
    report.written = Some(write::write(&proposal, &parent.join("moved/"), &flags).unwrap());
    let beside: Vec<_> = fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(beside.len() == 2 && beside.contains(&"moved".into()) && beside.contains(&"moved.secrets".into()));
    let quoted = format!("'{}", parent.display().to_string().replace('\'', r"'\''"));
    let report = report.to_string();
    for line in [
        format!("  git -C {quoted}/moved' log --all"),
        format!(
            "  conf-master secret set shop/v1 app_password --file {quoted}/moved.secrets/app_password' --server \
             http://conf.example.com:7400\n"
        ),
        format!("  rm -r {quoted}/moved.secrets'\n"),
    ] {
        assert!(report.contains(&line), "{line} is not in {report}");
    }
}

#[test]
fn a_folder_with_the_name_of_a_template_makes_its_component_raw() {
    let folders =
        Folders::new(&[("core/app/a.ini", "password = hunter2hunter2\n"), ("core/app/a.ini.j2/note", "a note\n")]);
    let report = folders.report(&[]);
    assert!(faults(&report)[0].contains("a.ini.j2/note would be taken for a template"), "{report}");
    assert!(report.components[0].templates.is_empty());
}

#[test]
fn settings_that_would_lose_something_stay_byte_for_byte_and_pointers_are_no_content() {
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
                   oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    let folders = Folders::new(&[
        ("core/a/config.yaml", "home: !env HOME\n"),
        ("core/b/config.json", "{\"serial\": 18446744073709551616}"),
        ("core/c/config.yaml", "serial: '18446744073709551616'\n"),
    ]);
    let report = folders.report(&[]);
    let raw: Vec<_> = report.components.iter().map(|one| one.raw.clone().unwrap_or_default()).collect();
    assert!(raw[0].contains("config.yaml:1: the tag before this value is not known"), "{report}");
    assert!(raw[1].contains("config.json:1: the number has more than 64 bits"), "{report}");
    assert_eq!(raw[2], "", "{report}");
    folders.file("core/c/model.bin", pointer.as_bytes());
    let found = faults(&folders.report(&[]));
    assert!(found.len() == 1 && found[0].starts_with("core/c/model.bin: it is a pointer of Git LFS"), "{found:?}");
}

#[test]
fn a_folder_renamed_to_an_equal_one_joins_its_component() {
    let folders = Folders::new(&[("a/nginx/n.conf", "x"), ("b/nginx-old/n.conf", "x"), ("c/nginx/n.conf", "y")]);
    let report = folders.report(&["--rename", "b/nginx-old=nginx"]);
    assert_eq!(faults(&report), [""; 0]);
    assert_eq!(names(&report), ["services/c-nginx", "services/nginx"]);
    assert_eq!(report.components[1].folders, ["a/nginx", "b/nginx-old"]);
}
