//! The run of all rows: what is measured, in which order, and where it is written.

use std::{fmt::Write as _, fs, path::Path};

use tests::{
    Site,
    figures::{Kind, Machine, Performance, Report, Row},
    own_address,
    program::{command, run as run_program, text},
};

use crate::{datacenters, export, fleet, floors, options::Options, peers::PlainGit, push, reads, signal, updates};

/// Measures, prints, and writes.
pub(crate) fn run(options: &Options) -> std::io::Result<()> {
    let report = measure(options);
    print!("{}", shown(&report));
    write(&report, &options.out)
}

fn measure(options: &Options) -> Report {
    let size = options.size;
    let wanted = |row: &str| options.rows.is_empty() || options.rows.iter().any(|one| one == row);
    let mut report = Report { machine: machine(), size: size.name().to_owned(), ..Report::default() };
    if ["push", "signal", "reads", "export", "floor"].into_iter().any(wanted) {
        eprintln!("bench: a datacenter of {} services", size.services());
        // One more, for what is not raced.
        let mut site = fleet::start(size.services(), size.most_hosts() + 1);
        let plain = PlainGit::start(site.folder.path());
        if wanted("push") {
            eprintln!("bench: git push");
            report.rows.push(push::measure(size, &site, &plain));
        }
        if wanted("signal") {
            let (rows, missing) = signal::measure(size, &mut site, &plain);
            report.rows.extend(rows);
            report.missing.extend(missing);
        }
        // The other hosts are in nobody's way from here on.
        site.hosts.clear();
        report.rows.extend(of_one_host(options, &site, &wanted));
        if wanted("floor") {
            report.rows.push(floor(site.folder.path(), size.rounds()));
        }
        drop(plain);
        fleet::end(site);
    }
    if wanted("updates") {
        report.rows.extend(updates::measure(size));
    }
    if wanted("datacenters") {
        report.rows.extend(datacenters::measure(size));
    }
    report
}

/// The rows of a host that is not raced.
fn of_one_host(options: &Options, site: &Site, wanted: &impl Fn(&str) -> bool) -> Vec<Row> {
    let size = options.size;
    let mut rows = Vec::new();
    if !wanted("reads") && !wanted("export") {
        return rows;
    }
    let mut host = site.make_host(size.most_hosts() + 1);
    let address = own_address(7402);
    host.daemon.arguments().extend(["--listen".into(), address.to_string().into()]);
    host.daemon.start();
    host.wait_applied(site.master.sequence());
    if wanted("reads") {
        eprintln!("bench: reads of settings");
        rows.push(reads::measure(size, address, site.consul()));
    }
    if wanted("export") {
        eprintln!("bench: {} changes of a host", size.changes());
        rows.extend(export::measure(size, site, &host));
    }
    rows
}

/// The machine itself, as a row.
fn floor(folder: &Path, rounds: usize) -> Row {
    let fsync = floors::fsync(folder, rounds);
    Row::new("floor", "the machine: one fsync of a new small file", "ms", fsync)
        .beside(Kind::Floor, "start and end of `true`", floors::spawn(rounds))
        .beside(Kind::Floor, "start and end of `git version`", floors::git(rounds))
        .means("No durable change is faster than one fsync, and nothing that starts Git is faster than Git starts.")
}

fn machine() -> Machine {
    let said = |program: &str, arguments: &[&str]| -> String {
        let mut asked = command(program, Path::new("/"));
        asked.args(arguments);
        text(&run_program(asked)).lines().next().unwrap_or_default().trim().to_owned()
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let total = read("/proc/meminfo").lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let total: f64 = total.unwrap_or_default();
    let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
    let mut programs = vec![said("git", &["--version"])];
    programs.extend(std::env::var("CONSUL").ok().map(|consul| said(&consul, &["version"])));
    programs.extend(std::env::var("ETCD").ok().map(|etcd| said(&etcd, &["--version"])));
    programs.push(format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()));
    let folder = std::env::temp_dir().display().to_string();
    Machine {
        day: said("date", &["+%F"]),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: (total / 1024.0 / 1024.0).round(),
        disk: said("stat", &["-f", "-c", "%T", &folder]),
        programs,
        load: load.unwrap_or_default(),
    }
}

/// The tables of a report as text.
fn shown(report: &Report) -> String {
    let Machine { day, cores, memory, disk, programs, load } = &report.machine;
    let mut text = format!(
        "{} run of {day}: {cores} cores, {memory} GiB, {disk}, load {load} before it; {}\n\n{}",
        report.size,
        programs.join(", "),
        report.table().text()
    );
    let tiers = report.tiers();
    if !tiers.is_empty() {
        let _ = write!(text, "\nprocessor time\n\n{}", tiers.text());
    }
    for missing in &report.missing {
        let _ = write!(text, "\nnot measured: {missing}\n");
    }
    text
}

fn write(report: &Report, out: &Path) -> std::io::Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join("performance.json"), format!("{}\n", serde_json::to_string_pretty(report)?))?;
    fs::write(out.join("performance.txt"), shown(report))?;
    let performance = Performance { report: report.clone(), ..Performance::default() };
    performance.plots().into_iter().try_for_each(|(file, content)| fs::write(out.join(file), content))
}
