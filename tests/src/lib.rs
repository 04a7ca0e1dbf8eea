//! The tiers together, as real processes, with the real git and a real Consul server.
//!
//! The stories are in `tests/*.rs`. What they stand on, in the order of need: [`program`] starts and ends processes,
//! [`site`] puts a central server, a datacenter's caches and its hosts together, [`git`] is the engineer who pushes,
//! [`consul`] a server of each site's own, [`reader`] a process that is told of changes, [`http`] speaks to the daemons,
//! [`page`] a person who pastes what the documentation says,
//! [`history`] looks at what participants of operations saw,
//! [`wire`] speaks Git's protocol by hand, [`proxy`] stands between two programs, counts, and gets in the way.
//!
//! Always true:
//! - Every process has a loopback address and a folder of its own, so stories run side by side.
//! - Nothing outlives its test, even a killed one: each process dies with the one that started it.
//! - Nobody sleeps for a result: [`eventually`] asks until it is there, and says at the end what was there instead.

pub mod consul;
pub mod git;
pub mod history;
pub mod http;
pub mod page;
pub mod program;
pub mod proxy;
pub mod reader;
pub mod site;
pub mod wire;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

pub use consul::Consul;
pub use git::{Outcome, Work};
pub use program::Daemon;
pub use proxy::Proxy;
pub use reader::{Poller, Reader};
pub use site::{Host, Master, Plan, Site, Slave};

/// How long a test waits for what must come: long, since a busy machine is no fault of the code.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks every 20 ms until the answer is `Ok`; panics after [`DEADLINE`] with what was waited for and the last answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(DEADLINE, what, ask)
}

/// As [`eventually`], with a deadline of its own.
pub fn eventually_within<T>(deadline: Duration, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}; the last state was: {last}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Removes a folder whose daemon was killed: a Git program of its may outlive it for a moment, and write there.
pub fn remove_folder(path: &Path) {
    eventually(&format!("{} to be gone", path.display()), || match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause.to_string()),
        _ => Ok(()),
    });
}

/// A loopback address that nobody else has: of sixteen million, one at random. A program that is started again keeps it,
/// which a port given out by the system would not promise.
pub fn own_address(port: u16) -> SocketAddr {
    let [a, b, c, _] = rand::random::<u32>().to_be_bytes();
    // Neither 127.0.0.1, where people's own programs listen, nor a first or last address.
    let address = Ipv4Addr::new(127, 1 + a % 250, b, 2 + c % 250);
    SocketAddr::new(IpAddr::V4(address), port)
}
