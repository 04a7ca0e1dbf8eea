use std::collections::BTreeMap;

use git2::Repository;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::layers::{
    groups::groups,
    ingredients::Ingredients,
    layer::{Layer, LayerError, LinkPolicy, Origin, Sources},
    overrides::Overrides,
    stack::{Stack, stack},
};
use crate::{
    manifest::{InstanceManifest, Strictness},
    secret::Declaration,
    settings,
};
use libconf::name::{ComponentName, ComponentVersion, DatacenterName, HostName, ObjectId, SecretName};

/// A repository with trees for a component, its class and its datacenter.
struct Bench {
    folder: tempfile::TempDir,
    repo: Repository,
    component: ObjectId,
    class: ObjectId,
    datacenter: ObjectId,
    instance: InstanceManifest,
    name: DatacenterName,
    platform: Map<String, Value>,
    secrets: BTreeMap<SecretName, Declaration>,
    sealed: BTreeMap<SecretName, ObjectId>,
}

impl Bench {
    fn new(component: &[(&str, &str)], class: &[(&str, &str)], own: &[(&str, &str)], inventories: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let manifest = format!("conf: datacenter-configuration/big/latest\n{inventories}");
        let [component, class, datacenter] = [component, class, own].map(|files| tree(&repo, files));
        let instance = InstanceManifest::parse(&manifest, Strictness::Strict).unwrap();
        let platform = instance.platform.clone();
        let name = "dc/main".parse().unwrap();
        let (secrets, sealed) = (instance.secrets.clone(), BTreeMap::new());
        Bench { folder, repo, component, class, datacenter, instance, name, platform, secrets, sealed }
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            component_tree: self.component,
            raw: false,
            links: LinkPolicy::Inside,
            class_tree: self.class,
            datacenter_tree: self.datacenter,
            instance: &self.instance,
            datacenter: &self.name,
            platform: &self.platform,
            secrets: &self.secrets,
            sealed: &self.sealed,
        }
    }

    fn stack(&self, host: &str) -> Result<Stack, LayerError> {
        stack(&self.repo, &self.sources(), &web(), Some(&host.parse().unwrap()))
    }

    fn settings(&self, host: &str) -> Value {
        Value::Object(self.stack(host).unwrap().merged())
    }
}

fn web() -> ComponentName {
    "services/web".parse().unwrap()
}

fn tree(repo: &Repository, files: &[(&str, &str)]) -> ObjectId {
    let empty = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
    let mut update = git2::build::TreeUpdateBuilder::new();
    for (path, text) in files {
        update.upsert(*path, repo.blob(text.as_bytes()).unwrap(), git2::FileMode::Blob);
    }
    update.create_updated(repo, &empty).unwrap().into()
}

const OVERRIDE: &str = "overrides/services/web.yaml";

fn example() -> Bench {
    Bench::new(
        &[("config.yaml", "port: 80\npool: 1\nlog: {level: info, file: /var/log}\ntags: [a, b]\nempty: ~\n")],
        &[(OVERRIDE, "pool: 2\nlog:\n  level: warn\n"), ("overrides/services/other.yaml", "pool: 99\n")],
        &[(OVERRIDE, "tags: [c]\nlog: {file: ~}\n")],
        "inventories:\n  roles:\n    core: {components: [services/*], settings: {services/web: {pool: 3, x: 1}}}\n    fast:\n      settings:\n        services/web:\n          pool: 4\n\
         \x20 hosts:\n    web-1: {roles: [core, fast]}\n    web-2: {roles: [fast, core], settings: {services/web: {x: ~, y: {z: 2}}}}\n    web-3: {roles: [core]}\n    db-1: {components: [services/db]}\n",
    )
}

#[test]
fn later_layers_win() {
    let bench = example();
    let base =
        |pool: u64| json!({"port": 80, "pool": pool, "log": {"level": "warn"}, "tags": ["c"], "empty": null, "x": 1});
    assert_eq!(bench.settings("web-1"), base(4), "roles in listed order");
    assert_eq!(
        bench.settings("web-2"),
        json!({"port": 80, "pool": 3, "log": {"level": "warn"}, "tags": ["c"], "empty": null, "y": {"z": 2}})
    );
    let unlisted = json!({"port": 80, "pool": 2, "log": {"level": "warn"}, "tags": ["c"], "empty": null});
    assert_eq!(bench.settings("nobody"), unlisted);
    let raw = Sources { raw: true, ..bench.sources() };
    assert!(stack(&bench.repo, &raw, &web(), None).unwrap().layers.is_empty());
    assert!(bench.folder.path().exists());
}

#[test]
fn every_layer_knows_its_lines() {
    let bench = example();
    let stack = bench.stack("web-2").unwrap();
    let lines = |pointer: &str| -> Vec<(String, Option<usize>)> {
        stack.layers.iter().map(|layer| (layer.origin.to_string(), layer.line_of(pointer))).collect()
    };
    let told = |lines: [Option<usize>; 6]| -> Vec<(String, Option<usize>)> {
        let names = ["component", "class", "datacenter", "role fast", "role core", "host web-2"];
        names.map(str::to_owned).into_iter().zip(lines).collect()
    };
    assert_eq!(lines("/pool"), told([Some(2), Some(1), None, Some(8), Some(4), None]));
    assert_eq!(lines("log.level"), told([Some(3), Some(3), None, None, None, None]));
    assert_eq!(stack.winner("/pool").unwrap().origin, Origin::Role("core".parse().unwrap()));
    assert_eq!(stack.winner("/log").unwrap().origin, Origin::Datacenter);
    assert_eq!(stack.winner("/log/file/deeper").unwrap().origin, Origin::Datacenter, "what it removed is gone");
    assert_eq!(stack.winner("/x").unwrap().origin, Origin::Host("web-2".parse().unwrap()));
    assert!(stack.winner("/never").is_none());
}

#[test]
fn faults_of_all_layers_come_at_once() {
    let bench = Bench::new(&[("config.yaml", "a: [\n")], &[(OVERRIDE, "a: 1\na: 2\n")], &[(OVERRIDE, "")], "");
    assert_eq!(
        bench.stack("web-1").unwrap_err().to_string(),
        "config.yaml:1: unclosed bracket '['; class: overrides/services/web.yaml:2: `a` already stands in line 1; keep one \
         of the two; datacenter: overrides/services/web.yaml: the file is empty; write {}, or take the file out"
    );
}

#[test]
fn overrides_are_listed_and_strays_named() {
    let bench = Bench::new(
        &[],
        &[
            (OVERRIDE, "{}"),
            ("overrides/things/web.yaml", "{}"),
            ("overrides/services/web.yml", "{}"),
            ("overrides/services/db.yaml/x", "{}"),
            ("overrides/README", ""),
        ],
        &[("overrides", "")],
        "",
    );
    let class = Overrides::read(&bench.repo, bench.class).unwrap();
    assert_eq!(class.files.keys().collect::<Vec<_>>(), [&web()]);
    assert_eq!(
        class.strays,
        ["overrides/README", "overrides/services/db.yaml", "overrides/services/web.yml", "overrides/things"]
    );
    assert_eq!(Overrides::read(&bench.repo, bench.datacenter).unwrap().strays, ["overrides"]);
    assert_eq!(Overrides::read(&bench.repo, bench.component).unwrap(), Overrides::default());
}

#[test]
fn hosts_that_share_their_layers_are_one_group() {
    let inventories = "inventories:\n  roles:\n    core: {components: [services/*], settings: {services/web: {pool: 3}}}\n    other: {settings: {services/db: {a: 1}}}\n    \
         same: {components: [services/*], settings: {services/web: {pool: 3}}}\n\
         \x20 hosts:\n    a: {roles: [core, other]}\n    b: {roles: [same]}\n    c: {components: [services/web]}\n    d: {}\n    e: {components: [services/db], settings: {services/web: {x: 1}}}\n    \
         f: {settings: {services/web: {pool: 4}}}\n";
    let bench = Bench::new(&[], &[], &[], inventories);
    let component = |name: &str| -> ComponentVersion { format!("services/{name}/latest").parse().unwrap() };
    let hosts = |name: &str| -> Vec<Vec<String>> {
        let groups = groups(&bench.repo, &bench.sources(), &component(name)).unwrap();
        groups.iter().map(|group| group.hosts.iter().map(HostName::to_string).collect()).collect()
    };
    assert_eq!(hosts("web"), [vec!["c", "d"], vec!["a", "b"], vec!["f"]]);
    assert_eq!(hosts("db"), [vec!["b", "d", "e", "f"], vec!["a"]]);
    // Hosts that are not listed are one more group, where they run everything.
    let open = Bench::new(&[], &[], &[], &format!("{inventories}  closed: false\n"));
    let all = groups(&open.repo, &open.sources(), &component("web")).unwrap();
    assert_eq!((all.len(), all[3].host()), (4, None));
    let none = Bench::new(&[], &[], &[], "");
    assert_eq!(groups(&none.repo, &none.sources(), &component("web")).unwrap()[0].host(), None);
}

#[test]
fn explain_names_every_layer() {
    let bench = example();
    let stack = bench.stack("web-2").unwrap();
    let told = |at: &str| -> Vec<String> {
        let Ok(at) = at.parse();
        let explained = stack.explain(Some(&at));
        explained
            .iter()
            .flat_map(|one| {
                let value = one.value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
                let by = one.set_by.iter().map(|by| {
                    let value = by.value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
                    let line = by.line.map_or_else(String::new, |line| format!(":{line}"));
                    format!("{} {}{line} {value}{}", by.origin, by.file, if by.winner { " *" } else { "" })
                });
                std::iter::once(format!("{} = {value}", one.pointer)).chain(by).collect::<Vec<_>>()
            })
            .collect()
    };
    assert_eq!(
        told("pool"),
        [
            "/pool = 3",
            "component config.yaml:2 1",
            "class overrides/services/web.yaml:1 2",
            "role fast datacenter.yaml:8 4",
            "role core datacenter.yaml:4 3 *"
        ]
    );
    assert_eq!(
        told("/log"),
        [
            "/log/file = -",
            "component config.yaml:3 \"/var/log\"",
            "datacenter overrides/services/web.yaml:2 - *",
            "/log/level = \"warn\"",
            "component config.yaml:3 \"info\"",
            "class overrides/services/web.yaml:3 \"warn\" *",
        ]
    );
    assert_eq!(told("x"), ["/x = -", "role core datacenter.yaml:4 1", "host web-2 datacenter.yaml:11 - *"]);
    assert_eq!(told("/empty"), ["/empty = null", "component config.yaml:5 null *"]);
    assert_eq!(
        told("/tags/0"),
        ["/tags/0 = \"c\"", "component config.yaml:4 \"a\"", "datacenter overrides/services/web.yaml:1 \"c\" *"]
    );
    assert_eq!(told("never"), [""; 0]);
    let json = serde_json::to_value(stack.explain(Some(&"x".parse().unwrap()))).unwrap();
    assert_eq!(
        json,
        json!([{"pointer": "/x", "set_by": [
            {"layer": "role", "name": "core", "file": "datacenter.yaml", "line": 4, "value": 1, "winner": false},
            {"layer": "host", "name": "web-2", "file": "datacenter.yaml", "line": 11, "winner": true},
        ]}])
    );
    let again: Vec<crate::layers::Explained> = serde_json::from_value(json).unwrap();
    assert_eq!(again, stack.explain(Some(&"x".parse().unwrap())));
}

#[test]
fn ingredients_differ_exactly_where_settings_may() {
    let bench = example();
    let read = |bench: &Bench, host: &str, component: &str| {
        let overrides = [bench.class, bench.datacenter].map(|tree| Overrides::read(&bench.repo, tree).unwrap());
        let host: HostName = host.parse().unwrap();
        let component = format!("{component}/latest").parse().unwrap();
        Ingredients::new(&bench.repo, &bench.sources(), overrides.each_ref(), &component, Some(&host)).unwrap()
    };
    assert_eq!(read(&bench, "web-1", "services/web"), read(&example(), "web-1", "services/web"));
    assert_ne!(read(&bench, "web-1", "services/web"), read(&bench, "web-2", "services/web"));
    assert_ne!(read(&bench, "web-1", "services/other"), read(&bench, "web-1", "services/free"));
    assert_eq!(read(&bench, "web-1", "services/free"), read(&bench, "web-2", "services/free2"));
}

#[test]
fn no_variable_that_templates_read_is_missed() {
    let inventory = "inventories:\n  hosts:\n    web-1: {variables: {rack: a}}\n    web-2: {variables: {rack: b}}\n";
    let read = |template: &str, host: &str, component: &str| {
        let bench = Bench::new(&[("x.j2", template)], &[], &[], inventory);
        let overrides = [bench.class, bench.datacenter].map(|tree| Overrides::read(&bench.repo, tree).unwrap());
        let component = format!("{component}/latest").parse().unwrap();
        let groups = groups(&bench.repo, &bench.sources(), &component).unwrap().len();
        let host: HostName = host.parse().unwrap();
        let read = Ingredients::new(&bench.repo, &bench.sources(), overrides.each_ref(), &component, Some(&host));
        (read.unwrap(), groups)
    };
    let by_rack = [
        "{{ host.variables.rack }}",
        "{% set host = host.variables %}{{ host.rack }}",
        "{%- set host = host.variables -%}{{ host.rack }}",
        "{% with host = host.variables %}{{ host.rack }}{% endwith %}",
        "{% filter replace('@', host.variables.rack) %}@{% endfilter %}",
        "{% set x | replace('@', host.variables.rack) %}@{% endset %}{{ x }}",
        "{% autoescape host.variables.rack == 'a' %}{{ '<' }}{% endautoescape %}",
        "{% macro m(host=host.variables) %}{{ host.rack }}{% endmacro %}{{ m() }}",
        "{% macro m(host) %}{{ host.rack }}{% endmacro %}{{ m(host.variables) }}",
        "{% for host in [host.variables] %}{{ host.rack }}{% endfor %}",
        "{% if true %}{% set host = host.variables %}{{ host.rack }}{% endif %}",
        "{% block host %}{{ host.variables.rack }}{% endblock %}",
        "{% include 'x' %}",
    ];
    for template in by_rack {
        let (one, groups) = read(template, "web-1", "services/web");
        assert_ne!(one, read(template, "web-2", "services/web").0, "{template}");
        assert_eq!(groups, 2, "{template}");
    }
    let by_name = "{% set component = component.name %}{{ component }}";
    assert_ne!(read(by_name, "web-1", "services/web").0, read(by_name, "web-1", "services/other").0);
    for template in ["{{ platform.x }}", "{% if component.name %}host{% endif %}", "{% set x = 1 %}localhost {{ x }}"] {
        let (one, groups) = read(template, "web-1", "services/web");
        assert_eq!(one, read(template, "web-2", "services/web").0, "{template}");
        assert_eq!(groups, 1, "{template}");
    }
}

/// Settings with few keys, so that layers meet.
fn object() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        2 => Just(Value::Null),
        3 => (0..4_u8).prop_map(Value::from),
        1 => prop::collection::vec(0..3_u8, 0..3).prop_map(Value::from),
        1 => Just(json!([{"a": null}])),
    ];
    let value = leaf.prop_recursive(3, 24, 3, |inner| {
        prop::collection::hash_map("[a-c]|/|~|d\\.e", inner, 0..4)
            .prop_map(|object| Value::Object(object.into_iter().collect()))
    });
    prop::collection::hash_map("[a-c]|/|~", value, 0..4).prop_map(|object| object.into_iter().collect())
}

fn layers() -> impl Strategy<Value = Vec<Map<String, Value>>> {
    prop::collection::vec(object(), 1..5)
}

fn of(layers: &[Map<String, Value>]) -> Stack {
    let origin = |at: usize| match at {
        0 => Origin::Component,
        1 => Origin::Class,
        2 => Origin::Datacenter,
        _ => Origin::Role(format!("r{at}").parse().unwrap()),
    };
    Stack {
        layers: layers.iter().enumerate().map(|(at, values)| Layer::new(origin(at), "f", values.clone())).collect(),
    }
}

/// The algorithm of RFC 7396, section 2, word for word.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = if let Value::Object(target) = target { target } else { Map::new() };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let inner = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), merge_patch(inner, value));
        }
    }
    Value::Object(target)
}

fn leaves(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(object) if !object.is_empty() => object.iter().for_each(|(key, value)| {
            leaves(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
        }),
        _ => all.push(at),
    }
}

proptest! {
    #[test]
    fn layers_merge_as_rfc_7396_says(layers in layers()) {
        let mut want = Value::Object(layers[0].clone());
        for patch in &layers[1..] {
            want = merge_patch(want, &Value::Object(patch.clone()));
        }
        prop_assert_eq!(Value::Object(of(&layers).merged()), want);
    }

    #[test]
    fn the_last_layer_has_its_way(layers in layers()) {
        let settings = Value::Object(of(&layers).merged());
        let last = Value::Object(layers[layers.len() - 1].clone());
        let mut all = Vec::new();
        leaves(&last, String::new(), &mut all);
        for pointer in all {
            match last.pointer(&pointer).unwrap() {
                // A null in a patch removes; only the lowest layer's nulls are values.
                Value::Null if layers.len() > 1 => prop_assert_eq!(settings.pointer(&pointer), None),
                Value::Object(_) => prop_assert!(settings.pointer(&pointer).unwrap().is_object()),
                value => prop_assert_eq!(settings.pointer(&pointer), Some(value)),
            }
        }
    }

    #[test]
    fn a_null_removes(layers in layers(), key in "[a-c]") {
        let mut layers = layers;
        layers.push(Map::from_iter([(key.clone(), Value::Null)]));
        prop_assert!(!of(&layers).merged().contains_key(&key));
    }

    #[test]
    fn explain_agrees_with_the_result(layers in layers()) {
        let stack = of(&layers);
        let settings = Value::Object(stack.merged());
        let explained = stack.explain(None);
        let mut all = Vec::new();
        leaves(&settings, String::new(), &mut all);
        let mut told: Vec<_> = explained.iter().filter(|one| one.value.is_some()).map(|one| one.pointer.clone()).collect();
        all.retain(|pointer| !pointer.is_empty());
        told.retain(|pointer| !pointer.is_empty());
        all.sort();
        told.sort();
        prop_assert_eq!(told, all, "every key once");
        for one in explained.iter().filter(|one| !one.pointer.is_empty()) {
            prop_assert_eq!(one.value.as_ref(), settings.pointer(&one.pointer));
            let winners: Vec<_> = one.set_by.iter().filter(|by| by.winner).collect();
            prop_assert_eq!(winners.len(), 1);
            prop_assert_eq!(&winners[0].value, &one.value, "what the winner says is what stands");
            prop_assert_eq!(&stack.winner(&one.pointer).unwrap().origin, &winners[0].origin);
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes(layers in layers()) {
        // Keys in another order, as another reader would insert them.
        fn turned(value: &Value) -> Value {
            match value {
                Value::Object(object) => object.iter().rev().map(|(key, value)| (key.clone(), turned(value))).collect(),
                Value::Array(items) => items.iter().map(turned).collect(),
                value => value.clone(),
            }
        }
        let other: Vec<Map<String, Value>> = layers
            .iter()
            .map(|layer| match turned(&Value::Object(layer.clone())) { Value::Object(layer) => layer, _ => Map::new() })
            .collect();
        let bytes = |layers: &[Map<String, Value>]| settings::to_canonical(&Value::Object(of(layers).merged()));
        prop_assert_eq!(bytes(&layers), bytes(&other));
    }
}
