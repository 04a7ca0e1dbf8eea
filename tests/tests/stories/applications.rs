//! A program that links libconf, beside a real agent: what it runs on is seen, also when it cannot take what came.

use tests::{Daemon, Plan, http::Address, own_address, program::built, site::Pointers};

const COMMON: &str = "services/common";

#[test]
fn a_value_that_does_not_fit_is_kept_from_the_program_and_seen_in_the_status() {
    let plan = Plan { pointers: Pointers::Embedded, components: vec![COMMON.to_owned()], ..Plan::default() };
    let mut site = plan.start();
    let address = own_address(8000);
    let history = site.folder.path().join("history").to_str().expect("a test's paths are text").to_owned();
    let arguments = ["shop".to_owned(), address.to_string(), history, "unpinned".to_owned()];
    let mut shop = Daemon::new("shop", built("participant"), site.folder.path(), arguments);
    shop.environment("CONF_LOCAL_SOCKET", &site.host().socket);
    shop.start();
    let http = Address::Tcp(address);
    let round = || http.get_json("/operation").expect("an answer")[0]["round"].as_u64();
    let first = site.host().sequence();

    let refused = site.push_and_wait(COMMON, "config.yaml", "round: many\n");
    let status = site.host().wait_status("hear what the program says", |status| {
        status["processes"][0]["errors"][0]["sequence"].as_u64() == Some(refused)
    });
    let process = &status["processes"][0];
    assert_eq!(process["pid"].as_u64(), Some(u64::from(shop.pid())));
    assert_eq!(process["errors"][0]["component"], "services/common/latest", "{process}");
    assert!(!process.to_string().contains("many"), "what it may not say is a value: {process}");
    assert_eq!((round(), status["sequence"].as_u64()), (Some(0), Some(refused)));
    assert!(first < refused);

    // The agent is killed, and what it knew of the program is told to it again.
    site.hosts[0].daemon.kill9_and_restart();
    let mended = site.push_and_wait(COMMON, "config.yaml", "round: 7\n");
    site.host().wait_status("hear that all is well", |status| {
        let process = &status["processes"][0];
        process["sequence"].as_u64() == Some(mended) && process["errors"].as_array().is_none_or(Vec::is_empty)
    });
    assert_eq!(round(), Some(7));
}
