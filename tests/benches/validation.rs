//! What it costs to judge a change of one component, in a small datacenter and in a large one.
//!
//! `cargo build --release --workspace --bins && cargo bench -p tests --bench validation`
//!
//! Every component has a schema, and one in ten hosts settings of its own over the component that changes. Each change is
//! judged twice (in quarantine, and again when it lands). What git itself takes for a push is in every number, and grows with
//! the number of branches: the first line, a push that no datacenter reads, is that alone.

use std::time::Instant;

use tests::{
    Plan, Site,
    site::{CLASS, DATACENTER, Pointers, class},
};

/// How often each is measured; the median is printed.
const TIMES: usize = 9;
/// Components and hosts.
const SIZES: [(usize, usize); 2] = [(3, 10), (3000, 10_000)];
const SCHEMA: &str = r#"{"properties": {"port": {"type": "integer", "maximum": 65535}}, "required": ["port"]}"#;

fn main() {
    let mut small = Vec::new();
    for (components, hosts) in SIZES {
        println!("{components} components, {hosts} hosts, one in ten with settings of its own over services/s0");
        let site = populated(components, hosts);
        let rounds: [(&str, &dyn Fn(usize)); 3] = [
            ("a push that no datacenter reads", &|round| {
                site.work.change().file("services/alone/master", "round", round.to_string()).land();
            }),
            ("a change of services/s0 lands", &|round| {
                site.work.change().file("services/s0/master", "config.yaml", format!("port: {round}\n")).land();
            }),
            ("a layer of the class over services/s1 lands", &|round| {
                let text = format!("port: {round}\n");
                site.work.change().file(CLASS, "overrides/services/s1.yaml", text).land();
            }),
        ];
        for (number, (what, round)) in rounds.into_iter().enumerate() {
            let mut took: Vec<f64> = (0..TIMES)
                .map(|number| {
                    let began = Instant::now();
                    round(number + 1);
                    began.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            took.sort_by(f64::total_cmp);
            let median = took[TIMES / 2];
            match small.get(number) {
                None => {
                    println!("  {median:>8.1} ms  {what}");
                    small.push(median);
                }
                Some(small) => println!("  {median:>8.1} ms  {what}: {:.2} times as long", median / small),
            }
        }
    }
}

/// A central server alone, with so many components, each with a schema, and so many hosts.
fn populated(components: usize, hosts: usize) -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let names: Vec<String> = (0..components).map(|number| format!("services/s{number}")).collect();
    let pins: Vec<_> = names.iter().map(|name| (name.as_str(), "master", "latest")).collect();
    let mut change = site.work.change().file(CLASS, "datacenter.yaml", class(&pins));
    for name in &names {
        let branch = format!("{name}/master");
        change = change.file(&branch, "config.yaml", "port: 80\n").file(&branch, "config.schema.json", SCHEMA);
    }
    let hosts = (0..hosts).map(|number| match number % 10 {
        0 => format!("    h-{number}: {{settings: {{services/s0: {{own: {number}}}}}}}\n"),
        _ => format!("    h-{number}: {{components: ['services/*']}}\n"),
    });
    let text = format!("conf: {CLASS}/latest\ninventories:\n  hosts:\n{}", hosts.collect::<Vec<_>>().concat());
    let began = Instant::now();
    change.file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", text).land();
    println!("  {:>8.1} ms  all of it lands at once", began.elapsed().as_secs_f64() * 1e3);
    site
}
