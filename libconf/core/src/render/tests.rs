//! The results of templates, their faults and the words of these, and equal results of equal
//! ingredients.

use std::collections::BTreeMap;

use git2::Repository;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::render::*;
use crate::{
    layers::{self, Ingredients, LinkPolicy, Overrides, Sources},
    manifest::{ClassManifest, InstanceManifest, Strictness, platform},
    secret::SecretValue,
};
use libconf::name::{DatacenterName, HostName, ObjectId, SecretName};

struct Bench {
    _folder: tempfile::TempDir,
    repo: Repository,
    component: ObjectId,
    empty: ObjectId,
    datacenter: DatacenterName,
    instance: InstanceManifest,
    platform: Map<String, Value>,
    raw: bool,
    links: LinkPolicy,
    secrets: Secrets,
    sealed: BTreeMap<SecretName, ObjectId>,
}

const CLASS: &str = "platform: {domain: example.com, region: none}\n";
const INSTANCE: &str = "conf: datacenter-configuration/big/latest
platform: {region: us-west}
inventories:
  roles:
    core: {components: [services/*], variables: {rack: none, size: 2}}
  hosts:
    web-1: {roles: [core], labels: {zone: a}, variables: {rack: a1}}
    web-2: {roles: [core], labels: {zone: b}}
    bare: {components: [services/*]}
";

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let bytes: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
        Self::of_bytes(&bytes)
    }

    fn of_bytes(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let empty = repo.treebuilder(None).unwrap().write().unwrap();
        let mut update = git2::build::TreeUpdateBuilder::new();
        for (path, bytes) in files {
            // `-> target` makes a link.
            let (bytes, mode) = match bytes.strip_prefix(b"-> ") {
                Some(target) => (target, git2::FileMode::Link),
                None if path.ends_with(".sh.j2") => (*bytes, git2::FileMode::BlobExecutable),
                None => (*bytes, git2::FileMode::Blob),
            };
            update.upsert(*path, repo.blob(bytes).unwrap(), mode);
        }
        let component = update.create_updated(&repo, &repo.find_tree(empty).unwrap()).unwrap().into();
        let instance = InstanceManifest::parse(INSTANCE, Strictness::Strict).unwrap();
        let class = ClassManifest::parse(CLASS, Strictness::Strict).unwrap();
        let platform = platform(&class, &instance);
        let datacenter = "dc/main".parse().unwrap();
        let empty = empty.into();
        let secrets = Secrets::default();
        Bench {
            _folder: folder,
            repo,
            component,
            empty,
            datacenter,
            instance,
            platform,
            raw: false,
            links: LinkPolicy::Inside,
            secrets,
            sealed: BTreeMap::new(),
        }
    }

    fn with(mut self, name: &str, value: Result<SecretValue, String>) -> Self {
        self.secrets.insert(&name.parse().unwrap(), value);
        self
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            component_tree: self.component,
            raw: self.raw,
            links: self.links,
            class_tree: self.empty,
            datacenter_tree: self.empty,
            instance: &self.instance,
            datacenter: &self.datacenter,
            platform: &self.platform,
            secrets: &self.instance.secrets,
            sealed: &self.sealed,
        }
    }

    fn render(&self, host: &str) -> Result<Rendered, RenderError> {
        let host = host.parse().unwrap();
        render(&self.repo, &self.sources(), &"services/web/latest".parse().unwrap(), Some(&host), &self.secrets)
    }

    fn text(&self, host: &str, path: &str) -> String {
        match self.render(host).unwrap().files.remove(path) {
            Some(Content::File { bytes, .. }) => String::from_utf8(bytes).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    fn fault(&self, host: &str) -> String {
        self.render(host).unwrap_err().to_string()
    }

    fn ingredients(&self, host: &str) -> Ingredients {
        let none = Overrides::default();
        let component = "services/web/latest".parse().unwrap();
        let host = host.parse().unwrap();
        Ingredients::new(&self.repo, &self.sources(), [&none, &none], &component, Some(&host)).unwrap()
    }
}

fn text(value: &str) -> SecretValue {
    SecretValue::Text(Zeroizing::new(value.to_owned()))
}

#[test]
fn a_template_knows_where_it_is() {
    let template = "{{ datacenter.name }} {{ datacenter.id }} {{ datacenter.version }} {{ datacenter.class }}
{{ platform.domain }} {{ platform.region }}
{{ host.name }} {{ host.roles | join(',') }} {{ host.labels.zone }} {{ host.variables.rack }} {{ host.variables.size }}
{{ component.kind }} {{ component.name }} {{ component.version }}
{{ settings.port + 1 }} <&>
{% for name in settings.names %}
server {{ name }};
{% endfor %}
";
    let files = [("etc/web.conf.j2", template), ("config.yaml", "port: 80\nnames: [a, b]\n"), ("run.sh.j2", "x")];
    let bench = Bench::new(&files);
    let text = "dc/main dc main big\nexample.com us-west\nweb-1 core a a1 2\nservices web latest\n81 <&>\nserver a;\nserver b;\n";
    assert_eq!(bench.text("web-1", "etc/web.conf"), text);
    let rendered = bench.render("web-1").unwrap();
    assert_eq!(rendered.files.keys().collect::<Vec<_>>(), ["config.yaml", "etc/web.conf", "run.sh"]);
    assert!(matches!(rendered.files["run.sh"], Content::File { executable: true, secret: false, .. }));
    let raw = Bench { raw: true, ..Bench::new(&files) };
    assert_eq!(raw.text("web-1", "etc/web.conf.j2"), template);
}

#[test]
fn a_link_leads_to_what_a_template_makes() {
    let files = [("f.txt.j2", "{{ 1 + 1 }}"), ("l.txt", "-> f.txt"), ("d/up", "-> ../f.txt")];
    let rendered = Bench::new(&files).render("web-1").unwrap();
    assert_eq!(rendered.files.keys().collect::<Vec<_>>(), ["d/up", "f.txt", "l.txt"]);
    assert_eq!(rendered.files["l.txt"], Content::Link("f.txt".to_owned()));
    // In a raw component nothing is a template.
    let raw = Bench { raw: true, ..Bench::new(&[("f.j2", "{{"), ("l.j2", "-> f.j2")]) };
    assert_eq!(raw.render("web-1").unwrap().files["l.j2"], Content::Link("f.j2".to_owned()));
}

#[test]
fn what_hosts_hold_back_is_found_without_rendering_too() {
    let is_link = "a template may not be a link; put the file itself, or call the link l.txt and let it lead to what the \
                   other template makes";
    for (files, want) in [
        (vec![("f.txt", "x"), ("l.txt.j2", "-> f.txt")], format!("l.txt.j2: {is_link}")),
        (
            vec![("a", "1"), ("a.j2", "2")],
            "a.j2: it would be made into what a is already; rename one of the two".into(),
        ),
        (
            vec![("A", "1"), ("a.j2", "2")],
            "a.j2: it would be made into what A is already; rename one of the two".into(),
        ),
        (
            vec![("a.j2", "1"), ("A.j2", "2")],
            "a.j2: another name here differs from it only in case or composition".into(),
        ),
        (
            vec![("caf\u{e9}", "1"), ("cafe\u{301}", "2")],
            "caf\u{e9}: another name here differs from it only in case or composition".into(),
        ),
        (
            vec![("caf\u{e9}", "1"), ("cafe\u{301}.j2", "2")],
            "cafe\u{301}.j2: it would be made into what caf\u{e9} is already; rename one of the two".into(),
        ),
        (
            vec![("Größe", "1"), ("GRÖSSE.j2", "2")],
            "GRÖSSE.j2: it would be made into what Größe is already; rename one of the two".into(),
        ),
        (
            vec![("a/b", "1"), ("A.j2", "2")],
            "A.j2: it would be made into what a/b is already; rename one of the two".into(),
        ),
        (vec![("d/..j2", "x")], "d/..j2: it would be made into `.`: no such name may be here; rename it".into()),
        (vec![("...j2", "x")], "...j2: it would be made into `..`: no such name may be here; rename it".into()),
        (vec![(".git.j2", "x")], ".git.j2: it would be made into `.git`: no name may mean .git; rename it".into()),
        (vec![(".j2", "x")], ".j2: it has no name but its ending; give it one".into()),
    ] {
        let bench = Bench::new(&files);
        let told = bench.fault("web-1");
        assert!(told.ends_with(&want), "{told}");
        // A landing looks at the templates without rendering them, where the tree itself is good.
        if !want.contains("only in case") {
            assert_eq!(Templates::read(&bench.repo, &bench.sources()).err().unwrap().to_string(), want);
        }
        let raw = Bench { raw: true, ..Bench::new(&files) };
        assert_eq!(raw.render("web-1").is_ok(), !want.contains("only in case"), "{want}");
    }
}

#[test]
fn a_link_that_leads_out_needs_a_word_in_the_entry_and_one_on_the_host() {
    let files = [("ontology.owl", "-> /srv/wiki/ontology.owl"), ("d/x", "-> ../../other")];
    let with = |links| Bench { links, ..Bench::new(&files) };
    let told = with(LinkPolicy::Inside).fault("web-1");
    for word in [
        "ontology.owl: a link must be relative",
        "d/x: the link leads out",
        "`links: any` in the entry of services/web",
    ] {
        assert!(told.contains(word), "{told}");
    }
    assert!(told.contains("`links: [services/web]` in conf-local.yaml"), "{told}");
    let told = with(LinkPolicy::NotListed).fault("web-1");
    assert!(told.contains("this host allows it only by `links: [services/web]` in conf-local.yaml"), "{told}");
    let rendered = with(LinkPolicy::Anywhere).render("web-1").unwrap();
    assert_eq!(rendered.files["ontology.owl"], Content::Link("/srv/wiki/ontology.owl".to_owned()));
    // Another word in the entry is another ingredient; another configuration of the host is none.
    let ingredients = |links| with(links).ingredients("web-1");
    assert_ne!(ingredients(LinkPolicy::Inside), ingredients(LinkPolicy::Anywhere));
    assert_eq!(ingredients(LinkPolicy::NotListed), ingredients(LinkPolicy::Anywhere));
}

#[test]
fn templates_include_files_of_their_component() {
    let bench = Bench::new(&[
        ("a.j2", "{% include 'etc/part' %}{% from './etc/macros.j2' import shout %}{{ shout('x') }}"),
        ("etc/part", "part of {{ host.name }}\n"),
        ("etc/macros.j2", "{% macro shout(x) %}{{ x }}!{% endmacro %}"),
        ("etc/deep/b.j2", "{% include '../part' %}"),
    ]);
    assert_eq!(bench.text("web-1", "a"), "part of web-1\nx!");
    assert_eq!(bench.text("web-1", "etc/deep/b"), "part of web-1\n");
    assert_eq!(bench.text("web-1", "etc/part"), "part of {{ host.name }}\n", "no template, so as it is");
}

#[test]
fn faults_name_file_line_and_reason() {
    let check = |files: &[(&str, &str)], words: &[&str]| {
        let fault = Bench::new(files).fault("bare");
        for word in words {
            assert!(fault.contains(word), "{files:?}: {fault}\nlacks {word}");
        }
    };
    let one = |text: &str, words: &[&str]| check(&[("etc/x.j2", text)], words);
    one("a\n{{ host.variables.rack }}", &["etc/x.j2:2: ", "`host.variables.rack` is undefined"]);
    one("{{ hots.name }}", &["`hots", "a template knows datacenter, platform, host, component, settings, secrets"]);
    one("{{ secrets.key }}", &["`secrets.key` is undefined", "readers"]);
    one("{{ 1 +", &["etc/x.j2:1: it is no template: "]);
    one("\n{% nothing %}", &["etc/x.j2:2: it is no template: "]);
    one("{% include '../../etc/passwd' %}", &["leads out of the component"]);
    one("{% include '/etc/passwd' %}", &["leads out of the component"]);
    one("{% include 'etc/../../passwd' %}", &["leads out of the component"]);
    one("{% include '../../../secret' ignore missing %}", &["leads out of the component"]);
    one("{% include 'nothing' %}", &["'nothing'", "the component's own files only"]);
    one("{% include 'etc/x.j2' %}", &["etc/x.j2:1"]);
    one("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", &["x.j2:1", "never ends"]);
    one("{% for a in range(9) %}{{ 'x' * 1000000 }}{% endfor %}", &["8 MiB"]);
    one("{{ host.name.upper() }}", &["etc/x.j2:1: "]);
    one("{{ 'a' | nothing }}", &["nothing"]);
    check(&[("a/x.j2", ""), ("a/x", "")], &["a/x.j2: it would be made into what a/x is already"]);
    check(&[("a/x.j2", ""), ("a/X/y", "")], &["a/x.j2: it would be made into what a/X/y is already"]);
    check(&[("a/.j2", "")], &["a/.j2: it has no name but its ending"]);
    check(&[("x.j2", "{{ a }}"), ("y.j2", "\n{{ b }}")], &["x.j2:1", "y.j2:2"]);
    let latin = Bench::of_bytes(&[("x.j2", b"\n\xe4")]).fault("bare");
    assert_eq!(latin, "x.j2:2: it is not UTF-8 text; save it as UTF-8");
}

#[test]
fn a_secret_goes_where_it_is_asked_for_and_only_there() {
    let bench = Bench::new(&[
        ("config.yaml", "port: 80\npassword: {$secret: db}\nlist: [{$secret: db}, b]\n"),
        ("etc/db.j2", "{{ secrets.db }}"),
        ("etc/settings.j2", "{{ settings.password | urlencode }}"),
        ("etc/whole.j2", "{{ settings | tojson }}"),
        ("etc/list.j2", "{{ settings.list[0] }}"),
        ("etc/tls.key.j2", "{{ secrets.tls.key }}"),
        ("etc/port.j2", "{{ settings.port }} {{ settings.list[1] }} {{ settings.list | length }}"),
    ])
    .with("db", Ok(text("Canary")))
    .with(
        "tls",
        Ok(SecretValue::Certificate { certificate: "cert".to_owned(), key: Zeroizing::new("Canary".to_owned()) }),
    )
    .with("gone", Err("it was not sealed to this host".to_owned()));
    let rendered = bench.render("web-1").unwrap();
    for (path, content) in &rendered.files {
        let Content::File { bytes, secret, .. } = content else { panic!("{path}") };
        let holds = String::from_utf8_lossy(bytes).to_lowercase().contains("canary");
        assert_eq!(*secret, holds, "{path}: {}", String::from_utf8_lossy(bytes));
        assert_eq!(holds, !matches!(path.as_str(), "config.yaml" | "etc/port"), "{path}");
    }
    assert_eq!(rendered.settings, br#"{"list":["Canary","b"],"password":"Canary","port":80}"#);
    let shown = br#"{"list":[{"$secret":"db"},"b"],"password":{"$secret":"db"},"port":80}"#;
    assert_eq!(rendered.settings_shown.as_deref(), Some(&shown[..]));
}

#[test]
fn no_words_hold_a_secret() {
    for template in [
        "{{ secrets.db.nothing.more }}",
        "{{ secrets.db + 1 }}",
        "{{ secrets.db | int }}",
        "{{ secrets.db | nothing }}",
        "{{ secrets.db() }}",
        "{{ secrets.db.call() }}",
        "{{ platform[secrets.db].x }}",
        "{% include secrets.db | lower %}",
        "{% extends secrets.db %}",
        "{{ settings.password | float }}",
        "{{ settings.password | round }}",
        "{% set x = secrets.db %}{{ x | abs }}",
        "{% for a, b in [secrets.db] %}{% endfor %}",
        "{{ range(secrets.db) }}",
        "{{ dict(secrets.db) }}",
        "{{ {}[secrets.db][secrets.db] }}",
        "{{ secrets.db | attr(secrets.db) | length }}",
        "{{ 'x' | map(secrets.db) | list }}",
        "{{ [1] | select(secrets.db) | list }}",
        "{{ [1] | sort(attribute=secrets.db) }}{{ a }}",
        "{{ secrets.db }}{{ debug() }}",
    ] {
        let bench = Bench::new(&[("config.yaml", "password: {$secret: db}\n"), ("x.j2", template)])
            .with("db", Ok(text("Canary")));
        let fault = bench.fault("web-1");
        assert!(!fault.to_lowercase().contains("canary"), "{template}: {fault}");
        assert!(fault.starts_with("x.j2:1: "), "{template}: {fault}");
    }
}

#[test]
fn a_secret_that_cannot_be_had_is_a_fault_where_it_is_asked_for() {
    let gone = || Err("it was not sealed to this host".to_owned());
    let unused = Bench::new(&[("x.j2", "{{ host.name }}")]).with("db", gone());
    assert_eq!(unused.text("web-1", "x"), "web-1");
    let used = Bench::new(&[("x.j2", "{{ secrets.db }}")]).with("db", gone()).fault("web-1");
    assert_eq!(used, "x.j2:1: the secret db: it was not sealed to this host");
    let settings = Bench::new(&[("config.yaml", "a:\n  - {$secret: db}\n")]);
    let fault = settings.fault("web-1");
    assert!(fault.starts_with("the settings ask at /a/0 for the secret db: it is not declared"), "{fault}");
    let value = Bench::new(&[("config.yaml", "a: {$secret: \"S3cret!canary\"}\n")]).fault("web-1");
    assert!(value.contains("at /a for") && value.contains("is no name") && !value.contains("canary"), "{value}");
    let fault = settings.with("db", gone()).fault("web-1");
    assert_eq!(fault, "the settings ask at /a/0 for the secret db: it was not sealed to this host");
}

#[test]
fn variables_that_templates_do_not_read_make_no_difference() {
    let same = |text: &str, host: &str, other: &str| {
        let bench = Bench::new(&[("x.j2", text)]);
        let same = bench.ingredients(host) == bench.ingredients(other);
        let groups = layers::groups(&bench.repo, &bench.sources(), &"services/web/latest".parse().unwrap()).unwrap();
        let one = groups
            .iter()
            .any(|group| [host, other].iter().all(|name| group.hosts.contains(&name.parse::<HostName>().unwrap())));
        assert_eq!(same, one, "{text}: {groups:?}");
        same
    };
    assert!(same("{{ platform.domain }}", "web-1", "bare"));
    assert!(!same("{{ host.name }}", "web-1", "web-2"));
    assert!(same("{{ host.roles }}", "web-1", "web-2"));
    assert!(!same("{{ host.roles }}", "web-1", "bare"));
    assert!(same("{{ host.variables.size }}", "web-1", "web-2"));
    assert!(!same("{{ host.variables.rack }}", "web-1", "web-2"));
    assert!(!same("{{ host.labels[platform.region] }}", "web-1", "web-2"));
    assert!(!same("{{ host.labels.items() }}", "web-1", "web-2"));
    assert!(!same("{% set a = host %}{{ a.name }}", "web-1", "web-2"));
    assert!(!same("{% for k in host.labels | items %}{{ k }}{% endfor %}", "web-1", "web-2"));
    assert!(!same("{% macro m() %}{{ host.name }}{% endmacro %}{{ m() }}", "web-1", "web-2"));
    assert!(!same("{% if false %}{% include 'part' %}{% endif %}", "web-1", "web-2"), "what is included is not seen");
    let ingredients = |platform: &str, text: &str| {
        let mut bench = Bench::new(&[("x.j2", text)]);
        bench.platform.insert("region".to_owned(), platform.into());
        bench.ingredients("web-1")
    };
    assert_ne!(ingredients("a", "{{ platform.region }}"), ingredients("b", "{{ platform.region }}"));
    assert_eq!(ingredients("a", "{{ platform.domain }}"), ingredients("b", "{{ platform.domain }}"));
    assert_eq!(ingredients("a", "{{ host.name }}"), ingredients("b", "{{ host.name }}"));
}
