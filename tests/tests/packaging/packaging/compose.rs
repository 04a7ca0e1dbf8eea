//! The images, and the datacenter that `packages/compose.yaml` starts of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{
    Consul, Docker, eventually_within,
    program::{command, run, text},
};

/// Starting a dozen containers on a busy machine, whose files are copied for each.
const START: Duration = Duration::from_secs(240);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Makes the images: of the daemons by `packages/images`, and one of the Consul of the tests.
fn make_images(docker: &Docker, folder: &Path) {
    docker.make_system_image("system", &[]);
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut images = command(root().join("packages/images"), Path::new(&home));
    images.args(["--build-arg", "DEBIAN=system"]).env("DOCKER_HOST", docker.host()).env("PATH", docker.path());
    let output = run(images);
    assert!(output.status.success(), "{}", text(&output));
    fs::copy(Consul::program(), folder.join("consul")).expect("it can be copied");
    let lines = "FROM system\nCOPY consul /usr/bin/\nENTRYPOINT [\"/usr/bin/consul\"]\n";
    fs::write(folder.join("Dockerfile"), lines).expect("the folder can be written");
    docker.run(["build", "--quiet", "--tag", "localhost/consul", &folder.display().to_string()]);
}

fn compose(docker: &Docker, home: &Path, arguments: &[&str]) -> Command {
    let program = tests::docker::printed_by("get-docker-compose", &[]);
    let modules =
        Path::new(&program).ancestors().nth(2).expect("it is in a folder bin").join("lib/python3/dist-packages");
    let mut compose = command(&program, home);
    compose.env("DOCKER_HOST", docker.host()).env("PYTHONPATH", modules).env("CONSUL_IMAGE", "localhost/consul");
    compose.env("SECONDS_BETWEEN_PUSHES", "1").args(["--project-name", "trial", "--file"]);
    compose.arg(root().join("packages/compose.yaml")).args(arguments);
    compose
}

#[test]
#[ignore = "packaging: builds images and starts a dozen containers"]
fn a_datacenter_by_compose_shows_changes_arriving() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let docker = Docker::start();
    make_images(&docker, home.path());
    let up = run(compose(&docker, home.path(), &["up", "--detach", "--no-color"]));
    assert!(up.status.success(), "{}", text(&up));

    eventually_within(START, "both jobs to be told of two changes", || {
        let said = text(&run(compose(&docker, home.path(), &["logs", "--no-color", "job-1", "job-2"])));
        let told =
            |job: &str| said.lines().filter(|line| line.starts_with(job) && line.contains("the port is 808")).count();
        if told("job-1") > 2 && told("job-2") > 2 {
            return Ok(());
        }
        Err(text(&run(compose(&docker, home.path(), &["logs", "--no-color", "--tail", "20"]))))
    });
    let inside = |service: &str, words: &[&str]| {
        let output = run(compose(&docker, home.path(), &[&["exec", "-T", service], words].concat()));
        assert!(output.status.success(), "{service} {words:?}: {}", text(&output));
        text(&output)
    };
    // What a start misses for a moment is over by itself.
    eventually_within(START, "a host to be without problems", || {
        let status = inside("job-1", &["conf-local", "status"]);
        if status.contains("no problems") { Ok(()) } else { Err(status) }
    });
    // Consul is the real one, and has the pointers of both conf-slaves.
    assert!(inside("consul", &["consul", "kv", "get", "configurations/services/web/latest"]).starts_with("master/"));
    // Nobody is root who need not be.
    for (service, user) in [("conf-master", "10001"), ("conf-slave-1", "10002"), ("conf-slave-2", "10002")] {
        let id = docker.run(["inspect", "--format", "{{.Config.User}}", &format!("trial_{service}_1")]);
        assert_eq!(id.trim(), format!("{user}:{user}"));
    }
    // A second `up` changes nothing: what is prepared stays.
    let again = run(compose(&docker, home.path(), &["up", "--detach", "--no-color"]));
    assert!(again.status.success(), "{}", text(&again));
    let setup = text(&run(compose(&docker, home.path(), &["logs", "--no-color", "setup"])));
    assert!(setup.contains("the trial is prepared"), "{setup}");
    let down = run(compose(&docker, home.path(), &["down", "--volumes", "--timeout", "10"]));
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(docker.run(["volume", "ls", "--quiet"]), "");
}
