use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libconf::name::{DatacenterName, RefName};

use super::*;
use crate::access::{AccessTable, Named, Principal, Scope, Token, TokenEntry, Verb};

const POLICY: &str = r#"
groups: {web: [alice, ci], ops: [bob], lab-web: [alice], release: [carol]}
rights:
  - {group: web, may: [push, tag], refs: ["services/web/*"], datacenters: ["lab/*"]}
  - {group: lab-web, may: [push], refs: ["services/*"], datacenters: ["test-?/v1"]}
  - {group: release, may: [push], refs: ["services/*", "datacenters/*"]}
  - {group: ops, may: [administer]}
"#;

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn somebody(name: &str, groups: &[&str], scope: Scope) -> Principal {
    let groups = groups.iter().map(|group| group.parse().unwrap()).collect();
    Principal::Named(Named { name: name.parse().unwrap(), groups, scope, token: None })
}

fn datacenters(names: &str) -> BTreeSet<DatacenterName> {
    names.split_whitespace().map(|name| name.parse().unwrap()).collect()
}

/// The refusal of somebody who would do something to a branch or tag that affects datacenters.
fn refusal(policy: &Policy, who: &Principal, verb: Verb, reference: &str, affected: &str) -> Option<String> {
    let reference: Option<RefName> = (!reference.is_empty()).then(|| reference.parse().unwrap());
    let affected = datacenters(affected);
    let place = Place { reference: reference.as_ref(), datacenters: &affected };
    policy.check(who, verb, place).err().map(|denied| denied.to_string())
}

#[test]
fn rights_hold_where_the_policy_says() {
    let policy = policy(POLICY);
    let [alice, carol] = ["alice", "carol"].map(|name| somebody(name, &[], Scope::Policy));
    let web = "refs/heads/services/web/master";
    for (who, verb, reference, affected, may) in [
        (&alice, Verb::Push, web, "", true),
        (&alice, Verb::Push, web, "lab/v1 lab/v2", true),
        (&alice, Verb::Push, web, "lab/v1 prod/v1", false),
        // The rights of two groups add up.
        (&alice, Verb::Push, web, "lab/v1 test-1/v1", true),
        (&alice, Verb::Push, web, "lab/v1 test-11/v1", false),
        (&alice, Verb::Push, "refs/heads/services/website/master", "", true),
        (&alice, Verb::Push, "refs/heads/services/website/master", "lab/v1", false),
        (&alice, Verb::Tag, "refs/tags/services/web/v1", "lab/v1", true),
        (&alice, Verb::Tag, "refs/tags/services/website/v1", "", false),
        (&alice, Verb::Delete, web, "", false),
        (&alice, Verb::Push, "refs/heads/policy", "", false),
        (&alice, Verb::Administer, "refs/heads/policy", "", false),
        (&alice, Verb::Push, "", "lab/v1", false),
        (&carol, Verb::Push, web, "prod/v1", true),
        (&carol, Verb::Push, "refs/heads/datacenters/prod/v1", "", true),
    ] {
        let found = refusal(&policy, who, verb, reference, affected);
        assert_eq!(found.is_none(), may, "{who} {verb} {reference} {affected}: {found:?}");
    }
    let bob = somebody("bob", &[], Scope::Policy);
    for verb in Verb::ALL {
        for who in [&bob, &Principal::Server, &Principal::Owner("root".to_owned())] {
            assert_eq!(refusal(&policy, who, verb, "refs/heads/policy", "prod/v1"), None);
            assert_eq!(refusal(&policy, who, verb, "", ""), None);
        }
        for who in [&somebody("dave", &["other"], Scope::Policy), &Principal::Anybody] {
            assert!(refusal(&policy, who, verb, web, "").is_some());
            assert!(refusal(&policy, who, verb, "", "").is_some());
        }
    }
    // A token puts somebody into a group.
    assert_eq!(refusal(&policy, &somebody("dave", &["web"], Scope::Policy), Verb::Push, web, "lab/v1"), None);
}

#[test]
fn a_branch_of_a_datacenter_affects_it_whoever_says_so() {
    let policy = policy("rights: [{group: lab, may: [push, read], datacenters: [lab/*]}]");
    let who = somebody("ci", &["lab"], Scope::Policy);
    for (reference, may) in [
        ("refs/heads/datacenters/lab/v1", true),
        ("refs/heads/datacenters/prod/v1", false),
        ("refs/snapshots/prod/v1", false),
    ] {
        for verb in [Verb::Push, Verb::Read] {
            assert_eq!(refusal(&policy, &who, verb, reference, "").is_none(), may, "{reference}");
        }
    }
}

#[test]
fn a_token_of_a_host_or_a_conf_slave_reads_and_reports_and_no_more() {
    // Even where its groups may everything.
    let policy = Policy::initial();
    let slave = somebody("edge", &["administrators"], Scope::Slave("lab/*".to_owned()));
    let own: DatacenterName = "lab/v1".parse().unwrap();
    let host = Scope::Host { datacenter: own, host: "web-1".parse().unwrap() };
    let host = somebody("web-1", &["administrators"], host);
    for verb in Verb::ALL {
        let reads = matches!(verb, Verb::Read | Verb::Report);
        for who in [&slave, &host] {
            let may = |affected: &str| refusal(&policy, who, verb, "", affected).is_none();
            assert_eq!((may("lab/v1"), may("prod/v1"), may("lab/v1 prod/v1"), may("")), (reads, false, false, false));
            assert_eq!(refusal(&policy, who, verb, "refs/snapshots/lab/v1", "").is_none(), reads);
            assert!(refusal(&policy, who, verb, "refs/snapshots/prod/v1", "lab/v1").is_some());
        }
        assert_eq!(refusal(&policy, &slave, verb, "", "lab/v2").is_none(), reads);
        assert!(refusal(&policy, &host, verb, "", "lab/v2").is_some());
    }
    assert_eq!(
        refusal(&policy, &slave, Verb::Push, "refs/heads/services/web/master", "").unwrap(),
        "edge lacks the right `push` on services/web/master: its token is for a conf-slave of lab/* alone; use another token"
    );
}

#[test]
fn a_refusal_names_the_right_and_who_has_it() {
    let policy = policy(POLICY);
    let alice = somebody("alice", &[], Scope::Policy);
    let says = |verb, reference: &str, affected: &str| refusal(&policy, &alice, verb, reference, affected).unwrap();
    assert_eq!(
        says(Verb::Push, "refs/heads/services/web/master", "lab/v1 prod/v1 prod/v2"),
        "alice lacks the right `push` on services/web/master for prod/v1 and prod/v2; the group release has it, and an \
         administrator (the group ops) can give it, in policy.yaml on the branch policy"
    );
    assert_eq!(
        says(Verb::Delete, "refs/tags/services/web/v1", ""),
        "alice lacks the right `delete` on services/web/v1; no group has it, and an administrator (the group ops) can \
         give it, in policy.yaml on the branch policy"
    );
    assert_eq!(
        refusal(&policy, &Principal::Anybody, Verb::Read, "", "").unwrap(),
        "somebody without a token lacks the right `read`; show a token that proves a name"
    );
    let many: Vec<String> = (0..8).map(|number| format!("  - {{group: g{number}, may: [push]}}\n")).collect();
    let many = Policy::parse(&format!("rights:\n{}", many.concat())).unwrap();
    let words = refusal(&many, &alice, Verb::Push, "refs/heads/services/web/master", "").unwrap();
    assert!(words.contains("the groups g0, g1, g2, g3, g4 and 1 more have it, and an administrator can"), "{words}");
}

#[test]
fn until_there_is_a_policy_administrators_may_everything_and_a_broken_one_gives_nothing() {
    let root = somebody("root", &["administrators"], Scope::Policy);
    for verb in Verb::ALL {
        assert_eq!(refusal(&Policy::initial(), &root, verb, "refs/heads/policy", "lab/v1"), None);
        assert!(refusal(&Policy::closed(), &root, verb, "", "").is_some());
        let other = somebody("root", &["others"], Scope::Policy);
        assert!(refusal(&Policy::initial(), &other, verb, "", "").is_some());
    }
}

#[test]
fn a_policy_needs_an_administrator_who_has_a_token() {
    let policy = policy(POLICY);
    let mut tokens = AccessTable::default();
    assert!(policy.has_administrator(&tokens, 100), "nobody has a token");
    let token = |name: &str, groups: &[&str], scope: Scope, expires: Option<i64>| TokenEntry {
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        expires,
        ..TokenEntry::new(Token::generate().hash(), name.parse().unwrap(), scope, (0, "test".to_owned()))
    };
    tokens.put(token("bob", &[], Scope::Policy, Some(100)), 50).unwrap();
    assert!(policy.has_administrator(&tokens, 50));
    assert!(policy.has_administrator(&tokens, 100), "no token is live");
    tokens.put(token("alice", &[], Scope::Policy, None), 50).unwrap();
    assert!(!policy.has_administrator(&tokens, 100), "the token has expired");
    tokens.put(token("bob", &[], Scope::Slave("*".to_owned()), None), 50).unwrap();
    assert!(!policy.has_administrator(&tokens, 100), "a conf-slave is no administrator");
    tokens.put(token("dave", &["ops"], Scope::Policy, None), 50).unwrap();
    assert!(policy.has_administrator(&tokens, 100));
}

#[test]
fn every_fault_has_its_line_and_its_place() {
    let text = r#"
groups:
  web: [alice, alice, "a b"]
  web: [bob]
  ops: bob
  "-": []
rigths: []
rights:
  - {group: web, may: [push, pusch, push], refs: ["refs/heads/services/web/*", "services/web", "a b", "services/*", "services/*"]}
  - {group: web, may: [], refs: []}
  - {may: [read], datacenters: [lab, "*", 7]}
  - {group: web, group: ops}
  - {group: web, may: [administer], refs: ["*"]}
  - {group: web, may: [read], ref: ["*"]}
  - web
"#;
    let faults = Policy::parse(text).unwrap_err();
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    for words in [
        "line 3: /groups/web/1: `alice` already stands in this list",
        "line 3: /groups/web/2: \"a b\" is not a principal's name",
        "line 4: /groups: `web` already stands in line 3",
        "line 5: /groups/ops: this must be a list, as in [alice, bob], but it is text",
        "line 6: /groups/-: \"-\" is not a group name",
        "line 7: /rigths: `rigths` is no key of the policy (did you mean `rights`?)",
        "line 9: /rights/0/may/1: `pusch` is not known (did you mean `push`?); there are read, push, tag",
        "line 9: /rights/0/may/2: `push` already stands in this list",
        "line 9: /rights/0/refs/0: `refs/heads/services/web/*`: write it without",
        "line 9: /rights/0/refs/1: no branch and no tag can have the name `services/web`; `*` stands for",
        "line 9: /rights/0/refs/2: `a b` is no pattern",
        "line 9: /rights/0/refs/4: `services/*` already stands",
        "line 10: /rights/1/may: this right gives nothing",
        "line 10: /rights/1/refs: nothing matches an empty list",
        "line 11: /rights/2: `group` is missing",
        "line 11: /rights/2/datacenters/0: no datacenter can have the name `lab`: a datacenter is <id>/<version>, as in lab/*",
        "line 11: /rights/2/datacenters/2: this must be text (put it in quotes), but it is a number",
        "line 12: /rights/3: `group` already stands in line 12",
        "line 12: /rights/3: `may` is missing",
        "line 13: /rights/4: `administer` is every right everywhere",
        "line 14: /rights/5/ref: `ref` is no key of a right (did you mean `refs`?)",
        "line 15: /rights/6: this must be a map: a right, but it is text",
    ] {
        assert!(told.iter().any(|one| one.starts_with(words)), "{words}\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), 22 + 2, "a right that is no map lacks its keys, too\n{}", told.join("\n"));
}

#[test]
fn what_is_too_large_or_no_yaml_is_refused() {
    let right = "  - {group: a, may: [read]}\n";
    let names = |many: usize| (0..many).map(|number| format!("n{number}")).collect::<Vec<_>>().join(", ");
    let patterns = |many: usize| (0..many).map(|number| format!("n{number}/*")).collect::<Vec<_>>().join(", ");
    for (text, words) in [
        (String::new(), "it is empty"),
        ("a: [".to_owned(), "line 1"),
        ("groups: {}\n".to_owned(), "`rights` is missing"),
        (format!("rights: []\n#{}", "x".repeat(1 << 20)), "longer than"),
        (format!("rights:\n{}", right.repeat(1001)), "there are 1001 rights"),
        (format!("groups: {{a: [{}]}}\nrights: []\n", names(10_001)), "more than 10000 names"),
        (
            format!("rights: [{{group: a, may: [read], datacenters: [{}]}}]\n", patterns(10_001)),
            "more than 10000 patterns",
        ),
        (format!("rights: [{{group: a, may: [read], refs: [\"{}*\"]}}]\n", "a".repeat(500)), "is no pattern"),
    ] {
        let faults = Policy::parse(&text).unwrap_err();
        assert!(faults[0].to_string().contains(words), "{words}: {faults:?}");
    }
    assert_eq!(Policy::parse("rights: [x]\n").unwrap_err().len(), 3);
    assert_eq!(policy(&format!("rights:\n{}", right.repeat(1000))).rights().len(), 1000);
    let groups = policy("groups: {a: [x], b: []}\nrights: [{group: a, may: [read]}, {group: b, may: [read]}]\n");
    assert_eq!(groups.unlisted().into_iter().map(ToString::to_string).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_reader_of_a_part_sees_the_refs_of_its_datacenters() {
    let text = "groups: {lab: [ann], web: [ben], both: [dan], all: [cat], ops: [bob]}\nrights:\n  \
        - {group: lab, may: [read], datacenters: [\"lab/*\"]}\n  - {group: web, may: [read], refs: [\"services/web/*\"]}\n  \
        - {group: both, may: [read], refs: [\"services/*\"], datacenters: [\"lab/*\"]}\n  - {group: all, may: [read]}\n  \
        - {group: ops, may: [administer]}\n";
    let policy = policy(text);
    let host = || Scope::Host { datacenter: "lab/v1".parse().unwrap(), host: "web-1".parse().unwrap() };
    let [ann, ben, dan, cat, bob, eve] =
        ["ann", "ben", "dan", "cat", "bob", "eve"].map(|name| somebody(name, &[], Scope::Policy));
    let (cache, host) = (somebody("cache", &[], Scope::Slave("lab/*".to_owned())), somebody("web-1", &[], host()));
    let everybody = [&ann, &ben, &dan, &cat, &bob, &eve, &cache, &host, &Principal::Anybody];
    let names = ["ann", "ben", "dan", "cat", "bob", "eve", "cache", "host", "nobody"];
    for (reference, run_by, readers) in [
        ("refs/heads/services/web/master", "lab/v1 prod/v1", "ann ben dan cat bob cache"),
        ("refs/heads/services/web/master", "prod/v1", "ben cat bob"),
        ("refs/heads/services/api/master", "lab/v2", "ann dan cat bob cache"),
        ("refs/heads/services/api/master", "", "cat bob"),
        ("refs/heads/datacenters/lab/v1", "", "ann cat bob cache"),
        ("refs/snapshots/lab/v1", "", "ann cat bob cache host"),
        ("refs/snapshots/lab/v2", "", "ann cat bob cache"),
        ("refs/snapshots/prod/v1", "", "cat bob"),
        ("refs/heads/secrets/lab", "", "cat bob"),
        ("refs/heads/policy", "lab/v1", "ann cat bob cache"),
        ("refs/conf/ledger", "lab/v1", "cat bob"),
        ("refs/conf/access", "lab/v1", "cat bob"),
    ] {
        let (name, run_by) = (reference.parse().unwrap(), datacenters(run_by));
        let run_by = run_by.iter().collect();
        let found: Vec<&str> = (names.iter().zip(everybody))
            .filter_map(|(name_of, who)| policy.reads_ref(who, &name, &run_by).then_some(*name_of))
            .collect();
        assert_eq!(found.join(" "), readers, "{reference} {run_by:?}");
    }
    let something = names.iter().zip(everybody).filter_map(|(name, who)| policy.reads_something(who).then_some(*name));
    assert_eq!(something.collect::<Vec<_>>().join(" "), "ann ben dan cat bob cache host");
}

#[test]
fn a_policy_that_takes_long_is_decided_in_time_or_not_at_all() {
    let slow = |number: usize| format!("\"*{}{number:04}\"", "a".repeat(95));
    let patterns = (0..10_000).map(slow).collect::<Vec<_>>().join(",");
    let policy = Policy::parse(&format!("rights: [{{group: web, may: [push], refs: [{patterns}]}}]\n")).unwrap();
    let who = somebody("alice", &[], Scope::Policy);
    let name: RefName = format!("refs/heads/services/{0}/{0}", "a".repeat(100)).parse().unwrap();
    let began = Instant::now();
    for wait in [0, 50, 50, 50, 50, 50, 50, 50, 50, 50] {
        let until = Instant::now() + Duration::from_millis(wait);
        assert_eq!(policy.check_until(&who, Verb::Push, Place::of(&name), until), None);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let quick = Policy::parse("rights: [{group: web, may: [push]}]\n").unwrap();
    let decided = quick.check_until(&who, Verb::Push, Place::of(&name), Instant::now() + Duration::from_secs(60));
    assert!(decided.is_some_and(|decided| decided.is_err()), "in time it is the same");
}
