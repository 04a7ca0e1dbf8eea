//! A real nginx that reads what conf-local places, checks and tells it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tests::{
    Plan, Site, eventually,
    http::Address,
    own_address,
    program::{command, spawn, text},
};

/// The program: what `tests/run` names, or the one that `tests/get-nginx` finds.
fn nginx() -> PathBuf {
    if let Some(named) = std::env::var_os("NGINX") {
        return named.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-nginx");
    let output = tests::program::run(command(script, Path::new("/")));
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// One that runs; it ends with the test.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `nginx.conf` with everything that nginx writes in a folder of its own.
fn main_file(prefix: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("    {name}_temp_path {prefix}/{name};\n")).concat();
    format!(
        "user root;\ndaemon off;\nworker_processes 2;\npid {prefix}/nginx.pid;\nerror_log {prefix}/error.log;\nevents {{}}\n\
         http {{\n    access_log off;\n{temporary}    include sites/*.conf;\n}}\n"
    )
}

fn server(address: std::net::SocketAddr, round: u32) -> String {
    format!("server {{\n    listen {address};\n    location / {{ return 200 \"round {round}\"; }}\n}}\n")
}

#[test]
fn nginx_answers_throughout_a_hundred_changes_and_keeps_its_pages_when_a_configuration_is_broken() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let (program, address) = (nginx(), own_address(8080));
    let home = site.folder.path().join("nginx");
    let (prefix, place) = (home.join("var"), home.join("etc"));
    fs::create_dir_all(&prefix).expect("the folder can be made");
    let path = |path: &Path| path.to_str().expect("text").to_owned();
    let (program_text, prefix_text, place_text) = (path(&program), path(&prefix), path(&place));
    let change = site.work.change().file("services/web/master", "nginx.conf", main_file(&prefix_text));
    change.file("services/web/master", "sites/web.conf", server(address, 0)).land();

    let mut host = site.make_host(1);
    let file = host.home.join("conf-local.yaml");
    let configuration = format!(
        r#"export:
  - {{component: services/web, path: {place_text}, mode: copy, file_mode: '0644'}}
check:
  - component: services/web
    command: [sh, -c, '{program_text} -t -q -e {prefix_text}/check.log -p {prefix_text} -c "$CONF_STAGED/nginx.conf"']
watch:
  - {{components: [services/web], pidfile: {prefix_text}/nginx.pid, signal: HUP}}
probe:
  - {{component: services/web, http: 'http://{address}/', retries: 5}}
"#
    );
    fs::write(&file, configuration).expect("the file can be written");
    host.daemon.argument("--config");
    host.daemon.argument(file);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());

    let mut start = command(&program, &home);
    start.args([
        "-e",
        &format!("{prefix_text}/error.log"),
        "-p",
        &prefix_text,
        "-c",
        &format!("{place_text}/nginx.conf"),
    ]);
    let running = spawn({
        start.stdin(Stdio::null());
        start
    });
    let running = Nginx(running.expect("nginx can be started"));
    let page = || -> Result<String, String> {
        let answer = Address::Tcp(address).get("/")?;
        if answer.status.is_success() { Ok(answer.text()) } else { Err(format!("{}", answer.status)) }
    };
    let serves = |round: u32| {
        eventually(&format!("nginx to serve round {round}"), || {
            let page = page()?;
            if page == format!("round {round}") { Ok(()) } else { Err(page) }
        });
    };
    serves(0);

    let over = AtomicBool::new(false);
    let (asked, failed) = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut asked, mut failed) = (0_u32, Vec::new());
            while !over.load(Ordering::Relaxed) {
                asked += 1;
                failed.extend(page().err());
            }
            (asked, failed)
        });
        // Also when a change fails, the other thread must come to its end.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=100 {
                change_to(&site, &server(address, round));
            }
            serves(100);
            // What nginx would not read does not reach it; the next good one does.
            let broken = "server {\n    listen nowhere at all;\n";
            change_to(&site, broken);
            let status = site.host().status().expect("it answers");
            let fault = status["faults"]["services/web/latest"].as_str().expect("a fault").to_owned();
            assert!(
                fault.contains("did not pass") && fault.contains("[emerg]") && fault.contains("sites/web.conf"),
                "{fault}"
            );
            assert_eq!(fs::read_to_string(place.join("sites/web.conf")).expect("it is there"), server(address, 100));
            serves(100);
            change_to(&site, &server(address, 101));
            serves(101);
        }));
        over.store(true, Ordering::Relaxed);
        let counted = client.join().expect("it does not panic");
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        counted
    });
    println!("102 changes, {asked} requests");
    assert!(failed.is_empty(), "{} of {asked} requests failed: {:?}", failed.len(), failed.first());
    assert!(asked > 200, "only {asked} requests");
    site.host().wait_status("be well", |status| {
        status["probes"][0]["passed"] == true && status["problems"] == serde_json::json!([])
    });
    drop(running);
}

fn change_to(site: &Site, server: &str) {
    site.push_and_wait("services/web", "sites/web.conf", server);
}
