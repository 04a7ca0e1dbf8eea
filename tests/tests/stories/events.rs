//! What the daemons say over HTTP beside Git: events, who runs what, health.

use serde_json::Value;
use tests::{
    Plan, Site,
    site::{DATACENTER, Pointers},
};

fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

fn data(event: &tests::http::Event) -> Value {
    serde_json::from_str(&event.data).unwrap_or_else(|error| panic!("not JSON ({error}): {event:?}"))
}

#[test]
fn events_come_in_order_after_they_are_durable_and_resume_where_they_ended() {
    let mut site = central();
    let path = format!("/api/v1/events?datacenter={DATACENTER}");
    let events = site.master.http().events(&path, &[]);
    let first = events.next_named("snapshot");
    assert_eq!(first.id, site.master.sequence().to_string());
    assert_eq!(data(&first)["commit"], site.master.snapshot());
    let mut previous = site.master.snapshot();
    let mut last = site.master.sequence();
    for round in 1..=5 {
        let sequence = site.push("services/web", "round", &format!("{round}\n"));
        let event = events.next_named("snapshot");
        let told = data(&event);
        assert_eq!(event.id, sequence.to_string());
        assert_eq!(told["sequence"], sequence);
        assert_eq!(told["previous"], previous.as_str());
        assert_eq!(told["datacenter"], DATACENTER);
        previous = site.master.snapshot();
        last = sequence;
    }
    // A change of nobody's moves the watermark alone.
    site.work.change().file("services/lonely/master", "a", "1").land();
    loop {
        let event = events.next();
        assert_eq!(event.name, "watermark", "{event:?}");
        let mark = data(&event);
        assert_eq!(mark["snapshot"], last);
        if mark["central"] == last + 1 {
            break;
        }
    }
    // Who has the newest is not told it again; who has an older one is told the newest alone.
    let resumed = site.master.http().events(&path, &[("last-event-id", &last.to_string())]);
    assert_eq!(resumed.next().name, "watermark");
    let late = site.master.http().events(&path, &[("last-event-id", "1")]);
    assert_eq!(late.next_named("snapshot").id, last.to_string());
    // The same after the server was killed.
    site.master.daemon.kill9_and_restart();
    let resumed = site.master.http().events(&path, &[("last-event-id", &last.to_string())]);
    assert_eq!(resumed.next().name, "watermark");
}

#[test]
fn events_of_a_datacenter_that_is_not_there_yet_begin_with_its_first_snapshot() {
    let site = central();
    let events = site.master.http().events("/api/v1/events?datacenter=eu-north/v1", &[]);
    let branch = "datacenters/eu-north/v1";
    // What happens elsewhere meanwhile is no snapshot of it.
    site.push("services/web", "round", "1\n");
    site.work.change().file(branch, "datacenter.yaml", tests::site::instance()).land();
    let event = events.next_named("snapshot");
    assert_eq!(data(&event)["datacenter"], "eu-north/v1");
}

#[test]
fn a_quiet_stream_still_beats() {
    let site = central();
    let events = site.master.http().events(&format!("/api/v1/events?datacenter={DATACENTER}"), &[]);
    events.next_named("snapshot");
    // Promised every 15 s; 45 s of silence would be taken for a broken stream.
    let beat = events.beat_within(std::time::Duration::from_secs(40));
    assert!(beat, "no heartbeat came");
}

#[test]
fn datacenters_are_shown_with_their_pins() {
    let site = central();
    let list = site.master.http().get_json("/api/v1/datacenters").expect("an answer");
    assert!(list.to_string().contains(DATACENTER), "{list}");
    let one = site.master.datacenter().expect("an answer");
    let pins = one["pins"].as_array().expect("pins");
    let names: Vec<&str> = pins.iter().filter_map(|pin| pin["component"].as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names.len(), 4, "{one}");
    assert!(names.contains(&"services/web/latest"), "{one}");
    assert!(one["when"].is_string() && one["by"].is_string(), "{one}");
    for path in ["/api/v1/datacenters/nowhere/v1", "/api/v1/nonsense", "/nonsense", "/conf.git/objects/info/packs"] {
        let answer = site.master.http().get(path).expect("an answer");
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
    for path in ["/api/v1/events", "/api/v1/events?datacenter=..", "/api/v1/datacenters/a%2f..%2fb/v1"] {
        let answer = site.master.http().get(path).expect("an answer");
        assert!(answer.status.is_client_error(), "{path}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn every_daemon_answers_health_and_metrics() {
    let mut site = Site::start();
    let listen = tests::own_address(7402);
    site.hosts[0].daemon.argument("--listen");
    site.hosts[0].daemon.argument(listen.to_string());
    site.hosts[0].daemon.restart();
    site.push_and_wait("services/web", "round", "1\n");
    let tcp = tests::http::Address::Tcp(listen);
    for (name, server) in
        [("conf-master", site.master.http()), ("conf-slave", site.slave().http()), ("conf-local", tcp)]
    {
        for path in ["/healthz", "/readyz"] {
            let answer = server.get(path).expect("an answer");
            assert_eq!(answer.status, 200, "{name} {path}: {}", answer.text());
        }
        let metrics = server.get("/metrics").expect("an answer").text();
        assert!(metrics.contains("# TYPE"), "{name}: {metrics}");
    }
}

#[test]
fn the_local_service_tells_settings_status_and_changes() {
    let site = Site::start();
    let http = site.host().http();
    let events = http.events("/v1/events", &[]);
    tests::eventually("the listener to be heard", || {
        // A listener is told of what happens from its request on; a first change shows that it is there.
        site.push_and_wait("services/web", "round", &format!("{}\n", rand::random::<u32>()));
        events.next_within(std::time::Duration::from_millis(500)).map(|_| ()).ok_or_else(|| "nothing".to_owned())
    });
    let change = site.work.change().file("services/web/master", "config.yaml", "port: 1\n");
    change.file("devices/router/master", "config.yaml", "port: 2\n").land();
    let sequence = site.master.sequence();
    let event = loop {
        let event = events.next_named("change");
        if event.id == sequence.to_string() {
            break data(&event);
        }
    };
    assert_eq!(event["commit"], site.master.snapshot());
    let told = event["components"].to_string();
    assert!(
        told.contains("services/web") && told.contains("devices/router") && !told.contains("services/api"),
        "{told}"
    );
    assert_eq!(http.get_json("/v1/config/services/web").expect("settings")["port"], 1);
    assert_eq!(http.get_json("/v1/config/devices/router/latest").expect("settings")["port"], 2);
    for (path, status) in [
        ("/v1/config/services/nobody", 404),
        ("/v1/config/services/web/v9", 404),
        ("/v1/config/services/web?sequence=999999", 404),
        ("/v1/config/servers/web", 400),
        ("/v1/config/services/..%2fweb", 400),
        ("/v1/status?after=x", 400),
        ("/nonsense", 404),
    ] {
        let answer = http.get(path).expect("an answer");
        assert!(
            answer.status == status || (status == 400 && answer.status == 404),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(answer.json()["error"].is_string(), "{path}: {}", answer.text());
    }
}

#[test]
fn a_process_of_another_user_is_registered_by_nobody_but_root() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else, and what is tried here is what somebody else may do.
        println!("not root: only the half of this story that needs no other user is told");
    }
    let site = Site::start();
    let register = |pid: u32| {
        let body = serde_json::json!({"components": ["services/web"], "pid": pid, "signal": "HUP"}).to_string();
        let json = [("content-type", "application/json")];
        site.host().http().request(hyper::Method::POST, "/v1/watchers", &json, body).expect("an answer")
    };
    let reader = tests::Reader::start(&site.host().export());
    assert!(register(reader.pid()).status.is_success());
    assert!(register(4_194_304).status.is_client_error());
    if rustix::process::geteuid().is_root() {
        let mut nobody = tests::program::command("setpriv", site.folder.path());
        nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        nobody.arg(tests::program::built("conf-local"));
        nobody.args(["watch", "services/web", "--pid", "1", "--socket"]).arg(&site.host().socket);
        // The folders above the socket belong to root alone otherwise.
        for folder in [site.folder.path(), &site.host().home] {
            std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        }
        let output = tests::program::run(nobody);
        assert_eq!(output.status.code(), Some(1), "{}", tests::program::text(&output));
    }
}
