//! The Debian packages, in real systems: installed, used, upgraded, purged.

use tests::{
    Consul, Docker, System,
    debs::{self, DAEMONS},
    page::{expect_printed, fenced},
    program::{run, text},
};

const PAGE: &str = include_str!("../../../../docs/packages.md");

/// Starts a system with the packages in /root/try-packages.
fn start<'d>(docker: &'d Docker, name: &str) -> System<'d> {
    docker.make_system_image("system", &[]);
    let system = docker.start_system(name, "system", &[]);
    system.sh("mkdir /root/try-packages");
    for daemon in DAEMONS {
        system.copy_in(&debs::of(daemon), "/root/try-packages/");
    }
    system
}

/// Types the blocks of the page under a heading, in a shell in /root/try-packages.
#[track_caller]
fn paste(system: &System<'_>, heading: &str, change: impl Fn(String) -> String) {
    let heading = format!("### {heading}");
    let expected = if heading.ends_with("Certificates") { Vec::new() } else { fenced(PAGE, &heading, "text") };
    for script in fenced(PAGE, &heading, "sh") {
        let printed = system.sh(&format!("exec 2>&1\ncd /root/try-packages\n{}", change(script)));
        expect_printed(&printed, &expected.concat());
    }
}

/// Makes the packages of a next version in the system, without building programs: the same content
/// under another number, and with `change` made to the unpacked package `$1` in the folder `deb`.
fn make_next(system: &System<'_>, version: &str, change: &str) {
    system.sh(&format!(
        "cd /root && rm -rf next && mkdir next
        for daemon in {}; do
            set -- $daemon
            dpkg-deb --raw-extract try-packages/$1_*.deb deb
            sed -i 's/^Version: .*/Version: {version}/' deb/DEBIAN/control
            {change}
            dpkg-deb --root-owner-group --build deb next/$1.deb >/dev/null
            rm -r deb
        done",
        DAEMONS.join(" ")
    ));
}

/// Expects nothing of the packages in the system but what dpkg keeps of a package that is gone.
#[track_caller]
fn expect_nothing_left(system: &System<'_>) {
    let found =
        system.sh("find / -xdev -name 'conf-master*' -o -xdev -name 'conf-slave*' -o -xdev -name 'conf-local*' \
         | grep -v -e ^/root/ -e ^/proc/ -e ^/var/log/ -e ^/var/cache/man/ || true; getent passwd conf-master conf-slave || true; \
         dpkg -l 'conf-*' 2>/dev/null | grep ^[a-z] || true");
    assert_eq!(found, "");
}

#[test]
#[ignore = "packaging: installs packages in a system"]
fn the_page_from_packages_to_a_signalled_process() {
    let docker = Docker::start();
    let system = start(&docker, "one");
    system.copy_in(&Consul::program(), "/usr/local/bin/consul");
    system.sh("systemd-run --quiet --unit consul consul agent -dev");
    system.eventually("Consul to answer", "curl -sf http://127.0.0.1:8500/v1/status/leader | grep :");

    let as_written = |script: String| script;
    paste(&system, "Install", as_written);
    paste(&system, "Certificates", as_written);
    paste(&system, "conf-master", as_written);
    paste(&system, "Tokens", as_written);
    // This system has a Consul, which the page says is to be used by leaving out a line.
    paste(&system, "conf-slave", |script| script.replace("consul: embedded\n", ""));
    paste(&system, "conf-local", as_written);
    paste(&system, "A first push", as_written);
    assert!(system.sh("consul kv get configurations/services/web/latest").starts_with("master/"));
    paste(&system, "A job, and a change", as_written);
    system.eventually("no problems", "conf-local status | grep -x 'no problems'");

    workers_run_in_the_sandbox(&system);
    manuals_and_completions_are_there(&system);
    units_are_hardened_as_the_page_says(&system);
    an_upgrade_restarts_what_runs_alone(&system);
    a_removal_keeps_and_a_purge_removes(&system);
}

/// conf-master reads schemas and templates in processes with limits and privileges of their own:
/// the unit must let them.
fn workers_run_in_the_sandbox(system: &System<'_>) {
    let push = "export CONF_MASTER_TOKEN_FILE=/var/lib/conf-master/central.git.token\ncd /root/try-packages/work\n\
                exec 2>&1\n";
    system.sh(&format!(
        "{push}echo '{{\"properties\": {{\"port\": {{\"type\": \"integer\", \"description\": \"the port\"}}}}}}' > \
         config.schema.json\necho 'listen {{{{ settings.port }}}}' > web.conf.j2\ngit add . && git commit -q -m 'web: a schema'\n\
         git push -q origin services/web/master\nconf-local wait services/web"
    ));
    system.eventually("the template", "grep -r 'listen 9090' /var/lib/conf-local/export/current/services/web/latest/");
    let refused = system.try_sh(&format!(
        "{push}echo 'port: many' > config.yaml\ngit commit -q -a -m 'web: a mistake'\ngit push -q origin services/web/master"
    ));
    assert!(text(&refused).contains("is not of type \"integer\""), "{}", text(&refused));
    system.sh("cd /root/try-packages/work && git reset -q --hard HEAD~1");
}

fn manuals_and_completions_are_there(system: &System<'_>) {
    for daemon in DAEMONS {
        let serve = if daemon == "conf-master" { "serve" } else { "run" };
        let page = system.sh(&format!("MANWIDTH=100 man {daemon}-{serve} | cat"));
        assert!(page.contains("--trusted-key") || page.contains("--repo"), "{page}");
        system.sh(&format!("bash -n /usr/share/bash-completion/completions/{daemon}"));
        system.sh(&format!("test -s /usr/share/zsh/vendor-completions/_{daemon}"));
        system.sh(&format!("test -s /usr/share/fish/vendor_completions.d/{daemon}.fish"));
        let kind = system.sh(&format!("ldd /usr/bin/{daemon} 2>&1 || true"));
        assert!(kind.contains("statically linked") || kind.contains("not a dynamic executable"), "{daemon}: {kind}");
    }
}

fn units_are_hardened_as_the_page_says(system: &System<'_>) {
    for daemon in DAEMONS {
        system.sh(&format!("systemd-analyze verify /usr/lib/systemd/system/{daemon}.service"));
        let counted = system.sh(&format!("systemd-analyze security {daemon} | tail -n 1"));
        let figure = counted.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a figure");
        let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{daemon}` | "))).expect("a row");
        let stated = row.rsplit('|').nth(1).expect("a cell").trim();
        assert_eq!(stated.split(':').next(), Some(figure), "{daemon} has another figure than docs/packages.md says");
        let most = if daemon == "conf-local" { 5.0 } else { 3.0 };
        assert!(figure.parse::<f64>().expect("a number") <= most, "{daemon}: {figure}");
    }
}

fn an_upgrade_restarts_what_runs_alone(system: &System<'_>) {
    let pid = |daemon: &str| system.sh(&format!("systemctl show --property MainPID --value {daemon}"));
    system.sh("systemctl stop conf-slave");
    let files = "cd / && md5sum /etc/conf-*/* /etc/default/conf-* /var/lib/conf-local/identity \
                 /var/lib/conf-master/central.git.key; readlink -f /var/lib/conf-local/export/current";
    let (files_before, master, local) = (system.sh(files), pid("conf-master"), pid("conf-local"));

    make_next(system, "0.2.0", "");
    system.sh("apt-get install -y /root/next/*.deb");
    assert_eq!(system.sh("dpkg-query -W -f '${Version} ' conf-master conf-slave conf-local"), "0.2.0 0.2.0 0.2.0 ");
    assert_eq!(system.sh(files), files_before);
    system.sh("systemctl is-active conf-master conf-local");
    assert_ne!(pid("conf-master"), master);
    assert_ne!(pid("conf-local"), local);
    assert_eq!(text(&system.try_sh("systemctl is-active conf-slave")).trim(), "inactive", "it was stopped by hand");
    assert_eq!(system.sh("systemctl is-enabled conf-slave").trim(), "enabled");

    system.sh("systemctl start conf-slave");
    system
        .sh("cd /root/try-packages/work && echo 'port: 7070' > config.yaml && git commit -q -a -m 'web: a third port'
        CONF_MASTER_TOKEN_FILE=/var/lib/conf-master/central.git.token git push -q origin services/web/master");
    system.eventually("the job's signal", "journalctl -o cat -u web | grep 'the port is 7070'");
}

fn a_removal_keeps_and_a_purge_removes(system: &System<'_>) {
    system.sh("systemctl stop web consul; apt-get remove -y conf-master conf-slave conf-local");
    system.sh(
        "test -e /etc/conf-slave/token -a -e /etc/conf-local/config.yaml -a -e /var/lib/conf-master/central.git.key",
    );
    system.sh("test -e /var/lib/conf-local/export/current/services/web/latest/config.yaml; ! pgrep -x conf-master");
    system.sh("apt-get purge -y conf-master conf-slave conf-local");
    expect_nothing_left(system);
}

/// Both that an administrator changed a file and the package has another one, and that the file
/// stood there before the package.
#[test]
#[ignore = "packaging: installs packages in a system"]
fn a_changed_configuration_file_survives() {
    let docker = Docker::start();
    let system = start(&docker, "changed");
    // Written beforehand, by whoever prepares machines.
    system.sh("mkdir /etc/conf-slave && echo 'datacenter: first/v1' > /etc/conf-slave/config.yaml");
    let debs = "/root/try-packages/*.deb";
    let refused = system.try_sh(&format!("apt-get install -y {debs} < /dev/null"));
    assert!(!refused.status.success() && text(&refused).contains("conffile prompt"), "{}", text(&refused));
    assert_eq!(system.sh("cat /etc/conf-slave/config.yaml"), "datacenter: first/v1\n");
    system.sh("dpkg --configure -a --force-confold");
    assert_eq!(system.sh("cat /etc/conf-slave/config.yaml"), "datacenter: first/v1\n");
    system.sh("test -s /etc/conf-slave/config.yaml.dpkg-dist");

    // Changed since, while the next package has another one.
    system.sh("echo '# mine' >> /etc/conf-local/config.yaml");
    make_next(&system, "0.3.0", "echo '# new in 0.3.0' >> deb/etc/$1/config.yaml");
    let next = "/root/next/*.deb";
    let refused = system.try_sh(&format!("apt-get install -y {next} < /dev/null"));
    assert!(!refused.status.success() && text(&refused).contains("conffile prompt"), "{}", text(&refused));
    assert_eq!(system.sh("tail -n 1 /etc/conf-local/config.yaml"), "# mine\n");
    // What nobody changed is the new one.
    system.sh("dpkg --configure -a --force-confold");
    assert_eq!(system.sh("tail -n 1 /etc/conf-master/config.yaml"), "# new in 0.3.0\n");
    assert_eq!(system.sh("tail -n 1 /etc/conf-local/config.yaml"), "# mine\n");
    assert_eq!(system.sh("tail -n 1 /etc/conf-local/config.yaml.dpkg-dist"), "# new in 0.3.0\n");
    // A key that nobody knows ends the daemon at once, with its line, and systemd does not go on trying.
    system.sh("echo 'hots: x' >> /etc/conf-local/config.yaml");
    assert!(!system.try_sh("systemctl start conf-local").status.success());
    let told = system.journal("conf-local");
    assert!(told.contains("unknown key 'hots'") && told.contains("host"), "{told}");
    assert_eq!(system.sh("systemctl show --property NRestarts --value conf-local").trim(), "0");
    system.sh("systemctl reset-failed; apt-get purge -y conf-master conf-slave conf-local");
    expect_nothing_left(&system);
}

/// Where no systemd runs, as when an image of a machine is made.
#[test]
#[ignore = "packaging: installs packages in a container"]
fn a_fresh_root_without_systemd() {
    let docker = Docker::start();
    docker.make_system_image("system", &[]);
    let volumes = DAEMONS.map(|daemon| format!("--volume={}:/debs/{daemon}.deb:ro", debs::of(daemon).display()));
    let script = "apt-get install -y /debs/*.deb && conf-master --version && conf-slave --version && conf-local --version && \
                  runuser -u conf-master -- conf-master init --repo /var/lib/conf-master/central.git && \
                  apt-get purge -y conf-master conf-slave conf-local && ls -d /var/lib/conf-* /etc/conf-* /etc/default/conf-*";
    let mut docker_run = docker.command(["run", "--rm"]);
    docker_run.args(volumes).args(["system", "bash", "-c", script]);
    docker_run.env("LC_ALL", "C");
    let printed = text(&run(docker_run));
    for daemon in DAEMONS {
        let version = format!("{daemon} {}", env!("CARGO_PKG_VERSION"));
        assert!(printed.contains(&version), "{printed}");
    }
    assert!(printed.contains("ssh-ed25519 "), "{printed}");
    for gone in ["/var/lib/conf-*", "/etc/conf-*", "/etc/default/conf-*"] {
        assert!(printed.contains(&format!("cannot access '{gone}'")), "{printed}");
    }
}
