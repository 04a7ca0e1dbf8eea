//! A network of a test's own. Packets are dropped in it: both sides of a connection hear nothing
//! more, and nobody tells them. Or machines are in it, each with an address of its own.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use crate::program::{command, lines_of, run, spawn, text};

/// Set in a test that runs in a network of its own, to the file in which it says that it is there.
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
        if let Some(file) = std::env::var_os(INSIDE) {
            fs::write(file, test).expect("it can be written");
            ip(&["link", "set", "lo", "up"]);
            return Some(Network { iptables: iptables() });
        }
        // Found here, where there is a way to Debian's packages.
        let iptables = iptables();
        let mut again = Command::new("setpriv");
        again.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--"]);
        again.arg(std::env::current_exe().expect("a test knows its own program"));
        // Also one that is run by a choice alone, which was made here.
        again.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads", "1"]);
        let said = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        again.env(INSIDE, said.path()).env("IPTABLES", iptables);
        let status = spawn(again).and_then(|mut child| child.wait()).expect("the test can be started again");
        assert!(status.success(), "{test} failed in its own network: {status}");
        assert_eq!(fs::read_to_string(said.path()).unwrap_or_default(), test, "no test has this name");
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

    /// Drops every packet to these addresses and from them, also of new connections, until
    /// [`Network::mend`].
    pub fn drop_all(&self, addresses: &[IpAddr]) {
        for address in addresses {
            for way in ["-s", "-d"] {
                self.iptables(&["-A", "INPUT", way, &address.to_string(), "-j", "DROP"]);
            }
        }
    }

    /// Drops what comes to some ports of an address, over TCP and UDP, until [`Network::mend`].
    pub fn drop_ports(&self, address: IpAddr, ports: &str) {
        for protocol in ["tcp", "udp"] {
            let to = ["-p", protocol, "-d", &address.to_string(), "--dport", ports, "-j", "DROP"];
            self.iptables(&[["-A", "INPUT"].as_slice(), &to].concat());
        }
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.iptables(&["-F", "INPUT"]);
    }

    /// Adds a machine to this network, with a shell in its home folder.
    pub fn machine(&self, address: Ipv4Addr, home: &Path, path: &str) -> Machine {
        let mut machine = Machine::start(address, home, path);
        // The wire is there from the first machine on.
        let mut wire = command("ip", Path::new("/"));
        wire.args(["link", "add", "wire", "type", "bridge"]);
        run(wire);
        let (port, pid) = (format!("port{}", address.octets()[3]), machine.shell.id().to_string());
        ip(&["link", "set", "wire", "up"]);
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        ip(&["link", "set", &port, "master", "wire", "up"]);
        machine.paste(
            &format!("ip link set lo up\nip address add {address}/24 dev eth0\nip link set eth0 up\n"),
            Duration::from_secs(30),
        );
        machine
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

/// A machine: a network, processes and a home folder of its own. Its processes end with it.
#[derive(Debug)]
pub struct Machine {
    shell: Child,
    input: ChildStdin,
    printed: Receiver<(Instant, String)>,
    home: PathBuf,
    pasted: usize,
}

impl Machine {
    fn start(address: Ipv4Addr, home: &Path, path: &str) -> Self {
        fs::create_dir_all(home).expect("the folder can be made");
        let mut shell = command("unshare", home);
        // The first process of the machine ends with `unshare`, and all others with that one.
        shell.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "bash"]);
        shell.current_dir(home).env("PATH", path).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = spawn(shell).expect("a shell can be started");
        let input = shell.stdin.take().expect("it is piped");
        let printed = lines_of(shell.stdout.take().expect("it is piped"));
        let mut machine = Machine { shell, input, printed, home: home.to_owned(), pasted: 0 };
        // Both outputs go to one terminal. Once it answers, its network is its own.
        machine.paste(&format!("exec 2>&1\nset -euo pipefail\necho {address}\n"), Duration::from_secs(30));
        machine
    }

    /// Pastes a block into the shell, and returns what is printed until its end.
    #[track_caller]
    pub fn paste(&mut self, block: &str, patience: Duration) -> String {
        self.pasted += 1;
        let file = self.home.join(format!(".block-{}", self.pasted));
        let end = format!("-- the end of block {}", self.pasted);
        fs::write(&file, block).expect("it can be written");
        // What a command reads is not the next line of the block.
        let sourced = writeln!(self.input, ". '{}' < /dev/null\necho '{end}'", file.display());
        sourced.expect("the shell reads");
        let (start, mut printed) = (Instant::now(), String::new());
        loop {
            match self.printed.recv_timeout(patience.saturating_sub(start.elapsed())) {
                Ok((_, line)) if line == end => return printed,
                Ok((_, line)) => printed = printed + &line + "\n",
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it is not over within {patience:?}:\n{block}\n{printed}{}", self.logs())
                }
                Err(RecvTimeoutError::Disconnected) => panic!("it failed:\n{block}\n{printed}{}", self.logs()),
            }
        }
    }

    /// The logs in the home folder.
    fn logs(&self) -> String {
        let files = fs::read_dir(&self.home).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        let shown =
            |path: PathBuf| format!("--- {}\n{}\n", path.display(), fs::read_to_string(&path).unwrap_or_default());
        logs.map(shown).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn ip(arguments: &[&str]) {
    let mut ip = command("ip", Path::new("/"));
    ip.args(arguments);
    let output = run(ip);
    assert!(output.status.success(), "ip {arguments:?}: {}", text(&output));
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
