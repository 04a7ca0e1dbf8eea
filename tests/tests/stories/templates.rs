//! Templates: what each host gets of them, what never lands, who is told, and what is shown without
//! a host.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    Plan, Reader, Site,
    git::Change,
    program::{descendants, signal_pid, text},
    site::{CLASS, DATACENTER, Pointers, class, instance},
};

const OWN: &str = "datacenters/us-west/v1";
const WEB: &str = "services/web/master";

/// The class and the instance with platform, roles and hosts.
fn with_hosts<'a>(change: Change<'a>, region: &str, rack_of_2: &str) -> Change<'a> {
    let inventory = format!(
        "platform: {{region: {region}}}\ninventories:\n  roles:\n    core: {{components: ['services/*'], variables: {{rack: none}}}}\n  \
         hosts:\n    web-1: {{roles: [core], labels: {{zone: a}}, variables: {{rack: a1}}}}\n    web-2: {{roles: [core]{rack_of_2}}}\n"
    );
    let pins = [("services/web", "master", "latest"), ("services/api", "master", "latest")];
    let change = change.file(CLASS, "datacenter.yaml", format!("{}platform: {{domain: example.com}}\n", class(&pins)));
    change.file(OWN, "datacenter.yaml", format!("{}{inventory}", instance()))
}

/// The central server alone, with two hosts in its inventory.
fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    with_hosts(site.work.change(), "us-west", "").option("--push-option=allow-shrink").land();
    site
}

#[test]
fn each_host_gets_its_own_and_is_told_when_it_differs() {
    let site = Plan { hosts: 2, ..Plan::default() }.start();
    let template = "# {{ host.name }} of {{ datacenter.name }}, {{ component.name }}\nserver_name {{ host.name }}.{{ platform.domain }};\n\
                    {% if host.variables.rack != 'none' %}\nrack {{ host.variables.rack }};\n{% endif %}\nport {{ settings.port }};\n";
    let change = with_hosts(site.work.change(), "us-west", "").option("--push-option=allow-shrink");
    let change = change.file(WEB, "config.yaml", "port: 80\n").file(WEB, "etc/web.conf.j2", template);
    change
        .executable(WEB, "bin/region.j2", "#!/bin/sh\necho {{ platform.region }}\n")
        .file(WEB, "plain", "{{ x }}")
        .land();
    site.wait_applied(site.master.sequence());
    let conf = |host: usize| site.hosts[host].file("services/web/latest/etc/web.conf");
    assert_eq!(conf(0), "# web-1 of us-west/v1, web\nserver_name web-1.example.com;\nrack a1;\nport 80;\n");
    assert_eq!(conf(1), "# web-2 of us-west/v1, web\nserver_name web-2.example.com;\nport 80;\n");
    assert_eq!(site.hosts[0].file("services/web/latest/plain"), "{{ x }}");
    let root = site.hosts[0].export().join("current/services/web/latest");
    let mode = |path: &str| std::fs::metadata(root.join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("etc/web.conf"), mode("bin/region")), (0o444, 0o555));
    assert!(!root.join("etc/web.conf.j2").exists());

    // A fact that one host's templates read wakes that host; one of the platform's both; one that
    // none reads nobody.
    let readers: Vec<Reader> = site.hosts.iter().map(|host| Reader::start(&host.export())).collect();
    for (host, reader) in site.hosts.iter().zip(&readers) {
        host.watch(&["services/web"], reader.pid());
    }
    with_hosts(site.work.change(), "us-west", ", variables: {rack: b2}").land();
    let second = site.master.sequence();
    site.wait_applied(second);
    assert!(readers[1].told().sequence >= second);
    assert!(conf(1).contains("rack b2;"));
    with_hosts(site.work.change(), "us-west", ", variables: {rack: b2, unread: 1}, labels: {zone: z}").land();
    site.wait_applied(site.master.sequence());
    with_hosts(site.work.change(), "eu", ", variables: {rack: b2, unread: 1}, labels: {zone: z}").land();
    let last = site.master.sequence();
    site.wait_applied(last);
    for reader in &readers {
        assert!(reader.told().sequence >= last, "what no template reads concerns nobody");
        assert!(reader.all_told().is_empty());
    }
    assert_eq!(site.hosts[0].file("services/web/latest/bin/region"), "#!/bin/sh\necho eu\n");
}

#[test]
fn what_cannot_be_rendered_does_not_land() {
    let site = central();
    let refs = || site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    let before = refs();
    let template = |text: &str, words: &[&str]| {
        let change = site.work.change().file(WEB, "etc/x.conf.j2", text);
        change.push().refused(&[&["etc/x.conf.j2"], words].concat());
        assert_eq!(refs(), before, "{text} left something behind");
    };
    template("a\n{{ host.labels.zone }}\n", &[".j2:2", "web-2", "`host.labels.zone` is undefined"]);
    template("{{ settings.nothing }}", &[".j2:1", "`settings.nothing` is undefined"]);
    template("{% if %}", &[".j2:1", "it is no template"]);
    template("{% include '../../../etc/passwd' %}", &[".j2:1", "leads out of the component"]);
    template("{% include '/etc/passwd' %}", &[".j2:1", "leads out of the component"]);
    template("{% include 'nothing' %}", &[".j2:1", "nothing"]);
    template(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        &[".j2:1", "never ends"],
    );
    template(
        "{% set n = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        &["more time or memory than there is"],
    );
    template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &[".j2:1"]);
    template("{{ secrets.nobody }}", &[".j2:1", "`secrets.nobody` is undefined", "readers"]);
    let change = site.work.change().file(WEB, "a", "1").file(WEB, "a.j2", "2");
    change.push().refused(&["a.j2", "rename one of the two"]);
    let change = site.work.change().file(WEB, "config.yaml", "a: {$secret: nobody}\n");
    change.push().refused(&["config.yaml:1", "the secret nobody", "readers"]);
    assert_eq!(refs(), before);
    // What a template reads may go away elsewhere.
    site.work.change().file(WEB, "x.j2", "{{ platform.domain }}").land();
    let without = class(&[("services/web", "master", "latest"), ("services/api", "master", "latest")]);
    site.work
        .change()
        .file(CLASS, "datacenter.yaml", without)
        .push()
        .refused(&["x.j2:1", "`platform.domain` is undefined"]);
    // And the server goes on: the next change lands.
    site.work.change().file(WEB, "x.j2", "{{ host.name }}").land();
}

#[test]
fn a_template_that_never_ends_is_tried_once() {
    let site = central();
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let text = format!("{{% if host.name == 'web-1' %}}{endless}\n{{% else %}}\n\n{endless}{{% endif %}}");
    let told = site.work.change().file(WEB, "x.j2", &text).push().refused(&["never ends", "x.j2:"]);
    assert_eq!(told.matches("never ends").count(), 1, "on one host: {told}");
    let told = site.work.change().file(WEB, "x.j2", &text).push().refused(&["never ends", "less than a minute ago"]);
    assert_eq!(told.matches("never ends").count(), 1, "{told}");
    site.work.change().file(WEB, "x.j2", "{{ host.name }}").land();
}

#[test]
fn the_process_that_renders_is_bounded_as_a_landing_is_and_may_go_at_any_time() {
    let site = central();
    site.work.change().file(WEB, "x.j2", "{{ host.name }}").land();
    let rendering = || {
        let all = descendants(site.master.daemon.pid()).into_iter();
        let of_templates = all.filter(|(_, words)| words.contains("render-templates")).map(|(pid, _)| pid);
        of_templates.collect::<Vec<u32>>()
    };
    let pids = rendering();
    assert_eq!(pids.len(), 1, "it waits for the next template");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pids[0])).expect("it runs");
    let seconds = limits.lines().find(|line| line.starts_with("Max cpu time")).expect("a limit of Linux");
    let seconds: u64 = seconds.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).expect("it is limited");
    assert!(seconds < 20, "five seconds for each question, and what it has used: {seconds}");
    signal_pid(pids[0], Signal::KILL);
    site.work.change().file(WEB, "x.j2", "{{ host.name }} again").land();
    assert_ne!(rendering(), pids);
}

#[test]
fn those_who_ask_what_a_host_would_get_take_turns() {
    let site = central();
    let text = "{% for a in range(60000) %}{{ a }}{% endfor %}";
    site.work.change().file(WEB, "x.j2", text).land();
    let path = format!("/conf/services/web?datacenter={DATACENTER}&host=web-1");
    let master = site.master.http();
    let ask = || master.get(&path).expect("an answer").status.as_u16();
    let mut answers: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|one| one.join().expect("it asks")).collect()
    });
    answers.sort_unstable();
    answers.dedup();
    assert_eq!(answers, [200, 503]);
    assert_eq!(ask(), 200);
}

#[test]
fn a_dry_run_shows_what_templates_come_to() {
    let site = central();
    site.work.change().file(WEB, "x.j2", "host {{ host.name }}\nport {{ settings.round }}\n").land();
    let change = site
        .work
        .change()
        .file(WEB, "config.yaml", "component: services/web\nround: 7\n")
        .option("--push-option=dry-run");
    let said = change.push().text;
    for words in ["services/web/latest/x on web-1", "services/web/latest/x on web-2", "-port 0", "+port 7"] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
}

#[test]
fn what_a_host_would_get_is_shown_without_one() {
    let site = central();
    let change = site.work.change().file(WEB, "config.yaml", "port: 80\n").file(WEB, "bin", b"\xff\xfe");
    let change = change.link(WEB, "link", "etc/x");
    change.executable(WEB, "etc/x.j2", "{{ host.name }} {{ host.variables.rack }} {{ settings.port }}").land();
    let ask = |query: &str| site.master.http().get_json(&format!("/conf/services/web?datacenter={DATACENTER}&{query}"));
    let conf = ask("host=web-1").expect("an answer");
    assert_eq!(conf["settings"], json!({"port": 80}));
    assert_eq!(conf["files"]["etc/x"], json!({"text": "web-1 a1 80", "executable": true}));
    assert_eq!(conf["files"]["bin"], json!({"base64": "//4="}));
    assert_eq!(conf["files"]["link"], json!({"link": "etc/x"}));
    assert_eq!(conf["sequence"], Value::from(site.master.sequence()));
    let of_role = ask("role=core").expect("an answer");
    assert_eq!(of_role["files"]["etc/x"]["text"], "core none 80");
    let refused = |path: &str, status: u16, words: &str| {
        let answer = site.master.http().get(path).expect("an answer");
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
    };
    let of = |query: &str| format!("/conf/services/web?datacenter={DATACENTER}{query}");
    refused(&of(""), 422, "role");
    refused(&of("&host=web-1&role=core"), 422, "role");
    refused(&of("&role=nobody"), 404, "it has core");
    refused(&of("&host=web-11"), 404, "`web-11` is none of them (did you mean `web-1`?)");
    refused(&format!("/conf/services/nobody?datacenter={DATACENTER}&host=web-1"), 404, "services/nobody");
    refused("/conf/services/web?datacenter=nowhere/v1&host=web-1", 404, "nowhere/v1");
}

#[test]
fn what_is_wrong_on_one_host_alone_stops_nothing_else_there() {
    let site = Plan { hosts: 2, ..Plan::default() }.start();
    // The secret of web-2 is one that the host does not offer: that is not seen before.
    let inventory = "secrets:\n  here: {from: nowhere, readers: [services/web]}\ninventories:\n  hosts:\n    web-1: \
                     {variables: {rack: a1}}\n    web-2: {settings: {services/web: {rack: {$secret: here}}}}\n";
    let change = site.work.change().file(OWN, "datacenter.yaml", format!("{}{inventory}", instance()));
    let text_of_x = "{{ settings.rack | default(host.variables.rack) }}";
    let change = change.file(WEB, "x.j2", text_of_x).file("services/api/master", "round", "1\n");
    change.file(WEB, "config.yaml", "port: 80\n").land();
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    assert_eq!(site.hosts[0].file("services/web/latest/x"), "a1");
    assert_eq!(site.hosts[1].file("services/api/latest/round"), "1\n");
    assert!(site.hosts[1].read("services/web/latest/x").is_err());
    assert_eq!(site.hosts[1].file("services/web/latest/round"), "0\n", "its files of before stay");
    let status = text(&site.hosts[1].run(&["status"]));
    assert!(status.contains("services/web/latest") && status.contains("no secret source nowhere"), "{status}");
}
