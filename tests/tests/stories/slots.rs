//! What one peer can take of a daemon, and what is left for the others: slow senders, slow readers,
//! large bodies, many refs, schemas that take long.
//!
//! The peer that takes too much asks from an address of its own; the bystander is an engineer with
//! Git, from another one.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use conf_core::git::{Depth, Step};
use tests::{
    Plan, Site, Work, eventually,
    http::{Address, connect_from},
    program::{command, descendants, run},
    site::{DATACENTER, Pointers},
    usage::processor_time,
    wire::{self, Claim, ZERO},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
};

pub(crate) const WEB: &str = "services/web/master";
pub(crate) const API: &str = "services/api/master";

/// A central server with some content.
fn central() -> Site {
    Plan { hosts: 0, slaves: 0, pointers: Pointers::Embedded, ..Plan::default() }.start()
}

/// The address of a peer that takes too much.
fn stranger() -> IpAddr {
    Ipv4Addr::new(127, 255, 7, 7).into()
}

pub(crate) fn as_stranger(site: &Site) -> Address {
    Address::From { source: stranger(), server: site.master.address }
}

/// Somebody who pushes schemas from another address.
#[derive(Clone)]
pub(crate) struct Stranger {
    folder: PathBuf,
    git_url: String,
    server: Address,
}

impl Stranger {
    pub(crate) fn of(site: &Site) -> Self {
        let (folder, git_url) = (site.folder.path().to_owned(), site.master.git_url());
        Stranger { folder, git_url, server: as_stranger(site) }
    }

    pub(crate) fn work(&self) -> Work {
        Work::new(&self.folder.join(format!("stranger-{}", rand::random::<u32>())), &self.git_url)
    }
}

/// Requests of a stranger that go on until they are dropped.
pub(crate) struct Held {
    runtime: Runtime,
    connections: Vec<TcpStream>,
}

impl Held {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Held { runtime, connections: Vec::new() }
    }

    /// Sends the head of a request, and the beginning of its body.
    fn send(&mut self, site: &Site, path: &str, headers: &str, length: usize, body: &[u8]) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{headers}\r\n\r\n",
            site.master.address
        );
        let connection = self.runtime.block_on(async {
            let mut connection = connect_from(stranger(), site.master.address).await.expect("it listens");
            connection.write_all(head.as_bytes()).await.expect("it reads");
            connection.write_all(body).await.expect("it reads");
            connection
        });
        self.connections.push(connection);
    }

    /// Waits until each answer has begun.
    fn begin_to_read(&mut self) {
        let Held { runtime, connections } = self;
        runtime.block_on(async {
            for connection in connections {
                let mut status = [0; 12];
                let read = tokio::time::timeout(tests::DEADLINE, connection.read_exact(&mut status)).await;
                read.expect("an answer begins").expect("an answer");
                assert_eq!(&status, b"HTTP/1.1 200");
            }
        });
    }
}

const PUSH: &str = "Content-Type: application/x-git-receive-pack-request";
const FETCH: &str = "Content-Type: application/x-git-upload-pack-request\r\nGit-Protocol: version=2";

/// Begins so many pushes whose bodies never end.
pub(crate) fn slow_senders(site: &Site, count: usize) -> Held {
    let mut held = Held::new();
    for _ in 0..count {
        held.send(site, "/conf.git/git-receive-pack", PUSH, 1 << 20, b"0");
    }
    held
}

/// Begins so many first fetches whose answers nobody takes.
pub(crate) fn slow_readers(site: &Site, count: usize) -> Held {
    let want = site.master.snapshot().parse().expect("a commit");
    let request = Step { have: None, want, depth: Depth::Full }.request();
    let mut held = Held::new();
    for _ in 0..count {
        held.send(site, "/conf.git/git-upload-pack", FETCH, request.len(), &request);
    }
    held
}

/// Pushes one line, and returns how long it took.
pub(crate) fn push(work: &Work, branch: &str, round: usize) -> Duration {
    work.change().file(branch, "round", format!("{round}\n")).commit();
    let began = Instant::now();
    work.push(&[&format!("refs/heads/{branch}")]).accepted();
    began.elapsed()
}

pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rand::Rng::fill(&mut rand::rng(), &mut noise[..]);
    noise
}

fn git_programs(site: &Site) -> Vec<String> {
    let found = descendants(site.master.daemon.pid()).into_iter().map(|(_, command)| command);
    found.filter(|command| command.contains("receive-pack") || command.contains("upload-pack")).collect()
}

#[test]
fn slow_senders_take_no_slot_and_everybody_else_pushes() {
    let site = central();
    let _held = slow_senders(&site, 40);
    for round in 1..=3 {
        push(&site.work, WEB, round);
    }
    assert_eq!(git_programs(&site), Vec::<String>::new(), "Git runs for bodies that are not here");
    site.master.expect_unbroken_ledger();
}

#[test]
fn slow_readers_take_no_slot_and_everybody_else_clones() {
    let site = central();
    site.work.change().file(WEB, "noise", noise(6 << 20)).land();
    let mut held = slow_readers(&site, 40);
    held.begin_to_read();
    eventually("Git to end, though nobody takes its answers", || {
        let left = git_programs(&site);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let clone = Work::new(&site.folder.path().join("clone"), &site.master.git_url());
    clone.git(&["fetch", "-q", "origin", &format!("refs/heads/{WEB}")]);
    drop(held);
}

/// Makes so many branches of one commit, in no repository of a server.
fn many(site: &Site, count: usize) -> Vec<String> {
    let commit = site.work.id(&format!("refs/heads/{WEB}"));
    let names: Vec<String> = (0..count).map(|number| format!("refs/heads/services/web/b{number:05}")).collect();
    let mut script = String::new();
    for name in &names {
        let _ = writeln!(script, "create {name} {commit}");
    }
    site.work.git_reading(&["update-ref", "--stdin"], script.as_bytes());
    names
}

#[test]
fn a_push_of_too_many_refs_is_refused_before_git_starts() {
    let site = central();
    let before = site.master.sequence();
    many(&site, 1001);
    let pid = site.master.daemon.pid();
    let outcome = site.work.try_git(&["push", "-q", "origin", "refs/heads/services/web/b*"]);
    outcome.refused(&["more than 1000 refs in one push; push fewer at once", "services/web/b00999"]);
    // A push over a path asks the server by its hook, which says the same.
    let path = site.master.repo.to_str().expect("a path");
    let outcome = site.work.try_git(&["push", "-q", path, "refs/heads/services/web/b*"]);
    outcome.refused(&["more than 1000 refs in one push; push fewer at once"]);
    let commit = site.work.id(&format!("refs/heads/{WEB}"));
    let names: Vec<String> = (0..50_000).map(|number| format!("refs/heads/services/web/c{number}")).collect();
    let claims: Vec<Claim<'_>> = names.iter().map(|name| Claim { old: ZERO, new: &commit, name }).collect();
    let used = processor_time(&[pid]);
    let answer =
        wire::push(&site.master.http(), &claims, "report-status", Some(&site.work.git_pack(&[]))).expect("it answers");
    let used = processor_time(&[pid]).saturating_sub(used);
    assert!(wire::report(&answer).contains("ng refs/heads/services/web/c0 more than 1000 refs"), "{answer:?}");
    // To list them alone took Git and the judge far more.
    assert!(used < Duration::from_secs(2), "{used:?} of processor time");
    assert_eq!(site.master.sequence(), before);
    site.work.push(&["refs/heads/services/web/b0000*"]).accepted();
}

/// An object of a pack that is a difference to this base, and says only to repeat the base.
fn repeated(base: &str, bytes: usize, times: usize) -> Vec<u8> {
    let number = |mut number: usize| {
        let mut digits = Vec::new();
        while number > 0x7f {
            digits.push(0x80 | (number & 0x7f).to_le_bytes()[0]);
            number >>= 7;
        }
        digits.push(number.to_le_bytes()[0]);
        digits
    };
    let [low, middle, high, ..] = bytes.to_le_bytes();
    let delta = [number(bytes), number(bytes * times), [0xf0, low, middle, high].repeat(times)].concat();
    let (sum, sums) = delta.iter().fold((1_u32, 0), |(sum, sums): (u32, u32), byte| {
        let sum = sum + u32::from(*byte);
        (sum, sums + sum)
    });
    let length = u16::try_from(delta.len()).expect("a short one");
    let id = base.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).expect("two digits"));
    let id: Vec<u8> = id.map(|digits| u8::from_str_radix(digits, 16).expect("two digits")).collect();
    // Its type, then its length in groups of four and seven bits; what zlib stores as it is.
    let head = [0xf0 | (length & 0xf).to_le_bytes()[0], (length >> 4).to_le_bytes()[0]];
    let stored = [&[0x78, 0x01, 0x01], &length.to_le_bytes()[..], &(!length).to_le_bytes()].concat();
    [&head[..], &id, &stored, &delta, &((sums % 65_521) << 16 | sum).to_be_bytes()].concat()
}

#[test]
fn a_push_that_inflates_to_more_than_may_land_is_refused_before_git_starts() {
    const BASE: usize = 0x00ff_ffff;
    let site = central();
    let id = site.work.git_reading(&["hash-object", "-w", "--stdin"], &vec![b'x'; BASE]);
    let name = site.folder.path().join("pack");
    let hash = site.work.git_reading(&["pack-objects", "-q", &name.display().to_string()], id.as_bytes());
    let mut pack = fs::read(format!("{}-{}.pack", name.display(), hash.trim())).expect("git has written it");
    // Each difference makes 128 MiB of the one object; there is no checksum behind them.
    let count = 40_u32;
    pack.splice(8..12, (count + 1).to_be_bytes());
    pack.truncate(pack.len() - 20);
    (0..count).for_each(|_| pack.extend(repeated(id.trim(), BASE, 8)));
    assert!(pack.len() < 100_000, "{}", pack.len());
    let commit = site.work.id(&format!("refs/heads/{WEB}"));
    let claim = Claim { old: ZERO, new: &commit, name: "refs/heads/services/web/heavy" };
    let pid = site.master.daemon.pid();
    let used = processor_time(&[pid]);
    let answer = wire::push(&site.master.http(), &[claim], "report-status", Some(&pack)).expect("it answers");
    let used = processor_time(&[pid]).saturating_sub(used);
    let report = wire::report(&answer);
    let words = "ng refs/heads/services/web/heavy its pack is refused: its objects have more than 4294967296 bytes";
    assert!(report.contains(words), "{report}");
    // Git works out each of them.
    assert!(used < Duration::from_secs(2), "{used:?} of processor time");
    push(&site.work, WEB, 1);
}

/// The most memory that a process had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("a number") << 10
}

/// Has so many peers send all but the end of a body of 31 MiB; then all of them end.
fn bodies_stay_out_of_memory(count: usize, most: u64) {
    let site = central();
    let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
    let mut body = br#"{"sequence": 1, "hosts": []"#.to_vec();
    body.resize(31 << 20, b' ');
    let (last, most_of_it) = (b"}", &body[..]);
    let mut held = Held::new();
    for _ in 0..count {
        held.send(&site, &path, "Content-Type: application/json", body.len() + 1, most_of_it);
    }
    push(&site.work, WEB, 1);
    let Held { runtime, connections } = &mut held;
    runtime.block_on(async {
        for connection in connections.iter_mut() {
            connection.write_all(last).await.expect("it reads");
        }
        for connection in connections {
            let mut status = [0; 12];
            connection.read_exact(&mut status).await.expect("an answer");
            assert!(status.starts_with(b"HTTP/1.1 "), "{status:?}");
        }
    });
    let peak = peak(site.master.daemon.pid());
    println!("{count} bodies of 31 MiB: conf-master had {} MiB at most", peak >> 20);
    assert!(peak < most, "{} MiB", peak >> 20);
}

#[test]
fn large_bodies_stay_out_of_memory_until_there_is_room() {
    bodies_stay_out_of_memory(40, 600 << 20);
}

/// A branch whose file is a pipe that nobody writes: whoever reads the branch waits, as for a disk
/// that does not answer.
struct Stuck {
    pipe: PathBuf,
    master: u32,
}

impl Stuck {
    const READING: &str = "/api/v1/doc/services/stuck";

    fn new(site: &Site) -> Self {
        let pipe = site.master.repo.join("refs/heads/services/stuck/master");
        fs::create_dir_all(pipe.parent().expect("a folder")).expect("it can be made");
        let mut mkfifo = command("mkfifo", site.folder.path());
        mkfifo.arg(&pipe);
        assert!(run(mkfifo).status.success());
        Stuck { pipe, master: site.master.daemon.pid() }
    }

    /// Counts the threads of conf-master that wait for the pipe.
    fn readings(&self) -> usize {
        let threads = fs::read_dir(format!("/proc/{}/task", self.master)).expect("it runs").flatten();
        // A thread may end meanwhile.
        let waits = threads.map(|thread| fs::read_to_string(thread.path().join("wchan")).unwrap_or_default());
        waits.filter(|place| place == "wait_for_partner" || place == "fifo_open").count()
    }

    /// Has all readings come to their ends: there is no such branch.
    fn release(&self) {
        let writer = File::options().read(true).write(true).open(&self.pipe).expect("it is there");
        fs::remove_file(&self.pipe).expect("it is there");
        drop(writer);
    }
}

/// The statuses of requests that threads have sent.
fn answers(asked: Vec<JoinHandle<u16>>) -> Vec<u16> {
    asked.into_iter().map(|asked| asked.join().expect("it answers")).collect()
}

/// The readings that one peer may have at once: half of all.
const READINGS_OF_ONE: usize = 4;

#[test]
fn a_peer_that_has_its_half_of_the_readings_keeps_nobody_else_from_reading() {
    let site = central();
    let (stuck, server) = (Stuck::new(&site), as_stranger(&site));
    let file = site.work.id(&format!("{WEB}:config.yaml"));
    let whereabouts = format!("/api/v1/where?object={file}");
    let rendered = format!("/conf/services/web?datacenter={DATACENTER}&host=web-1");
    let ask = |path: &str, count: usize| -> Vec<_> {
        let ask = |_| {
            let (server, path) = (server.clone(), path.to_owned());
            thread::spawn(move || server.get(&path).expect("an answer").status.as_u16())
        };
        (0..count).map(ask).collect()
    };
    let mut asked = ask(Stuck::READING, READINGS_OF_ONE);
    eventually("the stranger to have its half", || match stuck.readings() {
        READINGS_OF_ONE => Ok(()),
        other => Err(other.to_string()),
    });
    // What it asks for besides waits for itself alone, and what it cannot begin keeps no place of
    // another kind.
    let others = [ask(&whereabouts, 1), ask(&rendered, 1)];
    asked.extend(ask(Stuck::READING, 2 * READINGS_OF_ONE));
    let bystander = site.master.http();
    let datacenter = format!("/api/v1/datacenters/{DATACENTER}");
    let explained = format!("{datacenter}/explain?component=services/web");
    for path in [&datacenter, &explained, &whereabouts, &rendered].into_iter().cycle().take(30) {
        let answer = bystander.get(path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert_eq!(stuck.readings(), READINGS_OF_ONE, "one peer has more than half");
    assert_eq!(others.map(answers), [[503], [503]]);
    stuck.release();
    assert_eq!(answers(asked), vec![404; 3 * READINGS_OF_ONE], "who waited has its turn");
}

/// A schema that takes time: each level asks the next one twice.
fn schema(levels: usize, nonce: usize) -> String {
    let mut definitions = String::new();
    for level in 0..levels {
        let next = level + 1;
        let _ = write!(
            definitions,
            r##""d{level}": {{"allOf": [{{"$ref": "#/$defs/d{next}"}}, {{"$ref": "#/$defs/d{next}"}}]}}, "##
        );
    }
    format!(
        r##"{{"$comment": "{nonce}", "$ref": "#/$defs/d0", "$defs": {{{definitions}"d{levels}": {{"minProperties": 0}}}}}}"##
    )
}

/// A central server whose datacenter runs so many components besides.
pub(crate) fn central_with(components: usize) -> Site {
    let mut plan = Plan { hosts: 0, slaves: 0, pointers: Pointers::Embedded, ..Plan::default() };
    plan.components.extend((0..components).map(|number| format!("services/s{number}")));
    plan.start()
}

/// Has a stranger push a schema for each of some components, all in one push.
pub(crate) fn push_schemas(
    stranger: &Stranger,
    work: &Work,
    components: std::ops::Range<usize>,
    levels: usize,
) -> String {
    let names: Vec<String> = components.map(|number| format!("services/s{number}/master")).collect();
    let specs: Vec<String> = names.iter().map(|name| format!("+refs/heads/{name}:refs/heads/{name}")).collect();
    let fetch = ["fetch", "-q", "origin"].into_iter().chain(specs.iter().map(String::as_str));
    work.git(&fetch.collect::<Vec<_>>());
    let ids =
        |names: &[String]| -> Vec<String> { names.iter().map(|name| work.id(&format!("refs/heads/{name}"))).collect() };
    let before = ids(&names);
    let change = names.iter().fold(work.change(), |change, name| {
        change.file(name, "config.schema.json", schema(levels, rand::random_range(0..usize::MAX)))
    });
    change.commit();
    let after = ids(&names);
    let without: Vec<String> = before.iter().map(|id| format!("^{id}")).collect();
    let wanted: Vec<&str> = after.iter().chain(&without).map(String::as_str).collect();
    let pack = work.git_pack(&wanted);
    let full: Vec<String> = names.iter().map(|name| format!("refs/heads/{name}")).collect();
    let claims = before.iter().zip(&after).zip(&full).map(|((old, new), name)| Claim { old, new, name });
    let claims: Vec<Claim<'_>> = claims.collect();
    let answer = wire::push(&stranger.server, &claims, "report-status atomic side-band-64k", Some(&pack));
    words(&answer.expect("an answer").body)
}

/// Joins what the server says in both bands: it cuts lines wherever they come.
fn words(mut body: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some((digits, rest)) = body.split_first_chunk::<4>() {
        let digits = std::str::from_utf8(digits).expect("four digits");
        let length = usize::from_str_radix(digits, 16).expect("a length").max(4) - 4;
        let (packet, more) = rest.split_at(length);
        text.extend_from_slice(packet.get(1..).unwrap_or_default());
        body = more;
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The words of a schema that took too long.
const ENDLESS: &str = "took more time or memory than there is";
/// The words for a peer that tried too many of them.
const TOO_MANY: &str = "other schemas took up all the time";

#[test]
fn one_peers_endless_schemas_keep_nobody_elses_from_being_checked() {
    let site = central_with(8);
    let stranger = Stranger::of(&site);
    let work = stranger.work();
    // Six in a minute; on a busy machine so many do not fit into one.
    let mut tried: Vec<Instant> = Vec::new();
    for number in 0..8 {
        let report = push_schemas(&stranger, &work, number..number + 1, 200);
        if report.contains(TOO_MANY) {
            break;
        }
        assert!(report.contains(ENDLESS), "{report}");
        tried.push(Instant::now());
    }
    let mut minutes = tried.windows(7).map(|seven| seven[6].duration_since(seven[0]));
    assert!(minutes.all(|time| time >= Duration::from_secs(55)), "a peer tries as many as it likes: {tried:?}");
    assert!(!tried.is_empty());
    // The schema of somebody else is checked, and refuses what it must.
    let strict = r#"{"type": "object", "properties": {"round": {"type": "integer"}}}"#;
    site.work.change().file(WEB, "config.schema.json", strict).land();
    site.work.change().file(WEB, "config.yaml", "round: many\n").push().refused(&["many"]);
}

/// Finds how many levels a schema must have to take at least this much processor time. Each trial
/// takes a component.
fn levels_of(
    site: &Site,
    stranger: &Stranger,
    work: &Work,
    wanted: Duration,
    components: std::ops::Range<usize>,
) -> usize {
    let pid = site.master.daemon.pid();
    let found = components.zip(12..).find(|(component, levels)| {
        let before = processor_time(&[pid]);
        push_schemas(stranger, work, *component..component + 1, *levels);
        processor_time(&[pid]).saturating_sub(before) >= wanted
    });
    found.expect("each level doubles the work").1
}

#[test]
#[ignore = "long: 45 s of processor time for one push"]
fn a_push_that_takes_more_than_its_processor_time_is_refused_and_nobody_waits() {
    let site = central_with(90);
    let stranger = Stranger::of(&site);
    let work = stranger.work();
    let levels = levels_of(&site, &stranger, &work, Duration::from_secs(1), 60..90);
    let pid = site.master.daemon.pid();
    let quiet = (0..10).map(|round| push(&site.work, API, round)).max().expect("some");
    let before = processor_time(&[pid]);
    let (report, slowest) = thread::scope(|scope| {
        let pushing = scope.spawn(move || push_schemas(&stranger, &work, 0..60, levels));
        let mut slowest = Duration::ZERO;
        let mut round = 100;
        while !pushing.is_finished() {
            round += 1;
            slowest = slowest.max(push(&site.work, API, round));
        }
        (pushing.join().expect("it answers"), slowest)
    });
    let used = processor_time(&[pid]).saturating_sub(before);
    println!(
        "refused after {used:?} of processor time, the bystander's pushes included; a bystander waited {slowest:?}, quiet {quiet:?}"
    );
    assert!(report.contains("more than 30 s of processor time"), "{report}");
    assert!(slowest < quiet * 10 + Duration::from_secs(1), "a bystander waited {slowest:?}, quiet {quiet:?}");
}
