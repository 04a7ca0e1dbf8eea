//! Manifests that are read or refused, the words of refusals, and the components of a host.
#![expect(clippy::format_collect, reason = "the texts are small")]

use proptest::prelude::*;

use crate::{
    manifest::{Strictness::*, *},
    secret::Source,
    settings::{Compatibility, Fault},
};

const CLASS: &str = "\
services:
  - {name: test_service0, branch: experimental_branch, tag: latest}
  - {name: service0, branch: master, tag: v1.0}
applications: []
devices: []
platform: {domain: example.com}
";

const INSTANCE: &str = "\
conf: datacenter-configuration/bigdatacenter/v1.1
inventories:
  roles:
    core: {components: [services/service0], variables: {}, settings: {}}
  hosts:
    web-1: {roles: [core], labels: {zone: a}, components: [applications/*], variables: {rack: a1}, settings: {}}
    web-2: {labels: {zone: b}}
platform: {region: us-west}
services:
  - {name: service0, branch: master, tag: v1.0, raw: true}
  - {name: service0, branch: stable}
applications:
  - name: shop
    branch: master
";

fn class(text: &str) -> ClassManifest {
    ClassManifest::parse(text, Strict).unwrap()
}

fn instance(text: &str) -> InstanceManifest {
    InstanceManifest::parse(text, Strict).unwrap()
}

fn with_conf(rest: &str) -> String {
    format!("conf: datacenter-configuration/c/latest\n{rest}")
}

fn faults<T: std::fmt::Debug>(read: Result<T, Vec<Fault>>) -> Vec<String> {
    read.unwrap_err().iter().map(Fault::to_string).collect()
}

#[test]
fn the_design_s_own_example() {
    let (class, instance) = (class(CLASS), instance(INSTANCE));
    assert_eq!(instance.class_ref().to_string(), "refs/tags/datacenter-configuration/bigdatacenter/v1.1");
    assert_eq!(class.platform["domain"], "example.com");
    assert_eq!(instance.platform["region"], "us-west");
    assert_eq!(instance.hosts[&"web-1".parse().unwrap()].variables["rack"], "a1");
    assert_eq!(instance.hosts[&"web-1".parse().unwrap()].labels["zone"], "a");

    let pins = pins(&class, &instance);
    let shown: Vec<String> = pins
        .iter()
        .map(|pin| {
            let PinRequest { component, raw, line, declared_in, .. } = pin;
            format!("{component} {} raw={raw} {declared_in:?}:{line}", pin.reference())
        })
        .collect();
    assert_eq!(
        shown,
        [
            "services/service0/latest refs/heads/services/service0/stable raw=false Instance:11",
            "services/service0/v1.0 refs/tags/services/service0/v1.0 raw=true Instance:10",
            "services/test_service0/latest refs/heads/services/test_service0/experimental_branch raw=false Class:2",
            "applications/shop/latest refs/heads/applications/shop/master raw=false Instance:13",
        ]
    );
    assert!(instance.dangling(&class).is_empty());
}

#[test]
fn latest_follows_the_class_s_branch() {
    let reference = instance(&with_conf("")).class_ref();
    assert_eq!(reference.to_string(), "refs/heads/datacenter-configuration/c");
}

#[test]
fn components_of_a_host() {
    let instance = instance(&with_conf(
        "inventories:\n  roles:\n    core: {components: [services/a, services/web-*/v1.?]}\n  hosts:\n    \
         both: {roles: [core], components: ['devices/*']}\n    all: {labels: {zone: a}}\n    star: {components: ['*/x']}\n",
    ));
    let runs =
        |host: &str, component: &str| instance.selection(&host.parse().unwrap()).contains(&component.parse().unwrap());
    for (host, component, want) in [
        ("both", "services/a/latest", true),
        ("both", "services/a/v1", true),
        ("both", "services/ab/v1", false),
        ("both", "services/web-1/v1.0", true),
        ("both", "services/web-1/latest", false),
        ("both", "services/web-1/v1.10", false),
        ("both", "devices/router/v9", true),
        ("both", "applications/a/latest", false),
        ("all", "applications/a/latest", true),
        ("star", "applications/x/latest", true),
        ("star", "devices/x/v2", true),
        ("star", "devices/y/v2", false),
        ("unlisted", "devices/y/v2", false),
    ] {
        assert_eq!(runs(host, component), want, "{host} {component}");
    }
    let selection = |host: &str| instance.selection(&host.parse().unwrap());
    assert!(selection("all").listed && selection("all").is_everything());
    assert!(!selection("both").is_everything());
}

#[test]
fn a_host_that_is_not_listed_runs_everything_only_where_none_is_or_closed_is_false() {
    let host = |name: &str| name.parse().unwrap();
    let component = "devices/y/v2".parse().unwrap();
    for (inventories, open) in [
        ("", true),
        ("inventories: {}\n", true),
        ("inventories: {closed: false}\n", true),
        ("inventories: {roles: {core: {components: [devices/y]}}}\n", true),
        ("inventories: {hosts: {web-1: {}}}\n", false),
        ("inventories: {hosts: {web-1: {}}, closed: true}\n", false),
        ("inventories: {hosts: {web-1: {}}, closed: false}\n", true),
    ] {
        let instance = instance(&with_conf(inventories));
        assert_eq!((instance.is_open(), instance.runs(&host("wbe-1"), &component)), (open, open), "{inventories}");
        let selection = instance.selection(&host("wbe-1"));
        assert_eq!((selection.is_everything(), selection.contains(&component)), (open, open), "{inventories}");
        assert!(!selection.listed && instance.runs(&host("web-1"), &component), "{inventories}");
        let words = "the inventory lists hosts, and `wbe-1` is none of them (did you mean `web-1`?); list it under \
                     `inventories: hosts:`, or let unlisted hosts run everything with inventories: {closed: false}";
        assert_eq!(selection.shut_out, (!open).then(|| words.to_owned()), "{inventories}");
    }
    for (inventories, want) in [
        ("inventories: {closed: 1}", "line 2: `closed` must be true or false, but it is a number"),
        (
            "inventories: {closed: true}",
            "line 2: `closed` needs `hosts`: where no host is listed, each runs everything; list hosts, or take this out",
        ),
    ] {
        assert_eq!(faults(InstanceManifest::parse(&with_conf(inventories), Strict)), [want]);
        assert!(InstanceManifest::parse(&with_conf(inventories), Lenient).is_ok(), "a host passes over it");
    }
}

#[test]
fn components_that_hosts_name_must_be_run() {
    let instance = instance(&with_conf(
        "inventories:\n  roles:\n    r: {components: [services/a, services/b]}\n  hosts:\n    \
         h: {components: [services/own/v1, services/own/v2, 'services/none-*']}\n\
         services: [{name: own, branch: master, tag: v1}]\n",
    ));
    let class = class("services: [{name: a, branch: master}]");
    let dangling: Vec<String> = instance.dangling(&class).iter().map(Fault::to_string).collect();
    let missing = |line: usize, name: &str, near: &str| {
        format!(
            "line {line}: `{name}` is run neither by the class nor by this datacenter (did you mean `{near}`?); add it to \
             `services`, or take it out here"
        )
    };
    let want = [missing(4, "services/b", "services/a"), missing(6, "services/own/v2", "services/own/v1")];
    assert_eq!(dangling, want);
}

#[test]
fn a_class_may_promise_that_settings_stay_readable() {
    let promised =
        |text: &str, strictness| ClassManifest::parse(text, strictness).map(|class| class.settings_compatibility);
    assert_eq!(promised(CLASS, Strict), Ok(Compatibility::None));
    for (word, promise) in [
        ("backward", Compatibility::Backward),
        ("forward", Compatibility::Forward),
        ("full", Compatibility::Full),
        ("none", Compatibility::None),
    ] {
        assert_eq!(promised(&format!("compatibility: {{settings: {word}}}"), Strict), Ok(promise));
    }
    for (text, want) in [
        (
            "services: []\ncompatibility: {settings: back}",
            "line 2: `settings` is \"back\"; write backward, forward, full or none",
        ),
        (
            "compatibility: {settings: true}",
            "line 1: `settings` must be text (put it in quotes), but it is true or false",
        ),
        ("compatibility: {}", "line 1: `compatibility` says nothing; write {settings: backward}"),
        ("compatibility: full", "line 1: `compatibility` must be a map, but it is text"),
        (
            "compatibility: {schemas: full, settings: full}",
            "line 1: `schemas` is not known; `compatibility` has `settings`",
        ),
    ] {
        let found = faults(ClassManifest::parse(text, Strict));
        assert_eq!(found, [want], "{text}");
        assert!(promised(text, Lenient).is_ok(), "a host passes over it: {text}");
    }
    let found = faults(InstanceManifest::parse(&with_conf("compatibility: {settings: full}"), Strict));
    assert_eq!(
        found,
        ["line 2: `compatibility` belongs in the datacenter.yaml of a class, not in a datacenter's; take it out"]
    );
}

#[test]
fn faults_of_a_class() {
    for (text, want) in [
        ("", "the file is empty; write at least `services: []`"),
        ("[]", "line 1: the datacenter.yaml of a class must be a map, but it is a list"),
        (
            "servces: []",
            "line 1: `servces` is not known (did you mean `services`?); the datacenter.yaml of a class has `services`, \
             `applications`, `devices`, `platform`, `secrets`, `compatibility`",
        ),
        ("services: []\ndevices: []\nservices: []", "line 3: `services` already stands in line 1; merge the two lists"),
        ("platform: {a: 1, a: 2}", "line 1: `a` already stands in line 1; keep one of the two"),
        ("platform: {a: {}, a: {}}", "line 1: `a` already stands in line 1; merge the two maps"),
        ("rollout: {}", "line 1: `rollout` needs a later version of conf-master; take it out"),
        ("conf: x", "line 1: `conf` belongs in the datacenter.yaml of a datacenter, not in a class's; take it out"),
        ("services:", "line 1: `services` must be a list (an empty one is []), but it is empty"),
        (
            "services: {web: {}}",
            "line 1: `services` must be a list, as in [{name: web, branch: master, tag: latest}], but it is a map",
        ),
        ("services:\n- web", "line 2: a component's entry must be a map, but it is text"),
        (
            "services: [{name: web}]",
            "line 1: `branch` is missing; write {name: <name>, branch: <branch>, tag: <tag or latest>}",
        ),
        (
            "services: [{name: web, branch: m, tag: 1.0}]",
            "line 1: `tag` must be text (put it in quotes), but it is a number",
        ),
        (
            "services: [{name: web, branch: m, links: all}]",
            "line 1: `links` is \"all\"; write `links: any` for links that may lead anywhere, or take it out",
        ),
        ("services: [{name: web, branch: m, links: [any]}]", "line 1: `links` must be text, but it is a list"),
        ("services: [{name: web, branch: m, raw: yes}]", "line 1: `raw` must be true or false, but it is text"),
        (
            "services: [{name: a/b, branch: m}]",
            "line 1: `name`: \"a/b\" is not a name: only letters, digits, '.', '_' and '-' may stand in it",
        ),
        (
            "services: [{name: a, branch: m, tag: ..}]",
            "line 1: `tag`: \"..\" is not a tag name: it must begin with a letter or a digit",
        ),
        (
            "services:\n- {name: a, branch: m}\n- {name: a, branch: n, tag: latest}",
            "line 3: services/a/latest already stands in line 2; keep one of the two",
        ),
        (
            "services: [{name: a, branch: m, export: {}}]",
            "line 1: `export` needs a later version of conf-master; take it out",
        ),
        ("\tservices: []", "line 1: a tab stands where YAML wants spaces; indent with spaces"),
    ] {
        assert_eq!(faults(ClassManifest::parse(text, Strict)), [want], "{text}");
    }
}

#[test]
fn secrets_of_both() {
    let class = class(
        "services: [{name: core, branch: m}, {name: web, branch: m}]\nsecrets:\n  \
         cookie: {generate: {length: 32, encoding: hex}, readers: [services/core, services/web]}\n  \
         pin: {generate: {length: 20, alphabet: '0123456789'}, readers: [services/core]}\n  \
         adminKey: {readers: [services/core]}\n",
    );
    let instance = instance(&with_conf(
        "secrets:\n  tls: {generate: {x509: {names: ['*.example.com', '::1']}}, readers: [services/web]}\n  \
         adminKey: {from: adminKey, readers: [services/web]}\n  \
         token: {from: vault_token, readers: [services/web]}\n\
         inventories: {hosts: {h: {key: age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj}}}\n",
    ));
    let shown: Vec<String> = secrets(&class, &instance)
        .iter()
        .map(|(name, (one, whose))| {
            let readers: Vec<String> = one.readers.iter().map(ToString::to_string).collect();
            format!("{name} {whose:?}:{} {} -> {}", one.line, one.source, readers.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "adminKey Instance:4 from adminKey -> services/web",
            "cookie Class:3 generated: 32 bytes, hex -> services/core services/web",
            "pin Class:4 generated: 20 of 0123456789 -> services/core",
            "tls Instance:3 generated: x509 for *.example.com, ::1, 90 days -> services/web",
            "token Instance:5 from vault_token -> services/web",
        ]
    );
    let host = &instance.hosts[&"h".parse().unwrap()];
    assert!(host.key.as_ref().unwrap().to_string().starts_with("age1zvkyg2"));
}

#[test]
fn faults_of_secrets() {
    for (text, want) in [
        ("A: {}", "no component may read this secret; write readers: [services/<name>], or take it out"),
        ("A: {readers: []}", "no component may read this secret; write readers: [services/<name>], or take it out"),
        ("A: {readers: [web]}", "`readers`: \"web\" is not a component: write <kind>/<name>, as in services/web"),
        ("A: {readers: [services/a, services/a]}", "services/a stands twice among the readers; keep one of the two"),
        ("A: text", "a secret must be a map, but it is text"),
        ("A: {value: x, readers: [services/a]}", "`value` is not known; a secret has `generate`, `from`, `readers`"),
        (
            "A-b: {readers: [services/a]}",
            "`secrets`: \"A-b\" is not a secret's name: only letters, digits and '_' may stand in \
         it, since templates write it as a variable",
        ),
        (
            "{A: {readers: [services/a]}, a: {readers: [services/a]}}",
            "`a` and `A` in line 1 differ only in case; rename one",
        ),
        (
            "A: {from: x, generate: {length: 32}, readers: [services/a]}",
            "a secret has `generate` or `from`, or none where it is given; keep one",
        ),
        (
            "A: {from: /etc/shadow, readers: [services/a]}",
            "`from`: \"/etc/shadow\" is not a secret source's name: it must begin with a letter",
        ),
        (
            "A: {file: /etc/shadow, readers: [services/a]}",
            "`file` would choose what a host reads or runs, and only the host's own file may do that; write from: <name> \
             here, and secret-sources: {<name>: {file: …}} in conf-local.yaml of its hosts",
        ),
        (
            "A: {from: x, command: [/bin/sh], readers: [services/a]}",
            "`command` would choose what a host reads or runs, and only the host's own file may do that; write from: \
             <name> here, and secret-sources: {<name>: {command: …}} in conf-local.yaml of its hosts",
        ),
        (
            "A: {generate: {}, readers: [services/a]}",
            "`length` is missing; write generate: {length: 32, encoding: base64}, \
         or x509",
        ),
        ("A: {generate: {length: 0}, readers: [services/a]}", "`length` must be a whole number from 1 to 1024"),
        ("A: {generate: {length: 1025}, readers: [services/a]}", "`length` must be a whole number from 1 to 1024"),
        ("A: {generate: {length: '32'}, readers: [services/a]}", "`length` must be a whole number from 1 to 1024"),
        (
            "A: {generate: {length: 15}, readers: [services/a]}",
            "a `length` of 15 could be guessed; write at least 16, the \
         bytes that are encoded",
        ),
        (
            "A: {generate: {length: 19, alphabet: '0123456789'}, readers: [services/a]}",
            "a `length` of 19 could be guessed; \
         of this alphabet write at least 20",
        ),
        (
            "A: {generate: {length: 20, alphabet: aa}, readers: [services/a]}",
            "`alphabet` must be two or more characters of \
         ASCII, none of them twice and no space",
        ),
        (
            "A: {generate: {length: 20, encoding: utf8}, readers: [services/a]}",
            "`encoding` is \"utf8\"; write base64, \
         base64url or hex",
        ),
        (
            "A: {generate: {length: 20, encoding: hex, alphabet: ab}, readers: [services/a]}",
            "write `encoding` or `alphabet`, \
         not both",
        ),
        (
            "A: {generate: {x509: {}}, readers: [services/a]}",
            "a certificate needs names; write x509: {names: \
         [web.example.com], days: 90}",
        ),
        (
            "A: {generate: {x509: {names: []}}, readers: [services/a]}",
            "a certificate needs names; write x509: {names: \
         [web.example.com], days: 90}",
        ),
        (
            "A: {generate: {x509: {names: ['a b']}}, readers: [services/a]}",
            "\"a b\" is neither a DNS name (or *. and one) nor \
         an IP address",
        ),
        (
            "A: {generate: {x509: {names: [a], days: 0}}, readers: [services/a]}",
            "`days` must be a whole number from 1 to 3650",
        ),
        (
            "A: {generate: {length: 32, x509: {names: [a]}}, readers: [services/a]}",
            "`x509` stands alone in `generate`; take \
         the other keys out",
        ),
    ] {
        let text = if text.starts_with('{') { format!("secrets: {text}") } else { format!("secrets: {{{text}}}") };
        assert_eq!(faults(ClassManifest::parse(&text, Strict)), [format!("line 1: {want}")], "{text}");
    }
    // A host never fails on keys that it does not know, and reads all others.
    let text = "secrets: {A: {readers: [services/a], later: true}, B: {readers: [services/a], generate: {later: x, length: 16}}}";
    assert_eq!(ClassManifest::parse(text, Lenient).unwrap().secrets.len(), 2);
    // What a snapshot of an earlier version chose counts no more, even beside what does.
    let text = "secrets: {A: {readers: [services/a], file: /etc/shadow}, B: {readers: [services/a], from: x, command: [/bin/sh]}}";
    let sources = ClassManifest::parse(text, Lenient).unwrap().secrets;
    let sources: Vec<_> = sources.values().map(|declared| &declared.source).collect();
    assert_eq!(sources, [&Source::Chosen("file"), &Source::Chosen("command")]);
}

#[test]
fn faults_of_a_datacenter() {
    for (text, want) in [
        (
            "services: []".to_owned(),
            "`conf` is missing; write conf: datacenter-configuration/<class>/<tag>, or …/latest",
        ),
        (
            "conf: big/v1".to_owned(),
            "line 1: `conf` is \"big/v1\"; write datacenter-configuration/<class>/<tag>, or …/latest to follow the class's \
             branch",
        ),
        ("conf: 1".to_owned(), "line 1: `conf` must be text (put it in quotes), but it is a number"),
        (
            with_conf("inventories: {hosts: {h: {key: x}}}"),
            "line 2: `key`: this is no public key; write what `conf-local identity` prints on the host, or an ssh-ed25519 key",
        ),
        (
            with_conf("inventories: {hosts: {h: {role: [x]}}}"),
            "line 2: `role` is not known (did you mean `roles`?); a host has `roles`, `labels`, `key`, `components`, \
             `variables`, `settings`",
        ),
        (
            with_conf("inventories:\n  hosts:\n    h:"),
            "line 4: a host must be a map (an empty one is {}), but it is empty",
        ),
        (
            with_conf("inventories:\n  roles: {core: {}}\n  hosts:\n    h: {roles: [cor]}"),
            "line 5: there is no role `cor` (did you mean `core`?); write it under `inventories: roles:`",
        ),
        (
            with_conf("inventories: {roles: {core: {}}, hosts: {h: {roles: [core, core]}}}"),
            "line 2: the role `core` stands twice; keep one of the two",
        ),
        (
            with_conf("inventories: {hosts: {h/1: {}}}"),
            "line 2: `h/1`: \"h/1\" is not a host name: only letters, digits, '.', '_' and '-' may stand in it",
        ),
        (
            with_conf("inventories: {hosts: {h: {components: [web]}}}"),
            "line 2: `web` names no component; write <kind>/<name> or <kind>/<name>/<version>, as in services/web, \
             services/web-* or */*, where <kind> is services, applications or devices",
        ),
        (
            with_conf("inventories: {hosts: {h: {settings: {services/web: {pool: 8,\n pool: 9}}}}}"),
            "line 3: `pool` already stands in line 2; keep one of the two",
        ),
        (
            with_conf("inventories: {roles: {r: {settings: {services/web: 8}}}}"),
            "line 2: `services/web` must be a map, but it is a number",
        ),
        (
            with_conf("inventories: {hosts: {h: {labels: {zone: [a]}}}}"),
            "line 2: `zone` must be one word: text, a number, true or false, but it is a list",
        ),
    ] {
        assert_eq!(faults(InstanceManifest::parse(&text, Strict)), [want], "{text}");
    }
}

#[test]
fn all_faults_come_at_once_in_order() {
    let text = "conf: nothing\nservices:\n- {name: a b, branch: m}\n- {name: c}\nrollout: 1\nx: 1\n";
    let lines: Vec<_> = InstanceManifest::parse(text, Strict).unwrap_err().iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [Some(1), Some(3), Some(4), Some(5), Some(6)]);

    let many: String = (0..500).map(|n| format!("x{n}: 1\n")).collect();
    let faults = faults(ClassManifest::parse(&many, Strict));
    assert_eq!((faults.len(), faults[50].as_str()), (51, "and 450 more faults"));
}

#[test]
fn a_reader_ignores_unknown_keys() {
    let text = with_conf(
        "secrets: {a: {}}\nrollout: [1]\nservices: [{name: a, branch: m, export: {mode: 1}}]\n\
         inventories: {later: 1, roles: {r: {later: 1}}, hosts: {h: {key: age1, settings: {services/a: {pool: 8}}}}}\n",
    );
    let read = InstanceManifest::parse(&text, Lenient).unwrap();
    assert_eq!(read.components.len(), 1);
    let host = &read.hosts[&"h".parse().unwrap()];
    assert_eq!(host.settings[&"services/a".parse().unwrap()].values["pool"], 8);
    assert!(InstanceManifest::parse(&text, Strict).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(parts in prop::collection::vec(
        "(conf: datacenter-configuration/c/latest|services|hosts|inventories|roles|name|branch|tag|components|settings|: |[\\[\\]{},\\-*&!]|\n| |a|1){1,3}", 0..60)) {
        let text = parts.concat();
        for strictness in [Strict, Lenient] {
            let _ = ClassManifest::parse(&text, strictness);
            let _ = InstanceManifest::parse(&text, strictness);
        }
    }

    #[test]
    fn a_reader_reads_a_landed_manifest_alike(names in prop::collection::vec("[a-c]{1,2}", 0..6)) {
        let text = with_conf(&format!("services:{}\n", if names.is_empty() { " []".into() } else {
            names.iter().map(|name| format!("\n- {{name: {name}, branch: m}}")).collect::<String>() }));
        if let Ok(strict) = InstanceManifest::parse(&text, Strict) {
            prop_assert_eq!(InstanceManifest::parse(&text, Lenient).unwrap(), strict);
        }
    }
}
