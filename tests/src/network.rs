//! A network of a test's own, in which packets are dropped: both sides of a connection hear nothing
//! more, and nobody tells them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use crate::program::{command, run, spawn, text};

/// Set in a test that runs in a network of its own.
const INSIDE: &str = "CONF_TEST_NETWORK";

/// The network of this process, which no other test shares.
#[derive(Debug)]
pub struct Network {
    iptables: PathBuf,
}

impl Network {
    /// Runs the test of this name in a network of its own, in another process: there this returns
    /// the network. Here it returns `None` once the test has ended well.
    ///
    /// # Panics
    ///
    /// Where the test fails.
    pub fn own(test: &str) -> Option<Self> {
        if std::env::var_os(INSIDE).is_some() {
            let up = run({
                let mut ip = command("ip", Path::new("/"));
                ip.args(["link", "set", "lo", "up"]);
                ip
            });
            assert!(up.status.success(), "{}", text(&up));
            return Some(Network { iptables: iptables() });
        }
        // Found here, where there is a way to Debian's packages.
        let iptables = iptables();
        let mut again = Command::new("setpriv");
        again.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--"]);
        again.arg(std::env::current_exe().expect("a test knows its own program"));
        again.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
        again.env(INSIDE, "1").env("IPTABLES", iptables);
        let status = spawn(again).and_then(|mut child| child.wait()).expect("the test can be started again");
        assert!(status.success(), "{test} failed in its own network: {status}");
        None
    }

    /// Drops every packet of the connections that there are, as a firewall does that has lost its
    /// table. New connections work. Returns their number.
    pub fn drop_connections(&self, concerns: impl Fn(SocketAddr) -> bool) -> usize {
        let table = fs::read_to_string("/proc/net/tcp").expect("/proc is there");
        let established = table.lines().skip(1).filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[3] == "01").then(|| (address(words[1]), address(words[2])))
        });
        let dropped: Vec<_> = established.filter(|(from, to)| concerns(*from) || concerns(*to)).collect();
        for (from, to) in &dropped {
            let (from_ip, to_ip) = (from.ip().to_string(), to.ip().to_string());
            let (from_port, to_port) = (from.port().to_string(), to.port().to_string());
            let ends = ["-s", &from_ip, "--sport", &from_port, "-d", &to_ip, "--dport", &to_port];
            self.iptables(&[["-A", "INPUT", "-p", "tcp"].as_slice(), &ends, &["-j", "DROP"]].concat());
        }
        dropped.len()
    }

    fn iptables(&self, arguments: &[&str]) {
        let mut filter = command(&self.iptables, Path::new("/"));
        // What `get-iptables` has unpacked finds its libraries beside it.
        if let Some(home) = self.iptables.ancestors().nth(3) {
            let libraries = home.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
            if libraries.exists() && home != Path::new("/") {
                filter.env("LD_LIBRARY_PATH", &libraries).env("XTABLES_LIBDIR", libraries.join("xtables"));
            }
        }
        filter.arg("-w").args(arguments);
        let output = run(filter);
        assert!(output.status.success(), "iptables {arguments:?}: {}", text(&output));
    }
}

/// Finds the program: what `tests/run` names, or what `tests/get-iptables` finds.
fn iptables() -> PathBuf {
    if let Some(named) = std::env::var_os("IPTABLES") {
        return named.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-iptables");
    let output = run(command(script, Path::new("/")));
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// Reads an address of `/proc/net/tcp`.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').expect("address and port");
    let ip = u32::from_str_radix(ip, 16).expect("hexadecimal").to_ne_bytes();
    SocketAddr::new(Ipv4Addr::from(ip).into(), u16::from_str_radix(port, 16).expect("hexadecimal"))
}
