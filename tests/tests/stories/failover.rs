//! docs/failover.md: every command of the page is typed, in its order, after the README's five minutes.

use std::path::Path;

use tests::{Consul, own_address, page};

const README: &str = include_str!("../../../README.md");
const PAGE: &str = include_str!("../../../docs/failover.md");

/// What somebody types.
#[derive(Clone, Copy)]
enum Typed {
    /// The blocks right under a heading of the page.
    Page(&'static str),
    /// What befalls the machines, or what the reader does besides.
    Besides(&'static str),
}
use Typed::{Besides, Page};

const FROM_A_COPY: &[Typed] = &[
    Page("## Make copies before"),
    Besides(MASTER_IS_LOST),
    Besides("mkdir lost\nmv central.git.token admin.token\nmv central.git* lost/\n"),
    Page("## conf-master is lost for good"),
];

const WITHOUT_CONF_SLAVES: &[Typed] = &[
    Page("## Make copies before"),
    // What lands after the copy is lost with all servers.
    Besides(
        "cd work\ngit switch -q services/web/master\necho 'port: 1' > config.yaml\n\
         git commit -q -a -m 'web: after the copy'\ngit push -q origin services/web/master\ncd ..\n\
         until conf-local get services/web port | grep -x 1; do sleep 0.1; done\n",
    ),
    Besides("kill -9 $(jobs -p | head -n 2)\nmkdir lost\nmv central.git* lost/\n"),
    Page("### Without conf-slaves"),
    Besides("echo \"the port is $(conf-local get services/web port) again\"\n"),
];

const FROM_A_STANDBY: &[Typed] = &[
    Page("## Have a standby before"),
    Besides(MASTER_IS_LOST),
    Page("## The standby takes over"),
    Besides("CONF_MASTER_URL=http://127.0.0.1:7500 conf-master wait lab/v1 --timeout 120\n"),
];

const BY_AN_ELECTION: &[Typed] = &[
    Page("## Have a standby before"),
    Besides(MASTER_IS_LOST),
    Page("## The standby takes over"),
    Page("### The lost one becomes a standby"),
    Page("### An election by Consul"),
    // The standby is lost, the leader lands alone, and is lost too.
    Besides(
        "kill -9 $two\n\
         echo '{\"port\": 1}' | CONF_MASTER_URL=http://127.0.0.1:7400 conf-master update services/web --file -\n\
         until conf-local get services/web port | grep -x 1; do sleep 0.1; done\n\
         kill -9 $one\n\
         conf-master serve --repo standby.git --leader consul:conf-master/leader --sync 1 --standby-name two \
         --listen 127.0.0.1:7500 --token-file admin.token > may-not.out 2> may-not.log &\ntwo=$!\n\
         until grep -s 'nobody leads' may-not.log; do sleep 0.1; done\n",
    ),
    Page("### Nobody is elected"),
    // Hosts take back what is lost.
    Besides("until conf-local get services/web port | grep -x 9090; do sleep 0.1; done\n"),
];

/// conf-master was started first.
const MASTER_IS_LOST: &str = "kill -9 $(jobs -p | head -n 1)\n";

/// The blocks right under a heading, without those of the headings below it.
fn under(heading: &str, language: &str) -> String {
    let after = PAGE.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading:?}")).1;
    let own = after.split("\n#").next().unwrap_or_default();
    page::fenced(&format!("{heading}\n{own}"), heading, language).concat()
}

/// Types the README's five minutes, as `change` has them, and then `all`. The last line that is
/// printed is `last`.
fn type_page(change: (&str, &str), all: &[Typed], last: &str, logs: &[&str]) {
    let folder = tempfile::Builder::new().prefix("conf-failover-").tempdir().expect("a folder can be made");
    let address = own_address(7400).ip().to_string();
    let path = Consul::program().parent().map(Path::to_path_buf).into_iter().collect();
    let reader = page::Reader { folder: folder.path(), address, seconds: 400, path };
    let mut blocks = page::fenced(README, "## Five minutes", "sh");
    let stop = blocks.pop().expect("the block that stops everything");
    let mut script = blocks.concat().replace(change.0, change.1);
    let mut expected = String::new();
    for one in all {
        match one {
            Page(heading) => {
                script += &under(heading, "sh");
                expected += &under(heading, "text");
            }
            Besides(lines) => script += lines,
        }
    }
    reader.paste(&(script + &stop), &(expected + last), logs);
}

/// A change of the five minutes that leaves them as they are.
const AS_THEY_ARE: (&str, &str) = ("five minutes", "five minutes");
/// Conf-slaves know both addresses, as the page says.
const BOTH: (&str, &str) = ("--listen 127.0.0.1:7401", "--central http://127.0.0.1:7500 --listen 127.0.0.1:7401");

#[test]
fn the_page_from_a_copy_to_a_server_that_is_followed() {
    type_page(AS_THEY_ARE, FROM_A_COPY, "", &["master.log", "restored.log", "slave.log", "local.log"]);
}

#[test]
fn the_page_from_a_copy_alone_to_hosts_that_go_back_to_it() {
    let logs = ["restored.log", "cache.log", "local.log"];
    type_page(AS_THEY_ARE, WITHOUT_CONF_SLAVES, "the port is 9090 again\n", &logs);
}

#[test]
fn the_page_from_a_standby_to_a_leader_that_is_followed() {
    type_page(BOTH, FROM_A_STANDBY, "", &["master.log", "standby.log", "slave.log", "local.log"]);
}

#[test]
fn the_page_from_an_election_to_a_leader_that_nobody_elected() {
    let logs = ["one.log", "two.log", "back.log", "may-not.log", "alone.log", "leads.log", "slave.log", "local.log"];
    type_page(BOTH, BY_AN_ELECTION, "9090\n", &logs);
}

/// Nothing on the page is only to be read.
#[test]
fn every_command_of_the_page_is_typed() {
    let typed = [FROM_A_COPY, WITHOUT_CONF_SLAVES, FROM_A_STANDBY, BY_AN_ELECTION].concat();
    let typed: String =
        typed.iter().map(|one| if let Page(heading) = one { under(heading, "sh") } else { String::new() }).collect();
    let missing: Vec<String> = page::fenced(PAGE, "# When something is lost", "sh")
        .into_iter()
        .filter(|block| !typed.contains(block))
        .collect();
    assert!(missing.is_empty(), "no test types {missing:?}");
    assert!(!PAGE.contains("```console"), "a block that no test types");
}
