//! Who may land what: each verb, denied and allowed, by every way in.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use conf_core::access::{AccessTable, Named, Policy, Principal, Scope, Token, Verb};
use conf_core::http::Who;
use conf_core::secret::{Identity, SecretValue};
use git2::Repository;
use libconf::name::{DatacenterName, ObjectId, RefName};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::access::{AccessRequest, NewToken};
use crate::fault::RefusalKind;
use crate::inspect::policy;
use crate::judge::{ProposalOptions, RefUpdate, ReportingHosts, Rights};
use crate::landing::tests::{Room, kind};
use crate::landing::{Draft, Expected, Outcome, Push, Pusher, SectionChange, Update};
use crate::secrets::SecretRequest;
use crate::store::{self, RequestKey};

const KEY: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

const POLICY: &str = r#"
groups: {web: [alice], keepers: [dave], breakers: [erin], lab: [frank], vault: [grace], ops: [bob], shrinkers: [henry]}
rights:
  - {group: web, may: [push, tag], refs: ["services/web/*"], datacenters: ["lab/*"]}
  - {group: web, may: [push], refs: ["services/api/*"]}
  - {group: keepers, may: [delete]}
  - {group: breakers, may: [push, breaking]}
  - {group: shrinkers, may: [push, shrink]}
  - {group: lab, may: [push], refs: ["datacenters/*", "datacenter-configuration/*"], datacenters: ["lab/*"]}
  - {group: vault, may: [push, secrets], datacenters: ["lab/*"]}
  - {group: ops, may: [administer]}
"#;

/// A server with a policy, and the datacenter `lab/v1` of the class `a`, which runs `services/web`.
struct Site {
    _folder: TempDir,
    path: PathBuf,
    room: Room,
}

fn somebody(name: &str) -> Principal {
    let name = name.parse().unwrap();
    Principal::Named(Named { name, groups: BTreeSet::new(), scope: Scope::Policy, token: None })
}

fn owner() -> Principal {
    Principal::Owner("root".to_owned())
}

impl Site {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let room = Room::under(&path, ReportingHosts::default(), Rights::default());
        let site = Site { _folder: folder, path, room };
        let (name, groups, scope) = ("bob".parse().unwrap(), BTreeSet::new(), Scope::Policy);
        site.tokens(AccessRequest::Add(
            Token::generate().hash(),
            NewToken { name, groups, scope, lives: None, hosts: None },
        ))
        .await;
        for (branch, files) in [
            ("services/web/master", [("config.json", r#"{"a": 1}"#)]),
            ("datacenter-configuration/a", [("datacenter.yaml", "services: [{name: web, branch: master}]\n")]),
            ("datacenters/lab/v1", [("datacenter.yaml", "conf: datacenter-configuration/a/latest\n")]),
            ("policy", [("policy.yaml", POLICY)]),
        ] {
            let landed = site.land(&owner(), vec![site.commit(branch, &files, "begin")]).await;
            assert!(landed.sequence.is_some(), "{branch}: {landed:?}");
        }
        site
    }

    /// Changes the tokens.
    async fn tokens(&self, request: AccessRequest) {
        let outcome = self.room.lander.land(Push::access(request, &pusher(&owner()))).await;
        assert!(outcome.sequence.is_some(), "{outcome:?}");
    }

    /// The next commit of a branch, with these files beside those of before.
    fn commit(&self, branch: &str, files: &[(&str, &str)], message: &str) -> RefUpdate {
        let repo = Repository::open_bare(&self.path).unwrap();
        let name = format!("refs/heads/{branch}");
        let parent = repo.find_reference(&name).ok().map(|found| found.peel_to_commit().unwrap());
        let empty = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let base = parent.as_ref().map_or(empty, |parent| parent.tree().unwrap());
        let mut tree = git2::build::TreeUpdateBuilder::new();
        for (file, text) in files {
            tree.upsert(*file, repo.blob(text.as_bytes()).unwrap(), git2::FileMode::Blob);
        }
        let tree = repo.find_tree(tree.create_updated(&repo, &base).unwrap()).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        let new = repo.commit(None, &who, &who, message, &tree, &parents).unwrap();
        RefUpdate { name, old: parent.as_ref().map_or(ObjectId::ZERO, |old| old.id().into()), new: new.into() }
    }

    fn tip(&self, name: &str) -> ObjectId {
        let repo = Repository::open_bare(&self.path).unwrap();
        repo.refname_to_id(name).unwrap().into()
    }

    fn tag(&self, name: &str, branch: &str) -> RefUpdate {
        let new = self.tip(&format!("refs/heads/{branch}"));
        RefUpdate { name: format!("refs/tags/{name}"), old: ObjectId::ZERO, new }
    }

    fn delete(&self, name: &str) -> RefUpdate {
        RefUpdate { name: name.to_owned(), old: self.tip(name), new: ObjectId::ZERO }
    }

    async fn land(&self, who: &Principal, updates: Vec<RefUpdate>) -> Outcome {
        self.land_with(who, updates, ProposalOptions::default()).await
    }

    async fn land_with(&self, who: &Principal, updates: Vec<RefUpdate>, options: ProposalOptions) -> Outcome {
        self.room.lander.land(Push::commits(updates, false, &pusher(who), options)).await
    }

    /// Changes a branch as somebody: `None` when it landed, else why not.
    async fn change(&self, who: &str, branch: &str, files: &[(&str, &str)]) -> Option<String> {
        refusal(&self.land(&somebody(who), vec![self.commit(branch, files, "change")]).await)
    }
}

fn pusher(who: &Principal) -> Pusher {
    Pusher { principal: who.clone(), through: "test".to_owned(), who: Who::User(1) }
}

/// Why the first ref was denied; `None` when it landed.
fn refusal(outcome: &Outcome) -> Option<String> {
    let refusal = outcome.refusals[0].as_ref()?;
    assert_eq!(refusal.kind, RefusalKind::Denied, "{outcome:?}");
    Some(refusal.to_string())
}

#[track_caller]
fn lacks(found: Option<String>, verb: &str) {
    let words = found.unwrap_or_else(|| panic!("it landed without the right {verb}"));
    assert!(words.contains(&format!("lacks the right `{verb}`")), "{words}");
}

#[tokio::test]
async fn a_push_needs_a_right_for_every_datacenter_that_it_affects() {
    let site = Site::open().await;
    let web = |a: &'static str| [("config.json", a)];
    assert_eq!(site.change("alice", "services/web/master", &web(r#"{"a": 2}"#)).await, None);
    lacks(site.change("mallory", "services/web/master", &web(r#"{"a": 3}"#)).await, "push");
    lacks(site.change("alice", "services/other/master", &web(r#"{"a": 3}"#)).await, "push");
    lacks(site.change("alice", "datacenters/lab/v1", &[("README", "x")]).await, "push");
    // A datacenter that somebody else adds is affected from then on.
    let prod =
        site.commit("datacenters/prod/v1", &[("datacenter.yaml", "conf: datacenter-configuration/a/latest\n")], "x");
    assert!(site.land(&owner(), vec![prod]).await.sequence.is_some());
    let words = site.change("alice", "services/web/master", &web(r#"{"a": 3}"#)).await.unwrap();
    assert!(
        words.starts_with(
            "alice lacks the right `push` on services/web/master for prod/v1; the groups breakers and shrinkers have it"
        ),
        "{words}"
    );
    // A class affects its datacenters.
    let class = [("datacenter.yaml", "services: [{name: web, branch: master}]\nplatform: {a: 1}\n")];
    lacks(site.change("frank", "datacenter-configuration/a", &class).await, "push");
    assert_eq!(site.change("frank", "datacenter-configuration/b", &class).await, None, "nobody runs it");
    // Whoever runs it there needs a right for that datacenter.
    let other = [("datacenter.yaml", "conf: datacenter-configuration/b/latest\n")];
    assert_eq!(site.change("frank", "datacenters/lab/v2", &other).await, None);
    lacks(site.change("frank", "datacenters/prod/v1", &other).await, "push");
    site.room.close().await;
}

#[tokio::test]
async fn what_lands_was_judged_without_what_is_denied() {
    let site = Site::open().await;
    let file = [("config.json", r#"{"a": 5}"#)];
    // A class and a datacenter of it need a branch that its pusher may not make.
    let updates = || {
        let class = "services: [{name: web, branch: master}, {name: new, branch: master}]\n";
        vec![
            site.commit("services/new/master", &file, "new"),
            site.commit("services/api/master", &file, "api"),
            site.commit("datacenter-configuration/a", &[("datacenter.yaml", class)], "class"),
        ]
    };
    let policy = POLICY.replace(
        "group: web, may: [push], refs: [\"services/api/*\"",
        "group: web, may: [push], refs: [\"services/api/*\", \"datacenter-configuration/*\"",
    );
    let landed =
        site.land(&somebody("bob"), vec![site.commit("policy", &[("policy.yaml", policy.as_str())], "policy")]).await;
    assert!(landed.sequence.is_some(), "{landed:?}");
    let outcome = site.land(&somebody("alice"), updates()).await;
    let kinds: Vec<_> = outcome.refusals.iter().map(|one| one.as_ref().map(|one| one.kind)).collect();
    assert_eq!(kinds, [Some(RefusalKind::Denied), None, Some(RefusalKind::Together)], "{outcome:?}");
    assert!(outcome.sequence.is_some());
    let atomic = Push::commits(updates(), true, &pusher(&somebody("alice")), ProposalOptions::default());
    let outcome = site.room.lander.land(atomic).await;
    assert!(outcome.sequence.is_none() && outcome.refusals.iter().all(Option::is_some), "{outcome:?}");
    // A class that its author may change everywhere but in one datacenter is taken out alone.
    let prod =
        site.commit("datacenters/prod/v1", &[("datacenter.yaml", "conf: datacenter-configuration/a/latest\n")], "x");
    assert!(site.land(&owner(), vec![prod]).await.sequence.is_some());
    let class = "services: [{name: web, branch: master}]\nplatform: {a: 7}\n";
    let mixed = vec![
        site.commit("datacenter-configuration/a", &[("datacenter.yaml", class)], "class"),
        site.commit("datacenters/lab/v1", &[("README", "x")], "own"),
    ];
    let outcome = site.land(&somebody("frank"), mixed).await;
    let kinds: Vec<_> = outcome.refusals.iter().map(|one| one.as_ref().map(|one| one.kind)).collect();
    assert_eq!(kinds, [Some(RefusalKind::Denied), None], "{outcome:?}");
    let snapshot = |name: &str| {
        let name: DatacenterName = name.parse().unwrap();
        site.room.lander.published.borrow().datacenters[&name].sequence
    };
    assert_eq!(Some(snapshot("lab/v1")), outcome.sequence);
    assert!(snapshot("prod/v1") < snapshot("lab/v1"), "nothing of the class has come there");
    site.room.close().await;
}

#[tokio::test]
async fn tags_and_deletions_need_rights_of_their_own() {
    let site = Site::open().await;
    let [alice, dave] = ["alice", "dave"].map(somebody);
    assert_eq!(refusal(&site.land(&alice, vec![site.tag("services/web/v1", "services/web/master")]).await), None);
    let class = site.tag("datacenter-configuration/a/v1", "datacenter-configuration/a");
    lacks(refusal(&site.land(&alice, vec![class]).await), "tag");
    lacks(refusal(&site.land(&dave, vec![site.tag("services/web/v2", "services/web/master")]).await), "tag");
    let tag = "refs/tags/services/web/v1";
    lacks(refusal(&site.land(&alice, vec![site.delete(tag)]).await), "delete");
    assert_eq!(refusal(&site.land(&dave, vec![site.delete(tag)]).await), None);
    let delete = BTreeSet::from(["refs/heads/datacenters/lab/v1".parse().unwrap()]);
    let options = ProposalOptions { delete, ..ProposalOptions::default() };
    let lab = vec![site.delete("refs/heads/datacenters/lab/v1")];
    lacks(refusal(&site.land_with(&somebody("frank"), lab.clone(), options.clone()).await), "delete");
    assert_eq!(refusal(&site.land_with(&dave, lab, options).await), None);
    site.room.close().await;
}

#[tokio::test]
async fn what_the_shrink_guard_holds_back_needs_a_right() {
    let site = Site::open().await;
    let many = r#"{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1}"#;
    assert_eq!(site.change("alice", "services/web/master", &[("config.json", many)]).await, None);
    let shrinking = || site.commit("services/web/master", &[("config.json", r#"{"a": 1}"#)], "less");
    let options = || ProposalOptions { allow_shrink: true, ..ProposalOptions::default() };
    let outcome = site.land(&somebody("alice"), vec![shrinking()]).await;
    assert_eq!(kind(&outcome), Some(RefusalKind::Invalid), "{outcome:?}");
    lacks(refusal(&site.land_with(&somebody("alice"), vec![shrinking()], options()).await), "shrink");
    // Where it takes away little, the option needs no right.
    let little = r#"{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1}"#;
    let little = site.commit("services/web/master", &[("config.json", little)], "little");
    assert_eq!(refusal(&site.land_with(&somebody("alice"), vec![little], options()).await), None);
    assert_eq!(refusal(&site.land_with(&somebody("henry"), vec![shrinking()], options()).await), None);
    site.room.close().await;
}

#[tokio::test]
async fn a_break_and_what_is_checked_need_a_right() {
    let site = Site::open().await;
    // A class sets what is checked of settings without a schema.
    let class = [("datacenter.yaml", "services: [{name: web, branch: master}]\ncompatibility: {settings: backward}\n")];
    lacks(site.change("frank", "datacenter-configuration/a", &class).await, "breaking");
    lacks(site.change("frank", "datacenter-configuration/c", &class).await, "breaking");
    assert_eq!(site.change("erin", "datacenter-configuration/a", &class).await, None);
    // What is declared to break needs the right, and what breaks nothing does not.
    let said = "other keys\n\nConf-Compatibility: breaking nobody reads it\n";
    let web =
        |config: &str, message: &str| vec![site.commit("services/web/master", &[("config.json", config)], message)];
    let outcome = site.land(&somebody("alice"), web(r#"{"b": 1}"#, "other keys")).await;
    assert_eq!(kind(&outcome), Some(RefusalKind::Invalid), "{outcome:?}");
    lacks(refusal(&site.land(&somebody("alice"), web(r#"{"b": 1}"#, said)).await), "breaking");
    assert_eq!(refusal(&site.land(&somebody("alice"), web(r#"{"a": 2}"#, said)).await), None);
    assert_eq!(refusal(&site.land(&somebody("erin"), web(r#"{"b": 1}"#, said)).await), None);
    site.room.close().await;
}

#[tokio::test]
async fn keys_about_secrets_need_a_right_for_all_versions_of_the_id() {
    let site = Site::open().await;
    let conf = "conf: datacenter-configuration/a/latest\n";
    let file = |more: &str| format!("{conf}{more}");
    let change = async |who: &str, branch: &str, more: &str| {
        let text = file(more);
        site.change(who, branch, &[("datacenter.yaml", text.as_str())]).await
    };
    let lab = "datacenters/lab/v1";
    let host = |key: &str| format!("inventories: {{hosts: {{one: {{key: {key}}}}}}}\n");
    assert_eq!(change("frank", lab, "platform: {a: 1}\n").await, None);
    let secret = "secrets: {db: {from: vault, readers: [services/web]}}\n";
    for more in [secret.to_owned(), host(KEY)] {
        lacks(change("frank", lab, &more).await, "secrets");
    }
    assert_eq!(change("frank", lab, "inventories: {hosts: {one: {}}}\n").await, None);
    lacks(change("frank", lab, &host(KEY)).await, "secrets");
    assert_eq!(change("grace", lab, &format!("{}{secret}", host(KEY))).await, None);
    // Nothing of that changes, wherever it stands.
    assert_eq!(change("frank", lab, &format!("# moved\n\n{secret}{}platform: {{a: 2}}\n", host(KEY))).await, None);
    lacks(change("frank", lab, &secret.replace("vault", "other")).await, "secrets");
    // Another host could join under the name of one that has gone.
    lacks(change("frank", lab, secret).await, "secrets");
    // The id has secrets: one more version of it would have them too.
    lacks(change("frank", "datacenters/lab/v2", "").await, "secrets");
    let other = "secrets: {db: {from: vault, readers: [services/web]}}\n";
    assert_eq!(change("grace", "datacenters/lab/v2", other).await, None);
    // A class gives its secrets to its datacenters.
    let class = format!("services: [{{name: web, branch: master}}]\n{}", secret.replace("db", "of_all"));
    lacks(site.change("frank", "datacenter-configuration/a", &[("datacenter.yaml", class.as_str())]).await, "secrets");
    assert_eq!(
        site.change(
            "frank",
            "datacenter-configuration/b",
            &[("datacenter.yaml", "services: [{name: web, branch: master}]\n")]
        )
        .await,
        None
    );
    assert_eq!(site.change("grace", "datacenter-configuration/b", &[("datacenter.yaml", class.as_str())]).await, None);
    // And so another class does.
    let moved = format!("conf: datacenter-configuration/b/latest\n{other}");
    lacks(site.change("frank", "datacenters/lab/v2", &[("datacenter.yaml", moved.as_str())]).await, "secrets");
    assert_eq!(site.change("grace", "datacenters/lab/v2", &[("datacenter.yaml", moved.as_str())]).await, None);
    // A request changes them without any file.
    let request = || SecretRequest::Rotate("lab/v1".parse().unwrap(), "db".parse().unwrap());
    let outcome = |who: &str| site.room.lander.land(Push::secrets(request(), &pusher(&somebody(who))));
    lacks(refusal(&outcome("frank").await), "secrets");
    assert_eq!(kind(&outcome("grace").await), Some(RefusalKind::Invalid), "hosts have its value");
    site.room.close().await;
}

#[tokio::test]
async fn whoever_makes_a_host_read_a_secret_needs_the_right_for_secrets() {
    let site = Site::open().await;
    let key = |name: &str| {
        let identity = Identity::create(&site.path.with_file_name(name)).unwrap();
        identity.recipient().to_string()
    };
    let [one, two] = ["one", "two"].map(key);
    let file = [("config.json", r#"{"a": 1}"#)];
    let class = |more: &str| format!("services: [{{name: web, branch: master}}, {{name: db, branch: master}}{more}]\n");
    assert!(site.land(&owner(), vec![site.commit("services/db/master", &file, "begin")]).await.sequence.is_some());
    assert!(site.land(&owner(), vec![site.tag("services/db/v1", "services/db/master")]).await.sequence.is_some());
    let begun = class("");
    let begun = site.commit("datacenter-configuration/a", &[("datacenter.yaml", begun.as_str())], "begin");
    assert!(site.land(&owner(), vec![begun]).await.sequence.is_some());
    let instance = |web: &str, roles: &str, more: &str| {
        format!(
            "conf: datacenter-configuration/a/latest\n\
             secrets: {{password: {{generate: {{length: 20}}, readers: [services/db]}}}}\n\
             inventories:\n  roles: {{web: {{components: [services/web, 'services/db/v*'{web}]}}, db: {{components: [services/db]}}}}\n  \
             hosts: {{one: {{key: {one}, roles: [db]}}, two: {{key: {two}, roles: [{roles}]}}}}\n{more}"
        )
    };
    let change = async |who: &str, web: &str, roles: &str, more: &str| {
        let text = instance(web, roles, more);
        site.change(who, "datacenters/lab/v1", &[("datacenter.yaml", text.as_str())]).await
    };
    let why = "it is needed because the change would seal the secret `password` to the host `two` of lab/v1, which";
    let lacks_because = |found: Option<String>| {
        let words = found.clone().unwrap_or_default();
        lacks(found, "secrets");
        assert!(words.contains(why), "{words}");
    };
    assert_eq!(change("grace", "", "web", "").await, None);
    // What makes nobody a reader needs no such right.
    assert_eq!(change("frank", "", "web", "platform: {a: 1}\n").await, None);
    lacks_because(change("frank", "", "web, db", "").await);
    lacks_because(change("frank", ", services/db", "web", "").await);
    lacks_because(change("frank", "", "", "").await);
    // A datacenter that runs one more version of a reader has its hosts read it.
    let v1 = "{name: db, branch: master, tag: v1}";
    lacks_because(change("frank", "", "web", &format!("services: [{v1}]\n")).await);
    let more = class(&format!(", {v1}"));
    let more = [("datacenter.yaml", more.as_str())];
    lacks_because(site.change("frank", "datacenter-configuration/a", &more).await);
    assert_eq!(change("grace", "", "web, db", "").await, None);
    // Now that it is one, nothing more is sealed to it.
    assert_eq!(change("frank", ", services/db", "web", "").await, None);
    assert_eq!(site.change("frank", "datacenter-configuration/a", &more).await, None);
    site.room.close().await;
}

#[tokio::test]
async fn nothing_lands_by_a_token_that_ended_while_the_change_waited() {
    let site = Site::open().await;
    let hash = Token::generate().hash();
    let (name, groups, scope) = ("alice".parse().unwrap(), BTreeSet::new(), Scope::Policy);
    site.tokens(AccessRequest::Add(hash.clone(), NewToken { name, groups, scope, lives: None, hosts: None })).await;
    let Principal::Named(named) = somebody("alice") else { panic!("she has a name") };
    let alice = Principal::Named(Named { token: Some(hash.id()), ..named });
    let update = |text| vec![site.commit("services/web/master", &[("config.json", text)], "by alice")];
    assert!(site.land(&alice, update(r#"{"a": 2}"#)).await.sequence.is_some());
    site.tokens(AccessRequest::Revoke(hash.id())).await;
    let refused = refusal(&site.land(&alice, update(r#"{"a": 3}"#)).await).unwrap();
    assert!(refused.contains("revoked"), "{refused}");
    site.room.close().await;
}

#[tokio::test]
async fn only_administrators_change_the_policy_and_never_lock_themselves_out() {
    let site = Site::open().await;
    // The first token is of the group that may everything until there is a policy.
    let first = site.room.lander.access.borrow().tokens().find(|one| !one.groups.is_empty()).unwrap().id();
    site.tokens(AccessRequest::Revoke(first)).await;
    let policy = |text: &str| vec![site.commit("policy", &[("policy.yaml", text)], "policy")];
    let (alice, bob) = (somebody("alice"), somebody("bob"));
    lacks(refusal(&site.land(&alice, policy(POLICY)).await), "administer");
    lacks(refusal(&site.land(&alice, vec![site.delete("refs/heads/policy")]).await), "administer");
    let refused = async |who: &Principal, updates: Vec<RefUpdate>, words: &str| {
        let outcome = site.land(who, updates).await;
        let refusal = outcome.refusals[0].clone().unwrap();
        assert!(refusal.kind == RefusalKind::Invalid && refusal.to_string().contains(words), "{refusal}");
    };
    let fault = "policy: policy.yaml:3: /rights/0/may/0: `pull` is not known";
    refused(&bob, policy("groups: {}\nrights:\n  - {group: web, may: [pull]}\n"), fault).await;
    let locked = "nobody who has a token could `administer`";
    for who in [&bob, &owner()] {
        refused(who, policy(&POLICY.replace("ops: [bob]", "ops: [carol]")), locked).await;
        refused(who, vec![site.delete("refs/heads/policy")], locked).await;
    }
    refused(&bob, vec![site.commit("policy", &[("other.yaml", "")], "x")], "other.yaml: nothing reads this").await;
    // The policy before counts for the change of it, and the new one from then on.
    let web = || [("config.json", r#"{"a": 9}"#)];
    lacks(site.change("mallory", "services/web/master", &web()).await, "push");
    let new = POLICY.replace("web: [alice]", "web: [mallory]");
    assert_eq!(refusal(&site.land(&bob, policy(&new)).await), None);
    lacks(site.change("alice", "services/web/master", &web()).await, "push");
    assert_eq!(site.change("mallory", "services/web/master", &web()).await, None);
    // So it is after a start.
    let Site { _folder: folder, path, room } = site;
    room.close().await;
    let room = Room::under(&path, ReportingHosts::default(), Rights::default());
    let site = Site { _folder: folder, path, room };
    lacks(site.change("alice", "services/web/master", &[("config.json", "{}")]).await, "push");
    let policy = site.room.lander.published.borrow().rights.policy_version;
    assert_eq!(policy, Some(site.tip("refs/heads/policy")));
    site.room.close().await;
}

#[tokio::test]
async fn sections_and_dry_runs_are_checked_alike() {
    let site = Site::open().await;
    let update = |section: &str, options: ProposalOptions, who: &str| {
        let change = SectionChange {
            section: section.parse().unwrap(),
            draft: Ok(Draft::from_text(r#"{"a": 3}"#.to_owned()).unwrap()),
            schema_version: 1,
            expected: Expected { version: None, commit: None },
        };
        let update = Update { changes: vec![change], key: None, breaking: None };
        site.room.lander.land(Push::sections(update, &pusher(&somebody(who)), options))
    };
    let dry = || ProposalOptions { dry_run: true, ..ProposalOptions::default() };
    for options in [ProposalOptions::default(), dry()] {
        lacks(refusal(&update("services/web", options, "mallory").await), "push");
    }
    assert_eq!(kind(&update("services/web", dry(), "alice").await), Some(RefusalKind::DryRun));
    assert_eq!(kind(&update("services/web", ProposalOptions::default(), "alice").await), None);
    let pushed = |who: &str| {
        let updates = vec![site.commit("services/web/master", &[("config.json", "{}")], "x")];
        let push = Push::commits(updates, false, &pusher(&somebody(who)), dry());
        site.room.lander.check(push, Some(site.path.join("objects")))
    };
    lacks(refusal(&pushed("mallory").await), "push");
    assert_eq!(kind(&pushed("alice").await), Some(RefusalKind::DryRun));
    site.room.close().await;
}

#[tokio::test]
async fn nobody_lands_what_was_judged_for_somebody_else() {
    let site = Site::open().await;
    let updates = vec![site.commit("services/web/master", &[("config.json", r#"{"a": 4}"#)], "x")];
    let push = |who: &str| Push::commits(updates.clone(), false, &pusher(&somebody(who)), ProposalOptions::default());
    // All objects are as if they had come with the push.
    let new = Some(site.path.join("objects"));
    assert_eq!(kind(&site.room.lander.check(push("alice"), new.clone()).await), None);
    lacks(refusal(&site.room.lander.check(push("mallory"), new).await), "push");
    lacks(refusal(&site.room.lander.land(push("mallory")).await), "push");
    assert_eq!(refusal(&site.room.lander.land(push("alice")).await), None);
    let name: RefName = "refs/heads/services/web/master".parse().unwrap();
    assert_eq!(site.room.lander.durable().table.target(&name).unwrap().commit, updates[0].new);
    site.room.close().await;
}

#[tokio::test]
async fn a_policy_is_held_against_what_landed_and_explained() {
    let site = Site::open().await;
    assert_eq!(site.change("alice", "services/web/master", &[("config.json", r#"{"a": 2}"#)]).await, None);
    let tag = vec![site.tag("services/web/v1", "services/web/master")];
    assert_eq!(refusal(&site.land(&somebody("alice"), tag).await), None);
    let repo = Repository::open_bare(&site.path).unwrap();
    let ledger = site.room.lander.durable().ledger;
    let trial = |text: &str| {
        let policy = Policy::parse(text).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        policy::trial(&repo, ledger, &policy, (&AccessTable::default(), 0), until).unwrap().unwrap()
    };
    let same = trial(POLICY);
    // The first change is conf-master's own; then came the owner of the repository's files.
    assert_eq!((same.changes, same.unproven, same.refused.len()), (8, 0, 0), "{same:?}");
    let other = trial(&POLICY.replacen("lab/*", "prod/*", 1));
    let told: Vec<_> = other.refused.iter().map(|one| (one.sequence.0, one.by.as_str(), one.reasons.len())).collect();
    assert_eq!(told, [(6, "alice", 1)]);
    assert!(other.refused[0].reasons[0].starts_with("alice lacks the right `push` on services/web/master for lab/v1;"));
    let nobody = trial("rights: []\n");
    assert_eq!(nobody.refused.iter().map(|one| one.sequence.0).collect::<Vec<_>>(), [7, 6]);
    let Principal::Named(alice) = somebody("alice") else { return };
    let name: RefName = "refs/heads/services/web/master".parse().unwrap();
    let explained = policy::explain(&Policy::parse(POLICY).unwrap(), &alice, &name, &BTreeSet::new());
    let may: Vec<_> = explained.iter().filter(|one| one.lacks.is_none()).map(|one| one.verb).collect();
    assert_eq!(may, [Verb::Push]);
    let datacenters = site.room.lander.datacenters_of(&name).await;
    assert_eq!(datacenters, BTreeSet::from(["lab/v1".parse().unwrap()]));
    site.room.close().await;
}

#[tokio::test]
async fn a_kept_answer_is_for_who_landed_it_and_still_may() {
    let site = Site::open().await;
    let send = |who: &str, text: &str| {
        let change = SectionChange {
            section: "services/web".parse().unwrap(),
            draft: Ok(Draft::from_text(text.to_owned()).unwrap()),
            schema_version: 1,
            expected: Expected { version: None, commit: None },
        };
        let key = Some(RequestKey::new("key", text.as_bytes()).unwrap());
        let update = Update { changes: vec![change], key, breaking: None };
        site.room.lander.land(Push::sections(update, &pusher(&somebody(who)), ProposalOptions::default()))
    };
    let landed = send("alice", r#"{"a": 3}"#).await;
    assert!(landed.sequence.is_some(), "{landed:?}");
    assert_eq!(send("alice", r#"{"a": 3}"#).await.sequence, landed.sequence, "she gets the answer again");
    assert_eq!(kind(&send("alice", r#"{"a": 4}"#).await), Some(RefusalKind::Invalid), "of another request she hears");
    // The key of somebody else is another one, for the same request and for another.
    let other = send("erin", r#"{"a": 4}"#).await;
    assert!(other.sequence > landed.sequence, "{other:?}");
    // Whoever may not is refused before anybody looks for an answer.
    lacks(refusal(&send("mallory", r#"{"a": 3}"#).await), "push");
    let policy = POLICY.replace("web: [alice]", "web: [carol]");
    let policy = vec![site.commit("policy", &[("policy.yaml", policy.as_str())], "policy")];
    assert!(site.land(&somebody("bob"), policy).await.sequence.is_some());
    lacks(refusal(&send("alice", r#"{"a": 3}"#).await), "push");
    assert_eq!(send("erin", r#"{"a": 4}"#).await.sequence, other.sequence);
    site.room.close().await;
}

#[tokio::test]
async fn secrets_of_an_id_without_a_datacenter_need_the_right_for_what_it_will_be() {
    let site = Site::open().await;
    let set = |who: &str, datacenter: &str| {
        let value = SecretValue::Text(Zeroizing::new("x".to_owned()));
        let request = SecretRequest::Set(datacenter.parse().unwrap(), "db".parse().unwrap(), value);
        site.room.lander.land(Push::secrets(request, &pusher(&somebody(who))))
    };
    // Grace keeps the secrets of `lab`, wherever it stands, and of nothing else.
    for who in ["grace", "frank", "erin"] {
        lacks(refusal(&set(who, "new/v1").await), "secrets");
    }
    assert!(set("bob", "new/v1").await.sequence.is_some());
    let delete = BTreeSet::from(["refs/heads/datacenters/lab/v1".parse().unwrap()]);
    let options = ProposalOptions { delete, ..ProposalOptions::default() };
    let gone = vec![site.delete("refs/heads/datacenters/lab/v1")];
    assert_eq!(refusal(&site.land_with(&somebody("dave"), gone, options).await), None);
    lacks(refusal(&set("frank", "lab/v1").await), "secrets");
    assert!(set("grace", "lab/v1").await.sequence.is_some());
    // Whoever makes a datacenter of the id shares the secrets.
    let own = [("datacenter.yaml", "conf: datacenter-configuration/a/latest\n")];
    lacks(site.change("frank", "datacenters/lab/v1", &own).await, "secrets");
    assert_eq!(site.change("grace", "datacenters/lab/v1", &own).await, None);
    site.room.close().await;
}
