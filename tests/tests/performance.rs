//! The benchmark and its page: the page says what was measured, and the benchmark works.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{collections::BTreeMap, fs, path::Path};

use tests::{
    figures::{Performance, Report, Scale, Trace},
    program::{built, command, run, text},
};

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn the_page_and_its_plots_are_made_of_the_stored_figures() {
    let figures = fs::read(docs().join("performance.json")).unwrap();
    let figures: Performance = serde_json::from_slice(&figures).unwrap();
    let words = "run tests/bench docs: it writes the page and the plots from the figures";
    let page = fs::read_to_string(docs().join("performance.md")).unwrap();
    assert!(page == figures.page(), "docs/performance.md was changed by hand, or its figures were; {words}");
    let plots = fs::read_dir(docs().join("performance")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
    });
    let plots: BTreeMap<String, String> = plots.collect();
    assert!(plots == figures.plots().into_iter().collect(), "docs/performance/ has other plots; {words}");
}

/// The smallest run of each part, with everything that it starts.
fn smoke(arguments: &[&str], out: &Path) -> String {
    let mut bench = command(built("bench"), out);
    bench.args(arguments).arg("--smoke").arg("--out").arg(out);
    for name in ["CONSUL", "STRACE"] {
        bench.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let output = run(bench);
    assert!(output.status.success(), "bench {arguments:?}:\n{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_benchmark_measures_every_row() {
    let out = tempfile::tempdir().unwrap();
    let printed = smoke(&[], out.path());
    let report: Report = read(&out.path().join("performance.json"));
    let rows: Vec<&str> = report.rows.iter().map(|row| row.id.as_str()).collect();
    let expected = [
        "push",
        "signal-1",
        "signal-2",
        "processor-host",
        "processor-slave",
        "memory",
        "reads",
        "export",
        "export-files",
        "floor",
        "updates-1",
        "updates-1-answer",
        "updates-4",
        "updates-4-answer",
        "datacenters",
        "datacenters-bystander",
        "datacenters-change",
        "datacenters-pointer",
    ];
    assert_eq!(rows, expected, "{printed}");
    for row in &report.rows {
        // Of one change the kernel may count no tick of processor time.
        let is_measured = row.ours.median > 0.0 || row.id.starts_with("processor");
        assert!(is_measured && !row.meaning.is_empty(), "{row:?}");
        assert!(printed.contains(&row.what), "{} is not printed:\n{printed}", row.what);
    }
    // What is not there is named, and never left out in silence.
    assert!(report.missing.iter().any(|missing| missing.starts_with("git2consul")), "{:?}", report.missing);
}

#[test]
fn the_benchmark_follows_one_change() {
    let out = tempfile::tempdir().unwrap();
    let printed = smoke(&["trace"], out.path());
    let trace: Trace = read(&out.path().join("trace.json"));
    assert_eq!(trace.moments.len(), 6, "{printed}");
    if std::env::var_os("STRACE").is_some() {
        let tiers: Vec<&str> = trace.work.iter().map(|work| work.tier.as_str()).collect();
        assert_eq!(tiers, ["conf-master", "conf-slave", "conf-local"]);
        for work in &trace.work {
            assert!(work.calls.median > 0.0 && work.fsyncs.median > 0.0 && work.received.median > 0.0, "{work:?}");
        }
        assert!(trace.work[0].processes.median > 0.0, "a push starts Git: {printed}");
    }
}

#[test]
fn the_benchmark_draws_how_the_cost_grows() {
    let out = tempfile::tempdir().unwrap();
    smoke(&["scale"], out.path());
    let scale: Scale = read(&out.path().join("scale.json"));
    assert!(scale.curves.iter().all(|curve| curve.series.iter().all(|series| series.points.len() == 2)), "{scale:?}");
    assert_eq!((scale.measured.len(), scale.days.len()), (3, 8));
    for curve in &scale.curves {
        let plot = fs::read_to_string(out.path().join(format!("scale-{}.svg", curve.id))).unwrap();
        assert!(plot.contains("<polyline"), "{plot}");
    }
}
