//! The commands that people and scripts use.

use std::{fs, process::Output};

use serde_json::Value;
use tests::{
    Poller, Reader, Site,
    program::{built, command, run, spawn, text},
    site::{CLASS, DATACENTER, class, in_repository},
};

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{}", text(output)))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal:\n{}", text(output)))
}

#[test]
fn get_prints_settings_or_one_value_of_them() {
    let site = Site::start();
    let yaml = "port: 8080\npool: {size: 8, names: [a, b]}\n'odd/key': 1\n'x.y': 2\n";
    site.push_and_wait("services/web", "config.yaml", yaml);
    let get = |arguments: &[&str]| site.host().run(&[&["get"], arguments].concat());
    assert_eq!(json(&get(&["services/web"]))["pool"]["size"], 8);
    assert_eq!(json(&get(&["services/web/latest"]))["port"], 8080);
    assert_eq!(json(&get(&["services/web", "pool.size"])), 8);
    assert_eq!(json(&get(&["services/web", "--key", "pool.names"])), serde_json::json!(["a", "b"]));
    assert_eq!(json(&get(&["services/web", "pool.names.1"])), "b");
    assert_eq!(json(&get(&["services/web", "/odd~1key"])), 1);
    assert_eq!(json(&get(&["services/web", "/x.y"])), 2);
    for (arguments, wanted, word) in [
        (&["services/web", "pool.sice"][..], 1, "pool.sice"),
        (&["services/nobody"], 1, "services/nobody"),
        (&["services/web/v9"], 1, "v9"),
        (&["web"], 2, "kind"),
        (&[], 2, "Usage"),
    ] {
        let output = get(arguments);
        assert_eq!(code(&output), wanted, "{arguments:?}:\n{}", text(&output));
        assert!(text(&output).contains(word), "{arguments:?} does not say {word:?}:\n{}", text(&output));
    }
    // As it was at an earlier sequence that is still kept.
    let before = site.host().sequence();
    site.push_and_wait("services/web", "config.yaml", "port: 9090\n");
    assert_eq!(json(&get(&["services/web", "port", "--sequence", &before.to_string()])), 8080);
    assert_eq!(json(&get(&["services/web", "port"])), 9090);
}

#[test]
fn two_versions_are_told_apart_by_name() {
    let site = Site::start();
    site.work.git(&["tag", "services/web/v1.0", "services/web/master"]);
    site.work.push(&["refs/tags/services/web/v1.0"]).accepted();
    let pins = [("services/web", "master", "latest"), ("services/web", "master", "v1.0")];
    site.work.change().file(CLASS, "datacenter.yaml", class(&pins)).option("--push-option=allow-shrink").land();
    site.push_and_wait("services/web", "config.yaml", "round: 1\n");
    assert_eq!(json(&site.host().run(&["get", "services/web/latest", "round"])), 1);
    assert_eq!(json(&site.host().run(&["get", "services/web/v1.0", "round"])), 0);
}

#[test]
fn wait_ends_with_0_when_the_export_is_there_and_with_1_and_the_reason_when_not() {
    let site = Site::start();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let tip = site.work.id("services/web/master");
    let first = site.work.id("services/web/master~1");
    let wait = |arguments: &[&str]| site.host().run(&[&["wait", "services/web"], arguments].concat());
    for arguments in [
        &[][..],
        &["--at", &format!("master/{tip}")],
        &["--at", &format!("master/{first}")],
        &["--sequence", &sequence.to_string()],
        &["--sequence", "1"],
    ] {
        let output = wait(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}:\n{}", text(&output));
    }
    let unknown = "1234567890123456789012345678901234567890";
    for arguments in [
        &["--timeout", "0.2", "--at", &format!("master/{unknown}")][..],
        &["--timeout", "0.2", "--sequence", &(sequence + 1).to_string()],
    ] {
        let output = wait(arguments);
        assert_eq!(code(&output), 1, "{arguments:?}:\n{}", text(&output));
        assert!(text(&output).contains(&sequence.to_string()), "says where it is:\n{}", text(&output));
    }
    let output = site.host().run(&["wait", "services/nobody", "--timeout", "0.2"]);
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert_eq!(code(&wait(&["--at", "nonsense"])), 2);

    // One that is begun before the change ends with it.
    let next = (sequence + 1).to_string();
    let mut waiting = site.host().client(&["wait", "services/web", "--sequence", &next, "--timeout", "60"]);
    waiting.stdin(std::process::Stdio::null());
    let mut waiting = spawn(waiting).expect("it can be started");
    site.push("services/web", "round", "2\n");
    assert!(waiting.wait().expect("it is ours").success());
}

#[test]
fn watch_signals_what_it_is_told_to_and_refuses_what_it_cannot() {
    let site = Site::start();
    let watch = |arguments: &[&str]| site.host().run(&[&["watch"], arguments].concat());
    let reader = Reader::start(&site.host().export());
    let pid = reader.pid().to_string();
    assert_eq!(code(&watch(&["services/web", "devices/router", "--pid", &pid, "--signal", "SIGHUP"])), 0);
    site.push("devices/router", "round", "1\n");
    reader.told();
    for (arguments, wanted) in [
        (&["services/web", "--pid", "4194304"][..], 1),
        (&["services/web", "--pid", "0"], 1),
        (&["services/web", "--pid", "-1"], 2),
        (&["services/web", "--pid", &pid, "--signal", "NONSENSE"], 2),
        (&["services/web"], 2),
        (&["--pid", &pid], 2),
    ] {
        let output = watch(arguments);
        assert!([1, 2].contains(&code(&output)), "{arguments:?}:\n{}", text(&output));
        assert_eq!(code(&output), wanted, "{arguments:?}:\n{}", text(&output));
    }
}

#[test]
fn exec_hup_tells_its_command_and_ends_as_it_does() {
    let site = Site::start();
    let script = "trap 'echo told $(cat \"$CONF_EXPORT/services/web/latest/round\" 2>/dev/null || \
                  cat export/current/services/web/latest/round) >> told' HUP; echo ready > told; \
                  while ! [ -e stop ]; do sleep 0.02; done; exit 7";
    let mut job = site.host().client(&["exec", "services/web", "--", "sh", "-c", script]);
    let folder = site.host().home.clone();
    job.current_dir(&site.host().state).stdin(std::process::Stdio::null());
    let mut job = spawn(job).expect("it can be started");
    let told = || fs::read_to_string(site.host().state.join("told")).unwrap_or_default();
    let wait_lines = |count: usize| {
        tests::eventually(&format!("{count} lines"), || {
            if told().lines().count() == count { Ok(told()) } else { Err(told()) }
        })
    };
    wait_lines(1);
    for round in 1..=3 {
        site.push("services/web", "round", &format!("{round}\n"));
        wait_lines(1 + round);
    }
    site.push_and_wait("services/api", "round", "9\n");
    assert_eq!(told().lines().count(), 4, "another's change is not told: {}", told());
    fs::write(site.host().state.join("stop"), "").expect("the folder can be written");
    assert_eq!(job.wait().expect("it is ours").code(), Some(7), "exec ends as its command did");
    assert!(folder.exists());
}

#[test]
fn exec_restart_starts_its_command_anew_on_the_new_files() {
    let mut site = Site::start();
    let script = "cat \"$CONF_EXPORT/services/web/latest/round\" >> seen; exec sleep 1000";
    let mut job = site.host().client(&["exec", "services/web", "--on-change", "restart", "--", "sh", "-c", script]);
    job.current_dir(&site.host().state).stdin(std::process::Stdio::null());
    let mut job = spawn(job).expect("it can be started");
    let file = site.host().state.join("seen");
    let seen = || fs::read_to_string(&file).unwrap_or_default();
    let wait_seen = |wanted: &str| {
        tests::eventually(wanted, || if seen() == wanted { Ok(()) } else { Err(seen()) });
    };
    wait_seen("0\n");
    site.push("services/web", "round", "1\n");
    wait_seen("0\n1\n");
    // The agent that it registered with is killed and comes back; nothing is lost.
    site.hosts[0].daemon.kill9_and_restart();
    site.push("services/web", "round", "2\n");
    wait_seen("0\n1\n2\n");
    // What it read is seen before the process that read it has ended.
    let inner = tests::eventually("its command alone", || match tests::program::descendants(job.id()) {
        inner if inner.len() == 1 => Ok(inner),
        other => Err(format!("{other:?}")),
    });
    tests::program::signal_pid(job.id(), rustix::process::Signal::TERM);
    job.wait().expect("it is ours");
    assert!(!std::path::Path::new(&format!("/proc/{}", inner[0].0)).exists(), "its command ends with it");
}

#[test]
fn status_verify_and_history_are_tables_for_people_and_json_for_programs() {
    let site = Site::start();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let status = json(&site.host().run(&["status", "--json"]));
    assert_eq!(status["sequence"], sequence);
    assert_eq!(status["commit"], site.master.snapshot());
    assert_eq!(status["datacenter"], DATACENTER);
    assert_eq!((&status["host"], &status["state"]), (&"web-1".into(), &"current".into()));
    let shown = text(&site.host().run(&["status"]));
    assert!(shown.contains(DATACENTER) && shown.contains(&sequence.to_string()), "{shown}");

    let history = json(&site.host().run(&["history", "--json"]));
    assert_eq!(history[0]["sequence"], sequence, "newest first: {history}");
    assert!(history.as_array().is_some_and(|entries| entries.len() >= 2), "{history}");
    assert!(text(&site.host().run(&["history"])).contains("services/web"));

    let verified = site.host().run(&["verify"]);
    assert_eq!(code(&verified), 0, "{}", text(&verified));
    json(&site.host().run(&["verify", "--json"]));
}

#[test]
fn verify_finds_what_was_changed_by_hand_and_mends_it() {
    let site = Site::start();
    site.push_and_wait("services/web", "round", "1\n");
    let file = site.host().export().join("current/services/web/latest/round");
    let real = file.canonicalize().expect("it is there");
    let poller = Poller::start(&site.host().export(), &["services/api/latest/round"]);
    let harms: [&dyn Fn(); 3] = [
        &|| {
            fs::remove_file(&real).expect("it is there");
            fs::write(&real, "changed by hand\n").expect("the folder can be written");
        },
        &|| fs::remove_file(&real).expect("it is there"),
        &|| {
            let store = real.ancestors().find(|path| path.parent().is_some_and(|parent| parent.ends_with("store")));
            fs::remove_dir_all(store.expect("it lies in the store")).expect("it is there");
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        let mark = site.host().daemon.log_mark();
        harm();
        let found = site.host().run(&["verify"]);
        // The agent's own look may have been first.
        let is_found = code(&found) == 1 && text(&found).contains("services/web");
        let is_mended = || site.host().daemon.log_since(mark).contains("conf-local puts it right");
        assert!(is_found || is_mended(), "harm {number} is not found:\n{}", text(&found));
        let mended = site.host().run(&["verify", "--repair"]);
        assert_eq!(code(&mended), 0, "harm {number} is not mended:\n{}", text(&mended));
        assert_eq!(fs::read_to_string(&file).expect("it is there again"), "1\n");
        assert_eq!(code(&site.host().run(&["verify"])), 0);
    }
    poller.stop_unharmed();
}

#[test]
fn check_says_on_any_clone_what_a_change_would_be_told() {
    let site = Site::start();
    let work = &site.work;
    let check = |arguments: &[&str]| {
        let mut check = command(built("conf-master"), site.folder.path());
        check.args(["check", "--repo"]).arg(work.folder()).args(arguments);
        run(check)
    };
    let good = check(&[]);
    assert_eq!(code(&good), 0, "{}", text(&good));
    assert!(text(&good).contains(DATACENTER), "{}", text(&good));
    assert_eq!(code(&check(&[DATACENTER])), 0);
    assert_eq!(code(&check(&["nowhere/v1"])), 1);
    work.change().file(CLASS, "datacenter.yaml", class(&[("services/nobody", "master", "latest")])).commit();
    let bad = check(&[]);
    assert_eq!(code(&bad), 1, "{}", text(&bad));
    assert!(text(&bad).contains("services/nobody") && text(&bad).contains("datacenter.yaml:2"), "{}", text(&bad));
    // Only supposed to be there.
    let tip = work.id(CLASS);
    work.git(&["update-ref", &format!("refs/heads/{CLASS}"), &format!("{tip}~1")]);
    assert_eq!(code(&check(&[])), 0);
    let supposed = check(&["--ref", &format!("refs/heads/{CLASS}={tip}"), DATACENTER]);
    assert_eq!(code(&supposed), 1, "{}", text(&supposed));
    json(&check(&["--json"]));
}

#[test]
fn log_tells_the_deployments_newest_first_with_who_and_what() {
    let site = Site::start();
    for round in 1..=3 {
        site.push("services/web", "round", &format!("{round}\n"));
    }
    let sequence = site.master.sequence();
    let log = site.master.run(&["log", DATACENTER]);
    assert_eq!(code(&log), 0, "{}", text(&log));
    assert!(text(&log).contains("services/web"), "{}", text(&log));
    let entries = json(&site.master.run(&["log", DATACENTER, "--json"]));
    let sequences: Vec<u64> =
        entries.as_array().expect("a list").iter().filter_map(|one| one["sequence"].as_u64()).collect();
    assert_eq!(sequences, [sequence, sequence - 1, sequence - 2, sequence - 3], "{entries}");
    assert!(entries[0].get("by").is_some() && entries[0].get("when").is_some(), "{entries}");
    let limited = json(&site.master.run(&["log", DATACENTER, "--json", "--limit", "2"]));
    assert_eq!(limited.as_array().map(Vec::len), Some(2));
    let missing = site.master.run(&["log", "nowhere/v1"]);
    assert_eq!(code(&missing), 1, "{}", text(&missing));
}

#[test]
fn init_makes_a_key_of_its_own_and_never_writes_over_anything() {
    let site = Site::start();
    let again = site.master.run(&["init", "--repo", site.master.repo.to_str().expect("text")]);
    assert_eq!(code(&again), 1, "{}", text(&again));
    let other = site.folder.path().join("other.git");
    let made = site.master.run(&["init", "--repo", other.to_str().expect("text")]);
    assert_eq!(code(&made), 0, "{}", text(&made));
    let printed = String::from_utf8_lossy(&made.stdout).into_owned();
    let key = fs::read_to_string(format!("{}.key.pub", other.display())).expect("it is there");
    assert_eq!(printed.lines().filter(|line| line.trim() == key.trim()).count(), 1, "{printed}");
    assert_ne!(key, fs::read_to_string(site.master.trusted_key()).expect("it is there"));
    let secret = fs::metadata(format!("{}.key", other.display())).expect("it is there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&secret.permissions()) & 0o077, 0, "only its owner reads it");
    let config = in_repository(&other, &["config", "--list", "--local"]);
    for wanted in ["receive.procreceiverefs=refs/", "gc.auto=0", "receive.autogc=false", "transfer.fsckobjects=true"] {
        let found = config.lines().any(|line| line == wanted);
        let fsck = wanted.starts_with("transfer.") && config.contains("receive.fsckobjects=true");
        assert!(found || fsck, "{wanted} is not set:\n{config}");
    }
}

#[test]
fn an_agent_told_by_a_yaml_file_signals_pidfiles_and_runs_commands() {
    let mut site = Site::start();
    let (pidfile, ran) = (site.folder.path().join("web.pid"), site.folder.path().join("ran"));
    let file = site.folder.path().join("conf-local.yaml");
    let yaml = format!(
        "watch:\n- {{components: [services/web], pidfile: {}, signal: HUP}}\n\
         - {{components: [services/api], command: [sh, -c, 'cat \"$CONF_EXPORT/services/api/latest/round\" >> {}']}}\n",
        pidfile.display(),
        ran.display()
    );
    fs::write(&file, yaml).expect("the folder can be written");
    site.hosts[0].daemon.argument("--config");
    site.hosts[0].daemon.argument(&file);
    site.hosts[0].daemon.restart();
    let reader = Reader::start(&site.host().export());
    fs::write(&pidfile, format!("{}\n", reader.pid())).expect("the folder can be written");
    let sequence = site.push("services/web", "round", "1\n");
    assert!(reader.told().sequence >= sequence);
    site.push("services/api", "round", "2\n");
    tests::eventually("the command to have run", || {
        let said = fs::read_to_string(&ran).unwrap_or_default();
        if said == "2\n" { Ok(()) } else { Err(said) }
    });
    assert!(reader.all_told().is_empty());
    // Another process, another number in the file.
    let other = Reader::start(&site.host().export());
    fs::write(&pidfile, format!("{}\n", other.pid())).expect("the folder can be written");
    site.push("services/web", "round", "3\n");
    other.told();
    assert!(reader.all_told().is_empty());
}
