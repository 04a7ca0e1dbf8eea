//! The rendered user data, run by Debian's cloud-init on machines with systemd: packages are
//! installed, daemons speak TLS with tokens, a push signals a job.
//!
//! A machine is a container. AWS is `tests/terraform/aws.py`: the metadata of instances, and SSM and
//! S3 with the rights of each machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    Docker, System, debs,
    program::{Daemon, command, run, text},
    terraform::{Rendered, checker, render, variables},
    wait::eventually_within,
};

/// A machine has so long for a boot, which installs packages, on a machine that is busy.
const BOOT: Duration = Duration::from_secs(300);
/// What the last run of the setup has said. systemd forgets which run that was once it has ended.
const LAST_RUN: &str = "journalctl --unit conf-setup --output cat | \
                        awk '/^Starting conf-setup/ { said = \"\" } { said = said $0 \"\\n\" } END { printf \"%s\", said }'";
const METADATA: &str = "169.254.169.254";

/// The whole story, on five machines that stay: their first boot in the wrong order and with cuts,
/// a push, second boots, and what each may not read.
#[test]
#[ignore = "packaging: five machines with systemd"]
fn a_fleet_sets_itself_up_and_a_push_signals_a_job() {
    let fleet = Fleet::new(&variables());
    // Hosts come first, and wait for what conf-master's machine writes.
    for name in ["job-1", "job-2", "slave", "consul"] {
        fleet.start(name);
    }
    fleet.says("job-1", "waits for the parameter /conf/shared/ca");

    // Each cut is a power cut of the machine in the middle of a step. The next boot completes it.
    fleet.start("master");
    for step in [
        "installs conf-master",
        "makes a certificate for DNS:slave",
        "starts conf-master.service",
        "wrote the parameter /conf/slave/token",
    ] {
        // A boot that goes on where the one before was cut may be beyond this step already.
        fleet.says("master", &format!("{step}\\|: done:"));
        fleet.docker.run(["kill", "master"]);
        fleet.docker.run(["start", "master"]);
    }
    for name in ["master", "consul", "slave", "job-1", "job-2"] {
        fleet.done(name);
    }
    fleet.nobody_asked_for_more();

    push(&fleet, "8080");
    for name in ["job-1", "job-2"] {
        fleet.job_says(name, "\"port\": 8080");
    }
    // The pointer is in Consul, over TLS, with a token that may write it and one that may read it.
    let key = "configurations/snapshots/main/v1";
    let ask = |token: &str, more: &str| {
        format!(
            "curl -sf --cacert /etc/conf-local/ca.crt -H \"X-Consul-Token: $(cat {token})\" {more} https://consul.conf.internal:8501/v1/kv/{key}"
        )
    };
    fleet.on("job-1").sh(&ask("/etc/conf-local/consul.token", ""));
    assert!(!fleet.on("job-1").try_sh(&ask("/etc/conf-local/consul.token", "-X PUT -d x")).status.success());
    assert!(
        !fleet
            .on("job-1")
            .try_sh(&format!("curl -sf --cacert /etc/conf-local/ca.crt https://consul.conf.internal:8501/v1/kv/{key}"))
            .status
            .success()
    );
    problems(&fleet);

    rights(&fleet);
    second_boot(&fleet);
    another_package(&fleet);
    certificates(&fleet);
}

/// A second boot of every machine: nothing is made again, nothing is lost, and the daemons come
/// back while SSM is away.
fn second_boot(fleet: &Fleet) {
    let before = state(fleet);
    fleet.set(|fleet| fleet["away"] = json!(true));
    for name in ["job-1", "slave", "consul", "master"] {
        fleet.docker.run(["restart", name]);
    }
    for name in ["master", "consul", "slave", "job-1"] {
        fleet.done(name);
    }
    fleet.set(|fleet| fleet["away"] = json!(false));
    assert_eq!(state(fleet), before);
    push_again(fleet, "9191");
    for name in ["job-1", "job-2"] {
        fleet.job_says(name, "\"port\": 9191");
    }
    problems(fleet);
}

/// What must be the same after a boot: the file system, the keys, the tokens.
fn state(fleet: &Fleet) -> String {
    let of_master = "blkid --probe /dev/disk/by-id/*master; cd /var/lib/conf-volume; sha256sum setup/ca.key tls/*.crt master/central.git.key.pub; \
                     find setup/published -type f -exec sha256sum {} +; cat /etc/fstab";
    let of_host = "sha256sum /etc/conf-local/* /var/lib/conf-local/identity";
    format!("{}{}", fleet.on("master").sh(of_master), fleet.on("job-1").sh(of_host))
}

/// A package whose sum is not the given one is not installed, and what runs goes on.
fn another_package(fleet: &Fleet) {
    let good = fleet.user_data("job-2");
    let sum = good
        .lines()
        .find_map(|line| line.trim().strip_prefix("PACKAGE_SHA256='"))
        .unwrap()
        .trim_end_matches('\'')
        .to_owned();
    fleet.set_user_data("job-2", &good.replace(&sum, &"e".repeat(64)));
    fleet.docker.run(["restart", "job-2"]);
    fleet.says("job-2", &format!("has the SHA-256 {sum}, and not eeee"));
    push_again(fleet, "9292");
    fleet.job_says("job-2", "\"port\": 9292");
    fleet.set_user_data("job-2", &good);
    fleet.docker.run(["restart", "job-2"]);
    fleet.done("job-2");
}

/// A certificate that is about to end is made anew, and reaches the server that uses it.
fn certificates(fleet: &Fleet) {
    let serial =
        "openssl s_client -connect slave.conf.internal:7401 </dev/null 2>/dev/null | openssl x509 -noout -serial";
    let before = fleet.on("job-1").sh(serial);
    for name in ["master", "slave"] {
        // As if 30 days were 400.
        fleet.on(name).sh("sed -i 's/^DAYS_BEFORE_END=30/DAYS_BEFORE_END=400/' /usr/local/lib/conf-setup/common.sh; systemctl start conf-setup");
    }
    fleet
        .on("job-1")
        .eventually("the new certificate to be shown", &format!("[ \"$({serial})\" != '{}' ]", before.trim()));
    push_again(fleet, "9393");
    fleet.job_says("job-1", "\"port\": 9393");
}

/// What a machine may not read, by the program that its setup uses.
fn rights(fleet: &Fleet) {
    let all: Vec<&str> = fleet.rendered.parameters.keys().map(String::as_str).collect();
    let reads = |machine: &str| -> BTreeMap<String, String> {
        let get = format!(
            "aws --endpoint-url http://{METADATA}:4566 --region eu-central-1 ssm get-parameter --with-decryption --name"
        );
        let script = format!(
            "for name in {}; do {{ answer=$({get} /conf/$name 2>&1) && echo $name yes || echo $name \"$(tr -d '\\n' <<<\"$answer\")\"; }} & done; wait",
            all.join(" ")
        );
        let answers = fleet.on(machine).sh(&script);
        answers
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, answer)| (name.to_owned(), answer.to_owned()))
            .collect()
    };
    let may = |machine: &str, parameter: &str| match machine {
        "master" => false,
        "slave" | "consul" => parameter.starts_with("shared/") || parameter.starts_with(&format!("{machine}/")),
        _ => parameter.starts_with("shared/") || parameter.starts_with("jobs/"),
    };
    for machine in ["master", "slave", "consul", "job-1"] {
        let answers = reads(machine);
        for parameter in &all {
            let answer = &answers[*parameter];
            assert_eq!(answer == "yes", may(machine, parameter), "{machine} reads {parameter}: {answer}");
            assert!(answer == "yes" || answer.contains("AccessDenied"), "{machine} reads {parameter}: {answer}");
        }
    }
    // No secret is in the user data, nor in what is left on conf-master's disk.
    let secrets = fleet.on("job-1").sh("cat /etc/conf-local/token /etc/conf-local/consul.token");
    for secret in secrets.lines() {
        assert!(secret.len() > 20, "{secrets}");
        assert!(!fleet.rendered.user_data.values().any(|text| text.contains(secret)));
        assert!(
            !fleet
                .on("master")
                .try_sh(&format!("grep -rF {secret} /etc /var/log /var/lib/conf-volume --exclude=consul-jobs"))
                .status
                .success()
        );
        let readable = format!(
            "find / -xdev -type f -perm -o+r -not -path '/proc/*' -not -path '/sys/*' -exec grep -lF {secret} {{}} +"
        );
        assert_eq!(text(&fleet.on("job-1").try_sh(&readable)), "");
    }
}

/// Every daemon is content.
fn problems(fleet: &Fleet) {
    for name in ["job-1", "job-2"] {
        fleet.on(name).eventually("no problem on the host", "conf-local status | tee /dev/stderr | grep 'no problems'");
    }
}

/// What `terraform output push` prints, typed on conf-master's machine, which stands for the end of
/// a session of SSM.
fn push(fleet: &Fleet, port: &str) {
    assert!(fleet.rendered.push.contains(port));
    let first = fleet.rendered.push.split("# Every later change").next().unwrap();
    let first = first.replace("aws ssm", &format!("aws --endpoint-url http://{METADATA}:4566 ssm"));
    fleet.on("master").sh(&format!(
        "export AWS_ACCESS_KEY_ID=ASIAPEOPLE AWS_SECRET_ACCESS_KEY=x; mkdir -p /root/admin; cd /root/admin\n{first}"
    ));
}

fn push_again(fleet: &Fleet, port: &str) {
    let later = fleet.rendered.push.split("# Every later change").nth(1).unwrap();
    let later = later.split_once('\n').unwrap().1.replace("9090", port);
    let script = format!(
        "cd /root/admin; export CONF_MASTER_URL=https://localhost:7400 CONF_MASTER_CA=$PWD/ca.crt CONF_MASTER_TOKEN_FILE=$PWD/admin.token; cd work\n{later}"
    );
    fleet.on("master").sh(&script);
}

/// A volume is formatted once, and only where nothing has ever been on it.
#[test]
#[ignore = "packaging: a machine with systemd"]
fn a_volume_that_holds_anything_is_never_formatted() {
    let fleet = Fleet::new(&variables());
    let volume = fleet.volume.clone();
    // Somebody's bytes, far from the first ones.
    volume.write(1024 * 1024, b"somebody's data");
    fleet.start("master");
    fleet.says("master", "has no file system that Linux knows, and is not empty: it is left as it is");
    assert!(volume.read(1024 * 1024, 15) == b"somebody's data" && volume.read(1080, 2) == [0, 0]);

    // An empty one, and a cut while the file system is made.
    volume.write(1024 * 1024, &[0; 15]);
    fleet.on("master").sh("mv /sbin/mkfs.ext4 /sbin/mkfs.real; printf '#!/bin/sh\nprintf junk | dd of=$(echo /dev/disk/by-id/*master) bs=1 seek=70000 conv=notrunc 2>/dev/null\nkill -9 $PPID\n' >/sbin/mkfs.ext4; chmod +x /sbin/mkfs.ext4");
    fleet.on("master").try_sh("systemctl restart conf-setup");
    assert_eq!(volume.read(70_000, 4), b"junk");
    fleet.on("master").sh("mv /sbin/mkfs.real /sbin/mkfs.ext4");
    fleet.docker.run(["restart", "master"]);
    fleet.done("master");

    // The volume of before at another machine: what is on it stays, also where the user of
    // conf-master has another number there.
    let key = fleet.on("master").sh("cat /var/lib/conf-volume/master/central.git.key.pub");
    fleet.on("master").sh("systemctl stop conf-master; chown -R 4242:4242 /var/lib/conf-volume/master");
    fleet.docker.run(["rm", "--force", "master"]);
    fleet.start("master");
    fleet.done("master");
    assert_eq!(fleet.on("master").sh("cat /var/lib/conf-volume/master/central.git.key.pub"), key);
    assert_eq!(fleet.on("master").sh("find /var/lib/conf-volume/master ! -user conf-master"), "");
}

/// A machine whose rights are missing says which, at once.
#[test]
#[ignore = "packaging: a machine with systemd"]
fn a_missing_right_is_told_where_it_is_missed() {
    let fleet = Fleet::new(&variables());
    fleet.set(|fleet| fleet["machines"]["consul"]["policy"] = json!("{\"Statement\": []}"));
    fleet.start("consul");
    fleet.says("consul", "s3://packages/consul.zip");
    fleet.says("consul", "waits for");
    let policy = fleet.rendered.policies["consul"].replace("/shared/", "/other/");
    fleet.set(|fleet| fleet["machines"]["consul"]["policy"] = json!(policy));
    fleet.says("consul", "the parameter /conf/shared/ca .*: may not be read");
    fleet.says("consul", "See the role of this instance, and the policy of the KMS key");
}

/// Five machines, their network, and what stands for AWS.
struct Fleet {
    rendered: Rendered,
    volume: Volume,
    file: PathBuf,
    log: PathBuf,
    _aws: Daemon,
    docker: Docker,
    folder: TempDir,
}

impl Fleet {
    fn new(given: &Value) -> Self {
        let folder = TempDir::new().unwrap();
        let packages = packages(folder.path());
        let mut given = given.clone();
        let mut objects = serde_json::Map::new();
        for (name, path) in &packages {
            let file = path.file_name().unwrap().to_str().unwrap();
            given["packages"][name] = json!({"url": format!("s3://packages/{file}"), "sha256": sum(path)});
            objects.insert(format!("packages/{file}"), json!(path));
        }
        let rendered = render(&given).unwrap_or_else(|said| panic!("{said}"));

        let docker = Docker::start();
        docker.make_system_image(
            "machine",
            &["cloud-init", "awscli", "python3-cffi-backend", "locales", "openssh-server"],
        );
        docker.run(["network", "create", "--subnet", "10.64.0.0/24", "fleet"]);
        let machines: serde_json::Map<String, Value> = (rendered.user_data.iter())
            .map(|(name, text)| {
                let packed = packed(folder.path(), text);
                (
                    name.clone(),
                    json!({"address": address(name), "policy": rendered.policies[name], "user_data": packed}),
                )
            })
            .chain([(
                "people".to_owned(),
                json!({"address": "", "user_data": "", "policy":
                "{\"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"*\", \"Resource\": \"*\"}]}"}),
            )])
            .collect();
        let (file, log) = (folder.path().join("fleet.json"), folder.path().join("requests.jsonl"));
        let fleet = json!({
            "metadata": [METADATA, 80], "api": [METADATA, 4566], "moto": 5555, "account": "123456789012", "region": "eu-central-1",
            "key": rendered.key, "log": log, "machines": machines, "objects": objects, "away": false,
        });
        fs::write(&file, fleet.to_string()).unwrap();
        fs::write(
            folder.path().join("aws.conf"),
            format!("[Manager]\nDefaultEnvironment=AWS_ENDPOINT_URL=http://{METADATA}:4566\n"),
        )
        .unwrap();
        // cloud-init's generator looks for the first line as it stands.
        let cloud = json!({
            "datasource": {"Ec2": {"metadata_urls": [format!("http://{METADATA}")], "strict_id": false, "max_wait": 30, "timeout": 5}},
            "network": {"config": "disabled"},
            "locale": "C.UTF-8",
        });
        let cloud = cloud.as_object().unwrap().iter().map(|(key, value)| format!("{key}: {value}\n"));
        fs::write(
            folder.path().join("95-test.cfg"),
            format!("datasource_list: [ Ec2 ]\n{}", cloud.collect::<String>()),
        )
        .unwrap();

        // In the network of the containers.
        let inside = format!("/proc/{}/ns/net", docker.network_process());
        let inside = format!("--net={inside}");
        run_good(command_of(
            "nsenter",
            folder.path(),
            &[&inside, "ip", "address", "add", METADATA, "dev", "lo"].map(Path::new),
        ));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform/aws.py");
        let arguments =
            [inside.into(), checker("moto").into_os_string(), script.into_os_string(), file.clone().into_os_string()];
        let mut aws = Daemon::new("aws", PathBuf::from("/usr/bin/nsenter"), folder.path(), arguments);
        aws.start();
        let volume = Volume::new(folder.path());
        Fleet { rendered, volume, file, log, _aws: aws, docker, folder }
    }

    /// Starts a machine for the first time.
    fn start(&self, name: &str) {
        let file = |file: &str, to: &str| format!("{}:{to}:ro", self.folder.path().join(file).display());
        let mut arguments = vec!["--network=fleet".to_owned(), format!("--ip={}", address(name))];
        // No name server is there, which cloud-init shall hear at once.
        arguments.extend(["--dns=127.0.0.1", "--dns-option=timeout:1", "--dns-option=attempts:1"].map(str::to_owned));
        for (file, to) in [
            (file("aws.conf", "/etc/systemd/system.conf.d/aws.conf"), ""),
            (file("95-test.cfg", "/etc/cloud/cloud.cfg.d/95-test.cfg"), ""),
        ] {
            arguments.push(format!("--volume={file}{to}"));
        }
        for server in ["master", "slave", "consul"] {
            arguments.push(format!("--add-host={server}.conf.internal:{}", address(server)));
        }
        if name == "master" {
            arguments.push(format!(
                "--device={}:/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0master",
                self.volume.device
            ));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.docker.boot_system(name, "machine", &arguments);
    }

    fn on(&self, name: &str) -> System<'_> {
        self.docker.system(name)
    }

    /// Waits until the last run of a machine's setup says this; `what` is a basic regular expression.
    fn says(&self, name: &str, what: &str) {
        self.wait(name, &format!("{name} to say “{what}”"), &format!("{LAST_RUN} | grep -- '{what}'"));
    }

    fn done(&self, name: &str) {
        self.says(name, &format!("conf-setup: {name}: done"));
        self.wait(name, &format!("cloud-init of {name} to be done"), "cloud-init status | grep 'status: done'");
    }

    fn job_says(&self, name: &str, what: &str) {
        self.wait(
            name,
            &format!("the job of {name} to say {what}"),
            &format!("journalctl --unit conf-test-job --output cat | grep -F -- '{what}'"),
        );
    }

    fn wait(&self, name: &str, what: &str, script: &str) {
        eventually_within(BOOT, what, || {
            let output = self.on(name).try_sh(script);
            if output.status.success() {
                return Ok(());
            }
            Err(text(&self.on(name).try_sh("journalctl --unit conf-setup --output cat | tail -n 60; tail -n 5 /var/log/cloud-init-output.log; cloud-init status --long")))
        });
    }

    fn set(&self, change: impl FnOnce(&mut Value)) {
        let mut fleet: Value = serde_json::from_str(&fs::read_to_string(&self.file).unwrap()).unwrap();
        change(&mut fleet);
        let new = self.folder.path().join("fleet.new");
        fs::write(&new, fleet.to_string()).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    fn user_data(&self, name: &str) -> String {
        self.rendered.user_data[name].clone()
    }

    fn set_user_data(&self, name: &str, text: &str) {
        let packed = packed(self.folder.path(), text);
        self.set(|fleet| fleet["machines"][name]["user_data"] = json!(packed));
    }

    fn nobody_asked_for_more(&self) {
        let log = fs::read_to_string(&self.log).unwrap();
        assert!(log.lines().count() > 30);
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("\"allowed\": false")).collect();
        assert!(refused.is_empty(), "{refused:#?}");
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The loop device is free when no container has it.
        let _ = run(self.docker.command(["rm", "--force", "master"]));
        self.volume.detach();
    }
}

/// A small disk in a file.
#[derive(Clone)]
struct Volume {
    device: String,
    file: PathBuf,
}

impl Volume {
    fn new(folder: &Path) -> Self {
        let file = folder.join("volume");
        fs::File::create(&file).unwrap().set_len(256 * 1024 * 1024).unwrap();
        let device = run_good(command_of("losetup", folder, &[Path::new("--find"), Path::new("--show"), &file]));
        Volume { device: device.trim().to_owned(), file }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let device = fs::File::options().write(true).open(&self.device).unwrap();
        device.write_all_at(bytes, at).unwrap();
        device.sync_all().unwrap();
    }

    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; length];
        fs::File::open(&self.device).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn detach(&self) {
        let _ =
            run(command_of("losetup", self.file.parent().unwrap(), &[Path::new("--detach"), Path::new(&self.device)]));
    }
}

fn address(name: &str) -> &str {
    match name {
        "master" => "10.64.0.11",
        "slave" => "10.64.0.12",
        "consul" => "10.64.0.13",
        "job-1" => "10.64.0.21",
        _ => "10.64.0.22",
    }
}

/// The packages, by their names in the variable `packages`.
fn packages(folder: &Path) -> BTreeMap<&'static str, PathBuf> {
    let mut packages = BTreeMap::from(
        ["conf_master", "conf_slave", "conf_local"].map(|name| (name, debs::of(&name.replace('_', "-")))),
    );
    // As HashiCorp packs it: the program alone.
    let consul = tests::Consul::program();
    let zip = folder.join("consul.zip");
    let pack =
        "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED).write(sys.argv[2], 'consul')";
    run_good(command_of("python3", folder, &[Path::new("-c"), Path::new(pack), &zip, &consul]));
    packages.insert("consul", zip);
    packages
}

/// User data as terraform gives it to EC2: packed, in base64.
fn packed(folder: &Path, text: &str) -> String {
    let file = folder.join("user-data");
    fs::write(&file, text).unwrap();
    let file = file.display();
    run_good(command_of("sh", folder, &["-c", &format!("gzip -9 <'{file}' | base64 -w0")].map(Path::new)))
}

fn sum(path: &Path) -> String {
    run_good(command_of("sha256sum", Path::new("/"), &[path])).split(' ').next().unwrap().to_owned()
}

fn command_of(program: &str, folder: &Path, arguments: &[&Path]) -> Command {
    let mut command = command(program, folder);
    command.args(arguments);
    command
}

#[track_caller]
fn run_good(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
