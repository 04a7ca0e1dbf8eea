//! The systems that the other tests install packages in.

use tests::Docker;

#[test]
#[ignore = "packaging: makes a Debian with debootstrap"]
fn a_container_runs_systemd_and_its_sandboxes() {
    let docker = Docker::start();
    docker.make_system_image("system", &[]);
    let system = docker.start_system("one", "system", &[]);
    assert_eq!(system.sh("ps -o comm= -p 1").trim(), "systemd");
    // A service's sandbox is real there: the hardening of a unit is tested, not only counted.
    let own = "systemd-run --quiet --wait --pipe -p DynamicUser=yes -p ProtectSystem=strict -p PrivateTmp=yes";
    assert_eq!(system.sh(&format!("touch /tmp/seen; {own} ls /tmp")), "");
    let refused = system.try_sh(&format!("{own} touch /etc/x"));
    assert!(!refused.status.success());
}
