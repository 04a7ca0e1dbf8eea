//! What a change costs between the programs, counted on the wire.

use std::{fs, io::Write as _};

use tests::{Host, Plan, Reader, Site, program::text};

/// Requests for Git between the hosts and whatever they ask.
fn git_requests(site: &Site) -> Vec<tests::proxy::Request> {
    let mut all = site.master.proxy.as_ref().expect("a proxy").git_requests();
    for slave in &site.slaves {
        all.extend(slave.proxy.as_ref().expect("a proxy").git_requests());
    }
    all
}

fn reset(site: &Site) {
    site.master.proxy.as_ref().expect("a proxy").reset();
    site.slaves.iter().for_each(|slave| slave.proxy.as_ref().expect("a proxy").reset());
}

#[test]
fn with_3000_services_a_hosts_step_is_one_request_and_at_most_2_kib() {
    let mut components: Vec<String> = (0..3000).map(|number| format!("services/s{number:04}")).collect();
    components.push("services/web".to_owned());
    let site = Plan { components, proxied: true, ..Plan::default() }.start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/s1234"], reader.pid());
    let mut round = 0;
    for service in ["services/s1234", "services/s0000", "services/s1234"] {
        // A host that hears nothing for a second asks the next server, too: on a busy machine that happens now and then.
        let alone = (0..5).find_map(|_| {
            reset(&site);
            round += 1;
            let sequence = site.push_and_wait(service, "round", &format!("{round}\n"));
            if service == "services/s1234" {
                reader.told_of(sequence);
            }
            <[_; 1]>::try_from(git_requests(&site)).ok()
        });
        let [request] = alone.expect("no step of five was one request");
        assert!(request.line.starts_with("POST /conf.git/git-upload-pack"), "{request:?}");
        assert!(request.received <= 2048, "{} bytes for one line in one of 3,000 services", request.received);
        println!("one of 3,001 services changed: one request, {} bytes of response", request.received);
    }
    assert!(reader.all_told().is_empty(), "it is told of its own changes alone");
}

/// Starts the host again without something of its own; what it then fetched, in bytes.
fn fetched_after(site: &mut Site, lose: impl FnOnce(&Host)) -> u64 {
    let sequence = site.master.sequence();
    site.hosts[0].daemon.stop();
    lose(&site.hosts[0]);
    reset(site);
    site.hosts[0].daemon.start();
    site.wait_applied(sequence);
    tests::eventually("the files to be there", || match site.host().read("services/web/latest/round") {
        Ok(content) if content == "1\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    git_requests(site).iter().map(|request| request.received).sum()
}

#[test]
fn a_host_that_starts_again_fetches_nothing_with_or_without_its_export() {
    let mut site = Plan { proxied: true, ..Plan::default() }.start();
    site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(fetched_after(&mut site, |_| ()), 0, "as it was");
    assert_eq!(
        fetched_after(&mut site, |host| fs::remove_dir_all(host.export()).expect("it is there")),
        0,
        "no export"
    );
    let lose_store = |host: &Host| fs::remove_dir_all(host.export().join("store")).expect("it is there");
    assert_eq!(fetched_after(&mut site, lose_store), 0, "no store");
    let lose_link = |host: &Host| fs::remove_file(host.export().join("current")).expect("it is there");
    assert_eq!(fetched_after(&mut site, lose_link), 0, "no current");
    // Without its repository it still has its files, and fetches what it needs to go on.
    fetched_after(&mut site, |host| fs::remove_dir_all(host.repository()).expect("it is there"));
    let sequence = site.push_and_wait("services/web", "round", "2\n");
    assert_eq!(site.host().sequence(), sequence);
}

#[test]
fn a_quiet_host_asks_consul_alone_and_rarely() {
    let site = Plan { proxied: true, ..Plan::default() }.start();
    site.push_and_wait("services/web", "round", "1\n");
    let consul = &site.to_consul[0];
    // A change that is not this datacenter's passes; nobody here has a reason to move.
    reset(&site);
    consul.reset();
    for number in 0..10 {
        site.work.change().file("services/lonely/master", "round", format!("{number}\n")).land();
    }
    let asked = git_requests(&site);
    assert!(asked.is_empty(), "{asked:?}");
    let asked = consul.requests();
    assert!(asked.len() <= 10, "{asked:?}");
}

#[test]
fn an_existing_repository_is_reused_and_only_what_is_missing_is_fetched() {
    let mut site = Plan { proxied: true, ..Plan::default() }.start();
    let first = site.host().sequence();
    let noise: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
    site.work.change().file("services/web/master", "noise", &noise).land();
    site.wait_applied(site.master.sequence());
    site.hosts[0].daemon.stop();
    let other = site.folder.path().join("existing.git");
    fs::rename(site.hosts[0].repository(), &other).expect("a repository can be moved");
    let mut host = site.make_host(2);
    host.daemon.argument("--git-dir");
    host.daemon.argument(&other);
    site.push("services/web", "round", "1\n");
    reset(&site);
    host.daemon.start();
    site.hosts[0] = host;
    site.wait_applied(site.master.sequence());
    let received: u64 = git_requests(&site).iter().map(|request| request.received).sum();
    assert!(received < 256 << 10, "{received} bytes, though it had nearly all");
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    assert_eq!(fs::read(site.host().export().join("current/services/web/latest/noise")).expect("there"), noise);
    // Damaged, it stays as it is, and one of the host's own is used in its place, also for older changes.
    let packs = fs::read_dir(other.join("objects/pack")).expect("it has packs").flatten();
    for pack in packs.filter(|entry| entry.path().extension().is_some_and(|end| end == "pack")) {
        let length = usize::try_from(pack.metadata().expect("it is there").len()).expect("a length");
        let mut file = fs::File::options().write(true).open(pack.path()).expect("root may write");
        file.write_all(&vec![0; length]).expect("root may write");
    }
    let output = site.host().run(&["verify", "--repair"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(site.host().repository().join("objects").is_dir());
    let answer = site.host().http().get(&format!("/v1/at/{first}?timeout=20")).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}
