//! The page of the documentation.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::figures::{
    plot::{bars, curve},
    report::{Machine, Report, Row},
    scale::Scale,
    table::number,
    trace::Trace,
};

/// The widest line of text on a page. Tables are wider.
const COLUMNS: usize = 120;

/// Everything that the page shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// The rows.
    pub report: Report,
    /// The way of one change.
    pub trace: Option<Trace>,
    /// How the cost grows.
    pub scale: Option<Scale>,
}

/// A plot of several rows: the name of its file, what it shows, and the beginnings of the rows' names.
const PLOTS: [(&str, &str, &[&str]); 3] = [
    ("latency", "from the start of a push", &["push", "signal"]),
    ("rates", "updates and reads", &["updates-1", "updates-16", "updates-64", "reads"]),
    ("room", "memory and disk of a host", &["memory", "export"]),
];

impl Performance {
    /// The plots: for each the name of its file, and its content.
    pub fn plots(&self) -> Vec<(String, String)> {
        let of_rows = PLOTS.iter().filter_map(|(file, _, ids)| {
            let rows = self.rows_of(ids);
            (!rows.is_empty()).then(|| (format!("{file}.svg"), bars(&rows)))
        });
        let curves = self.scale.iter().flat_map(|scale| &scale.curves);
        of_rows.chain(curves.map(|one| (format!("{}.svg", one.id), curve(one)))).collect()
    }

    fn rows_of(&self, ids: &[&str]) -> Vec<&Row> {
        let is_of =
            |row: &&Row| ids.iter().any(|id| row.id == *id || (*id == "signal" && row.id.starts_with("signal-")));
        self.report.rows.iter().filter(is_of).collect()
    }

    /// The page in Markdown.
    pub fn page(&self) -> String {
        let mut page = String::from("# Performance\n\n");
        paragraph(
            &mut page,
            "How long a change takes from an engineer's prompt to a process on a host, what it costs each tier, and what other \
             systems take on the same machine. `tests/bench` measures all of it, with the programs as they are released. \
             Signatures, checks and durability are on in every figure.",
        );
        paragraph(
            &mut page,
            "`tests/bench docs` writes this page and its plots from [performance.json](performance.json), and a test compares \
             them. Do not edit it by hand: run the benchmark again.",
        );
        self.machine(&mut page);
        self.rows(&mut page);
        if let Some(trace) = &self.trace {
            way(&mut page, trace);
        }
        if let Some(scale) = &self.scale {
            growth(&mut page, scale);
        }
        self.again(&mut page);
        while page.ends_with("\n\n") {
            page.pop();
        }
        page
    }

    fn machine(&self, page: &mut String) {
        let Machine { day, cores, memory, disk, programs, load } = &self.report.machine;
        let programs = programs.join(", ");
        paragraph(
            page,
            &format!(
                "Measured on {day}: {cores} cores, {} GiB of memory, {disk}; {programs}. All tiers, all hosts, all peers and the \
                 benchmark itself share the cores. {} others wanted a core when the run began. A value is the median of several \
                 runs; the middle four fifths of the runs are within the numbers in parentheses. What is compared was measured \
                 in turns.",
                number(*memory),
                if *load < 0.5 { "No".to_owned() } else { number(*load) },
            ),
        );
        if *load >= 1.0 {
            paragraph(
                page,
                "**So this machine was busy, and its times are longer than those of a quiet one.** What was measured in turns can \
                 still be compared.",
            );
        }
    }

    fn rows(&self, page: &mut String) {
        page.push_str("## Beside others, in the same run\n\n");
        paragraph(
            page,
            "A *peer* is another system that does the same work, or a part of it: plain Git checks nothing, and Consul and etcd \
             have neither Git nor signatures. A *floor* is what the machine takes for a part that nobody can leave out.",
        );
        let _ = writeln!(page, "{}", self.report.table().text());
        for missing in &self.report.missing {
            paragraph(page, &format!("Not measured: {missing}."));
        }
        for (file, shows, ids) in PLOTS {
            if !self.rows_of(ids).is_empty() {
                let _ = writeln!(page, "![{shows}](performance/{file}.svg)\n");
            }
        }
        page.push_str("### What the figures mean for a fleet\n\n");
        // Rows that differ in a number alone mean the same.
        let mut said = "";
        for row in self.report.rows.iter().filter(|row| !row.meaning.is_empty()) {
            if row.meaning != said {
                item(page, &format!("{}: {}", row.what.trim_start_matches("… "), row.meaning));
            }
            said = &row.meaning;
        }
        page.push('\n');
        let tiers = self.report.tiers();
        if !tiers.is_empty() {
            page.push_str("### Processor time\n\n");
            paragraph(
                page,
                "Of one process of a tier with all its children, for one change, with everything that it does afterwards. What \
                 the tier uses while nothing changes is taken off.",
            );
            let _ = writeln!(page, "{}", tiers.text());
        }
    }

    fn again(&self, page: &mut String) {
        page.push_str("## Measure it yourself\n\n");
        page.push_str(
            "```sh\ntests/bench            # every row, half an hour\ntests/bench --quick    # a few minutes\n",
        );
        page.push_str("tests/bench trace      # the way of one change\ntests/bench scale      # how the cost grows\n");
        page.push_str("tests/bench docs       # this page, from what the others wrote to target/bench/\n```\n\n");
        let size = &self.report.size;
        paragraph(
            page,
            &format!("The figures above are those of a {size} run. A busy machine shows itself in the spread."),
        );
    }
}

fn way(page: &mut String, trace: &Trace) {
    page.push_str("## The way of one change\n\n");
    let services = trace.services;
    paragraph(
        page,
        &format!(
            "One file of one of {services} services is pushed; one host runs it. The moments are seen from outside, by streams of \
             events, a blocking query and the process itself.",
        ),
    );
    let _ = writeln!(page, "{}", trace.moments().text());
    if !trace.work.is_empty() {
        paragraph(
            page,
            "The work is counted by strace in other changes: until the signal, and after it. What comes after the signal delays \
             no process: reports, the host's history, branches and tags of the conf-slave.",
        );
        let _ = writeln!(page, "{}", trace.work().text());
        let _ = writeln!(page, "{}", trace.frequent().text());
    }
}

fn growth(page: &mut String, scale: &Scale) {
    page.push_str("## How the cost grows\n\n");
    for curve in &scale.curves {
        let mut title: Vec<char> = curve.what.chars().collect();
        title.iter_mut().take(1).for_each(|first| *first = first.to_ascii_uppercase());
        let _ = writeln!(page, "### {}\n", title.into_iter().collect::<String>());
        paragraph(page, &curve.meaning);
        let _ = writeln!(page, "{}", curve.table().text());
        let _ = writeln!(page, "![{}](performance/{}.svg)\n", curve.what, curve.id);
    }
    if !scale.measured.is_empty() {
        page.push_str("### A day\n\n");
        paragraph(
            page,
            "What passes between the tiers, measured: for one change of one file, and in a minute without a change.",
        );
        let _ = writeln!(page, "{}", scale.hops().text());
        paragraph(page, "What that makes in a day, computed.");
        let _ = writeln!(page, "{}", scale.days().text());
    }
}

/// Adds a paragraph.
fn paragraph(page: &mut String, text: &str) {
    page.push_str(&wrapped(text, ""));
    page.push('\n');
}

/// Adds an item of a list.
fn item(page: &mut String, text: &str) {
    page.push_str(&wrapped(text, "  ").replacen("  ", "* ", 1));
}

fn wrapped(text: &str, indent: &str) -> String {
    let (mut lines, mut line) = (String::new(), indent.to_owned());
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push_str(line.trim_end());
            lines.push('\n');
            indent.clone_into(&mut line);
        }
        if line.len() > indent.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Kind, Spread};

    #[test]
    fn lines_are_short_and_items_are_indented() {
        let text = "word ".repeat(60);
        let lines = wrapped(&text, "");
        assert!(lines.lines().all(|line| line.len() <= COLUMNS) && lines.lines().count() == 3, "{lines}");
        let mut page = String::new();
        item(&mut page, &text);
        let starts: Vec<&str> = page.lines().map(|line| &line[..2]).collect();
        assert_eq!(starts, ["* ", "  ", "  "]);
    }

    #[test]
    fn the_page_shows_each_row_and_each_plot() {
        let row = Row::new("push", "a push", "ms", Spread::one(30.0)).means("An engineer waits.");
        let row = row.beside(Kind::Peer, "plain Git", Spread::one(20.0)).tier("conf-master", 3.0);
        let report = Report { rows: vec![row], ..Report::default() };
        let performance = Performance { report, ..Performance::default() };
        let page = performance.page();
        for part in
            ["| a push |", "plain Git", "* a push: An engineer waits.", "](performance/latency.svg)", "conf-master"]
        {
            assert!(page.contains(part), "no {part:?} in\n{page}");
        }
        let files: Vec<String> = performance.plots().into_iter().map(|(file, _)| file).collect();
        assert_eq!(files, ["latency.svg"]);
    }
}
