//! Servers that send too much: a conf-slave to a host, and a conf-master to a conf-slave. What they send is bounded, and
//! nothing of it stays.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tests::{
    Plan, Site, eventually, own_address,
    program::{descendants, text},
    site::{DATACENTER, Pointers},
    usage::bytes_below,
};

const MIB: u64 = 1 << 20;
const PACK: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nConnection: close\r\n\r\n000dpackfile\n";
const NONE: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Answers every connection in a thread of its own.
fn serve(port: u16, answer: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let address = own_address(port);
    let listener = TcpListener::bind(address).expect("a free loopback address");
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let answer = answer.clone();
            // A client that goes away ends its thread.
            thread::spawn(move || drop(answer(client)));
        }
    });
    address
}

/// Reads a request with its body, if that has a length.
fn request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut request, mut part) = (Vec::new(), [0; 8192]);
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text[..end].lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if request.len() >= end + 4 + length.unwrap_or(0) {
                return Ok(request);
            }
        }
        match client.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&part[..count]),
        }
    }
}

/// A packet of the side band of packs.
fn packet(content: &[u8]) -> Vec<u8> {
    [format!("{:04x}\u{1}", content.len() + 5).as_bytes(), content].concat()
}

/// Sends a good pack of blobs that ends never, and counts its bytes.
fn endless(client: &mut TcpStream, sent: &AtomicU64) -> io::Result<()> {
    client.write_all(PACK.as_bytes())?;
    client.write_all(&packet(&[&b"PACK\0\0\0\x02"[..], &200_000_u32.to_be_bytes()].concat()))?;
    for number in 0_u32.. {
        // A blob of 32,000 bytes, which zlib stores as they are.
        let content: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(32_000).collect();
        let (low, high) = content.iter().fold((1_u32, 0_u32), |(low, high), byte| {
            let low = (low + u32::from(*byte)) % 65_521;
            (low, (high + low) % 65_521)
        });
        let sum = (high << 16 | low).to_be_bytes();
        let stored: &[u8] = &[0xb0, 0xd0, 0x0f, 0x78, 0x01, 0x01, 0x00, 0x7d, 0xff, 0x82];
        client.write_all(&packet(&[stored, &content, &sum].concat()))?;
        sent.fetch_add(32_000, Ordering::Relaxed);
    }
    Ok(())
}

/// Names a snapshot to whoever listens, and answers a fetch of it.
fn name(mut client: TcpStream, commit: &str, fetched: impl Fn(&mut TcpStream) -> io::Result<()>) -> io::Result<()> {
    let request = request(&mut client)?;
    if request.starts_with(b"POST /conf.git/git-upload-pack") {
        let wants = String::from_utf8_lossy(&request).contains(&format!("want {commit}"));
        return if wants { fetched(&mut client) } else { client.write_all(NONE) };
    }
    if !request.starts_with(b"GET /api/v1/events") {
        return client.write_all(NONE);
    }
    write!(client, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    let event = serde_json::json!({"central": 1_000_000, "datacenter": DATACENTER, "sequence": 1_000_000,
        "commit": commit, "previous": null});
    loop {
        write!(client, "event: snapshot\ndata: {event}\n\nevent: heartbeat\ndata: {{\"period\":2}}\n\n")?;
        thread::sleep(Duration::from_secs(1));
    }
}

/// A site whose host hears a liar first, with flags of its own.
fn beside(liar: SocketAddr, flags: &[&str]) -> Site {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let mut host = site.make_host(1);
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments.splice(at..at, ["--surrogates-in-order".into(), "--surrogate".into(), format!("http://{liar}").into()]);
    arguments.extend(flags.iter().map(Into::into));
    host.daemon.start();
    site.hosts.push(host);
    site
}

#[test]
fn an_endless_pack_fills_no_hosts_disk() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let liar = serve(7701, move |client| name(client, &"a".repeat(40), |client| endless(client, &count)));
    let site = beside(liar, &["--most-fetched=8"]);
    site.wait_applied(site.master.sequence());
    let folder = site.host().state.clone();
    let (before, mut most) = (bytes_below(&folder), 0);
    eventually("it to send 100 MiB", || {
        most = most.max(bytes_below(&folder));
        // Several are asked at once.
        assert!(most < before + 40 * MIB, "{} MiB are on the host's disk", most / MIB);
        let sent = sent.load(Ordering::Relaxed);
        if sent > 100 * MIB { Ok(()) } else { Err(format!("{sent}")) }
    });
    println!("most: {} KiB of {} MiB", (most - before) / 1024, sent.load(Ordering::Relaxed) / MIB);
    // Changes come meanwhile.
    site.push_and_wait("services/web", "round", "1\n");
    eventually("what was staged to be removed", || {
        let now = bytes_below(&folder);
        if now < before + 9 * MIB { Ok(()) } else { Err(format!("{now}")) }
    });
    let log = site.host().daemon.log();
    assert!(log.contains("its pack is refused: it has more than 8388608 bytes"), "{log}");
}

#[test]
fn a_forged_snapshot_leaves_nothing_on_the_host() {
    // A whole snapshot, but for its signature.
    let maker = Plan { hosts: 0, slaves: 0, pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let noise: Vec<u8> = (0..3 * MIB).map(|_| rand::random()).collect();
    maker.work.change().file("services/web/master", "noise", &noise).commit();
    let commit = maker.work.id("services/web/master");
    let pack = Arc::new(maker.work.git_pack(&[&commit]));
    let named = commit.clone();
    let liar = serve(7703, move |client| {
        name(client, &named, |client| {
            client.write_all(PACK.as_bytes())?;
            pack.chunks(32_000).try_for_each(|part| client.write_all(&packet(part)))?;
            client.write_all(b"0000")
        })
    });
    let site = beside(liar, &[]);
    site.wait_applied(site.master.sequence());
    eventually("the host to refuse it", || {
        let log = site.host().daemon.log();
        if log.contains(&commit) && log.contains("it is not signed") { Ok(()) } else { Err(log) }
    });
    let left = bytes_below(&site.host().repository());
    println!("left: {} KiB", left / 1024);
    assert!(left < MIB, "{left}");
    site.push_and_wait("services/web", "round", "1\n");
}

#[test]
fn an_endless_pack_of_a_conf_master_fills_no_slaves_disk() {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let (sent, fetches) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (master, bytes, count) = (site.master.address, sent.clone(), fetches.clone());
    let liar = serve(7705, move |mut client| {
        let request = request(&mut client)?;
        let text = String::from_utf8_lossy(&request).into_owned();
        // Git's own program names itself; the slave's steps do not.
        if text.contains("command=fetch") && text.contains("agent=git/") {
            count.fetch_add(1, Ordering::Relaxed);
            return endless(&mut client, &bytes);
        }
        let mut central = TcpStream::connect(master)?;
        let line = request.iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::InvalidData)? + 1;
        central.write_all(&[&request[..line], b"Connection: close\r\n", &request[line..]].concat())?;
        io::copy(&mut central, &mut client).map(drop)
    });
    let mut slave = site.make_slave(2);
    let arguments = slave.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--central").expect("it has one");
    arguments[at + 1] = format!("http://{liar}").into();
    arguments.push("--most-fetched=8".into());
    slave.daemon.start();
    site.slaves.push(slave);
    let slave = &site.slaves[1];
    slave.wait_at(site.master.sequence());
    let (before, mut most) = (bytes_below(&slave.state), 0);
    eventually("Git to try three times", || {
        most = most.max(bytes_below(&slave.state));
        assert!(most < before + 12 * MIB, "{} MiB are on the slave's disk", most / MIB);
        let fetches = fetches.load(Ordering::Relaxed);
        if fetches >= 3 { Ok(()) } else { Err(format!("{fetches}")) }
    });
    println!("most: {} KiB of {} MiB", (most - before) / 1024, sent.load(Ordering::Relaxed) / MIB);
    eventually("what was unfinished to be removed, and its programs to be gone", || {
        let packs = fs::read_dir(slave.state.join("repo.git/objects/pack")).expect("it is there").flatten();
        let left: Vec<_> = packs.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp_")).collect();
        let running: Vec<_> =
            descendants(slave.daemon.pid()).into_iter().filter(|(_, words)| !words.is_empty()).collect();
        if left.is_empty() && running.is_empty() { Ok(()) } else { Err(format!("{left:?} {running:?}")) }
    });
    let status = slave.status().expect("it answers").to_string();
    assert!(status.contains("branches and tags are not up to date"), "{status}{}", text(&site.master.run(&["log"])));
}
