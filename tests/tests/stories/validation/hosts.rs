//! What is judged for each host: those that are listed, and those that are not.

use tests::{
    git::Change,
    site::{CLASS, class, instance},
};

use super::{HOSTS, INSTANCE, WEB, central, inventory, refs, refused, with_schema};

#[test]
fn a_host_that_nobody_lists_is_judged_only_where_it_runs_something() {
    let site = with_schema();
    // Every listed host overrides what would be wrong on a host without layers.
    let all = HOSTS.replace("c-1: {}", "c-1: {settings: {services/web: {port: 9001}}}");
    let all = all.replace("a-1: {roles: [core]}", "a-1: {roles: [core], settings: {services/web: {port: 9002}}}");
    inventory(&site, &all).file(WEB, "config.yaml", "port: WRONG\n").land();
    let open = |text: &str| inventory(&site, &text.replace("inventories:\n", "inventories:\n  closed: false\n"));
    let words = ["services/web/master: config.yaml:1: /port: \"WRONG\"", "us-west/v1"];
    refused(&site, "unlisted hosts are let in", open(&all), &words);
    let good = open(&all).file(WEB, "config.yaml", "port: 80\n").land();
    assert!(good.contains("3 hosts and unlisted ones"), "they gain everything:\n{good}");
    let bad = || site.work.change().file(WEB, "config.yaml", "port: WRONG\n");
    refused(&site, "a component that unlisted hosts run", bad(), &words);
    // Templates are judged alike.
    let template = || site.work.change().file(WEB, "x.j2", "{{ host.labels.zone }}\n");
    let labelled = all.replace("settings:", "labels: {zone: a}, settings:");
    let labelled =
        labelled.replace("core: {components: [services/*], labels: {zone: a}, ", "core: {components: [services/*], ");
    open(&labelled).land();
    refused(&site, "a template", template(), &["services/web/master: x.j2:1", "zone"]);
    inventory(&site, &labelled).land();
    template().land();
}

#[test]
fn a_component_is_judged_when_it_comes_to_a_host() {
    let site = with_schema();
    let hosts = |components: &str| {
        let text = format!(
            "inventories:\n  roles:\n    front: {{components: [{components}]}}\n  hosts:\n    a-1: {{roles: [front]}}\n    \
             b-1: {{roles: [front], settings: {{services/web: {{port: WRONG}}}}}}\n"
        );
        inventory(&site, &text).option("--push-option=allow-shrink")
    };
    // The layer waits for a component that the host does not run yet.
    hosts("services/api").land();
    let words = ["datacenters/us-west/v1: datacenter.yaml:7: /port: \"WRONG\"", "host b-1"];
    refused(&site, "the role takes it on", hosts("services/api, services/web"), &words);
}

#[test]
fn the_shrink_guard_counts_for_each_host() {
    let site = with_schema();
    let hosts = |text: &str| inventory(&site, &format!("inventories:\n  roles:\n{text}"));
    let base = "    front: {components: [services/web, services/api]}\n    shop: {components: [applications/shop]}\n  hosts:\n    \
                a-1: {roles: [front]}\n    a-2: {roles: [front]}\n    b-1: {roles: [shop]}\n    c-1: {}\n";
    hosts(base).option("--push-option=allow-shrink").land();
    let changed = |from: &str, to: &str| {
        assert!(base.contains(from), "{from}");
        hosts(&base.replace(from, to))
    };
    let own = "datacenters/us-west/v1: datacenter.yaml:";
    let table: [(&str, Change<'_>, Vec<&str>); 4] = [
        (
            "a role emptied",
            changed("front: {components: [services/web, services/api]}", "front: {components: []}"),
            vec![own, "remove 2 of the 2 components on a-1, a-2 (services/api, services/web)", "-o allow-shrink"],
        ),
        (
            "a host moved",
            changed("a-2: {roles: [front]}", "a-2: {roles: [shop]}"),
            vec!["datacenter.yaml:8: ", "remove 2 of the 2 components on a-2 (services/api, services/web)"],
        ),
        (
            "the only component of a host",
            site.work
                .change()
                .file(CLASS, "datacenter.yaml", {
                    let pins = [("services/web", "master", "latest"), ("services/api", "master", "latest")];
                    class(&[&pins[..], &[("devices/router", "master", "latest")]].concat())
                })
                .file(
                    INSTANCE,
                    "datacenter.yaml",
                    format!(
                        "{}inventories:\n  roles:\n{}",
                        instance(),
                        base.replace("applications/shop", "applications/*")
                    ),
                ),
            vec!["remove 1 of the 1 component on b-1 (applications/shop)"],
        ),
        (
            "both",
            changed(
                "    a-2: {roles: [front]}\n    b-1: {roles: [shop]}\n    c-1: {}\n",
                "    a-2: {roles: [shop]}\n    b-1: {roles: [front]}\n    c-1: {roles: [shop]}\n",
            ),
            vec!["4 components on c-1", "2 components on a-2", "1 component on b-1"],
        ),
    ];
    for (what, change, words) in table {
        refused(&site, what, change, &words);
    }
    // Half may go, a version may replace another, and a host that is listed no more keeps its
    // files.
    changed("front: {components: [services/web, services/api]}", "front: {components: [services/web]}").land();
    hosts(base).land();
    let gone = hosts(&base.replace("    a-2: {roles: [front]}\n", "")).land();
    assert!(gone.contains("0 components, 0 hosts, 1 host listed no more"), "{gone}");
    hosts(base).land();
    let emptied = changed("front: {components: [services/web, services/api]}", "front: {components: []}");
    let said = emptied.option("--push-option=allow-shrink").land();
    assert!(said.contains("us-west/v1 #") && said.contains(": 2 components, 2 hosts"), "{said}");
}

#[test]
fn what_a_class_says_must_be_of_use_to_one_of_its_datacenters() {
    let site = central();
    let other = "datacenters/us-east/v1";
    let change = || site.work.change();
    let dns = format!("{}services: [{{name: dns, branch: master}}]\n", instance());
    change().file("services/dns/master", "config.yaml", "ttl: 60\n").file(other, "datacenter.yaml", &dns).land();
    let layer = |name: &str| change().file(CLASS, &format!("overrides/services/{name}.yaml"), "ttl: 5\n");
    refused(
        &site,
        "none of them runs it",
        layer("dsn"),
        &[
            "big: overrides/services/dsn.yaml: services/dsn is run neither by the class nor by any of its 2 datacenters (did you mean \
           `services/dns`?)",
        ],
    );
    // One of the two runs it.
    layer("dns").land();
    let secret = |reader: &str| {
        let pins: Vec<_> = ["services/web", "services/api", "applications/shop", "devices/router"]
            .map(|one| (one, "master", "latest"))
            .into();
        let text =
            format!("{}secrets:\n  key: {{generate: {{length: 32}}, readers: [services/{reader}]}}\n", class(&pins));
        change().file(CLASS, "datacenter.yaml", text)
    };
    let words =
        ["`services/dsn`, a reader of the secret `key`, is run neither by the class nor by any of its 2 datacenters"];
    refused(&site, "a reader that none of them runs", secret("dsn"), &words);
    secret("dns").land();
    // The last one that runs it takes the layer along.
    let before = refs(&site);
    let without = change().file(other, "datacenter.yaml", instance()).option("--push-option=allow-shrink").push();
    without.refused(&["overrides/services/dns.yaml: services/dns is run neither"]);
    assert_eq!(refs(&site), before);
    let check = site.master.run(&["check", "--repo", site.work.folder().to_str().expect("text"), "us-west/v1"]);
    assert!(
        check.status.success(),
        "one datacenter alone is checked with what the others run:\n{}",
        tests::program::text(&check)
    );
}
