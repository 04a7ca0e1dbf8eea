//! A real nginx that reads what conf-local places, checks and tells it; its certificate and key are secrets.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::Signal;
use tests::{
    Plan, Site, eventually,
    http::Address,
    own_address,
    program::{command, run, signal_pid, spawn, text},
    site::{DATACENTER, instance},
};

const WEB: &str = "services/web/master";

/// The program: what `tests/run` names, or the one that `tests/get-nginx` finds.
pub(crate) fn nginx() -> PathBuf {
    if let Some(named) = std::env::var_os("NGINX") {
        return named.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-nginx");
    let output = tests::program::run(command(script, Path::new("/")));
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// One that runs; it ends with the test. Its workers end only when it is asked to end: killed, it
/// would leave them behind, with whatever files they have open.
pub(crate) struct Nginx(pub(crate) Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        signal_pid(self.0.id(), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// `nginx.conf` with everything that nginx writes in a folder of its own.
pub(crate) fn main_file(prefix: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("    {name}_temp_path {prefix}/{name};\n")).concat();
    format!(
        "user root;\ndaemon off;\nworker_processes 2;\npid {prefix}/nginx.pid;\nerror_log {prefix}/error.log;\nevents {{}}\n\
         http {{\n    access_log off;\n{temporary}    include sites/*.conf;\n}}\n"
    )
}

/// Port 8443 of the same address is for TLS.
fn server(address: SocketAddr, round: u32) -> String {
    let ip = address.ip();
    format!(
        "server {{\n    listen {address};\n    listen {ip}:8443 ssl;\n    ssl_certificate tls/certificate.pem;\n    \
         ssl_certificate_key tls/key.pem;\n    location / {{ return 200 \"round {round}\"; }}\n}}\n"
    )
}

/// The datacenter with its one host, and the certificate that is made for it.
fn datacenter(key: &str) -> String {
    format!(
        "{}secrets:\n  tls: {{generate: {{x509: {{names: [web.example.com], days: 30}}}}, readers: [services/web]}}\n\
         inventories:\n  hosts:\n    web-1: {{key: {}}}\n",
        instance(),
        key.trim()
    )
}

/// The page over TLS, as who trusts this certificate alone gets it.
fn secure_page(address: SocketAddr, certificate: &Path) -> Result<String, String> {
    let mut curl = command("curl", Path::new("/"));
    curl.args(["-sS", "--noproxy", "*", "--max-time", "10", "--resolve"]);
    curl.arg(format!("web.example.com:8443:{}", address.ip())).arg("--cacert").arg(certificate);
    curl.arg("https://web.example.com:8443/");
    let output = run(curl);
    if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
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
    let mut host = site.make_host(1);
    let key = host.run(&["identity", "--state", &path(&host.state)]).stdout;
    let key = String::from_utf8(key).expect("UTF-8");
    let change =
        site.work.change().file(format!("datacenters/{DATACENTER}").as_str(), "datacenter.yaml", datacenter(&key));
    let change =
        change.file(WEB, "nginx.conf", main_file(&prefix_text)).file(WEB, "sites/web.conf", server(address, 0));
    let change = change.file(WEB, "tls/certificate.pem.j2", "{{ secrets.tls.certificate }}");
    change.file(WEB, "tls/key.pem.j2", "{{ secrets.tls.key }}").land();

    let file = host.home.join("conf-local.yaml");
    let configuration = format!(
        r#"export:
  - {{component: services/web, path: {place_text}, mode: copy}}
check:
  - component: services/web
    command: [sh, -c, '"{program_text}" -t -q -e {prefix_text}/check.log -p {prefix_text} -c "$CONF_STAGED/nginx.conf"']
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
        // What it has to say it writes to its log.
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
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
    let mode = |file: &str| fs::metadata(place.join(file)).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((mode("tls/key.pem"), mode("nginx.conf")), (0o600, 0o444));
    let first = home.join("first.pem");
    fs::copy(place.join("tls/certificate.pem"), &first).expect("it is there");
    assert_eq!(secure_page(address, &first).as_deref(), Ok("round 0"));

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
            // What nginx said could quote the key that it was given.
            assert!(
                fault.contains("did not pass") && fault.contains("exit status: 1") && !fault.contains("emerg"),
                "{fault}"
            );
            assert_eq!(fs::read_to_string(place.join("sites/web.conf")).expect("it is there"), server(address, 100));
            serves(100);
            // A template that cannot be rendered does not even land.
            let lost = "server_name {{ settings.domain }};\n";
            site.work
                .change()
                .file(WEB, "sites/more.conf.j2", lost)
                .push()
                .refused(&["sites/more.conf.j2:1", "domain"]);
            serves(100);
            change_to(&site, &server(address, 101));
            serves(101);
            let rotated = site.master.run(&["secret", "rotate", DATACENTER, "tls"]);
            assert!(rotated.status.success(), "{}", text(&rotated));
            site.wait_applied(site.master.sequence());
            eventually("nginx to show the new certificate", || {
                secure_page(address, &place.join("tls/certificate.pem")).map(|page| assert_eq!(page, "round 101"))
            });
            // Workers that began before take a moment to end.
            eventually("the old certificate to be gone", || match secure_page(address, &first) {
                Ok(page) => Err(page),
                Err(_) => Ok(()),
            });
        }));
        over.store(true, Ordering::Relaxed);
        let counted = client.join().expect("it does not panic");
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        counted
    });
    println!("103 changes, {asked} requests");
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
