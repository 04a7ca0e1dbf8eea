//! Tables of Markdown, aligned, for terminals and pages alike.

use std::fmt::Write as _;

use crate::figures::{
    report::{Kind, Report},
    spread::Spread,
};

/// Rows of cells below a head.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table.
    pub fn new(head: &[&str]) -> Self {
        Table { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// True if it has no row but the head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Writes it. The first column is aligned to the left, all others to the right.
    pub fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                if column == 0 { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
            });
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule = widths.iter().enumerate().map(|(column, width)| {
            let dashes = "-".repeat(width + 1);
            if column == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
        });
        let mut text = line(&self.rows[0]);
        let _ = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
        self.rows[1..].iter().for_each(|row| text.push_str(&line(row)));
        text
    }
}

/// Writes a number with three significant digits and a mark for thousands.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let groups: Vec<&str> =
        whole.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", groups.join(","))
}

/// Writes a spread: `54 (50..61)`; one measurement stands alone.
pub fn amount(spread: &Spread) -> String {
    let Spread { runs, p10, median, p90 } = spread;
    if *runs < 2 { number(*median) } else { format!("{} ({}..{})", number(*median), number(*p10), number(*p90)) }
}

impl Report {
    /// The table of all rows, one line for each mark.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["what", "unit", "ours", "beside", "", "ours / beside", "goal"]);
        for row in &self.rows {
            let goal = row.goal.map_or(String::new(), |goal| {
                let reached = if row.reached() == Some(true) { "reached" } else { "missed" };
                format!("{} {reached}", number(goal))
            });
            let first = [row.what.clone(), row.unit.clone(), amount(&row.ours)];
            let mut marks = row.marks.iter().map(|mark| {
                let kind = match mark.kind {
                    Kind::Peer => "",
                    Kind::Floor => "floor: ",
                    Kind::Ours => "ours: ",
                };
                let name = format!("{kind}{}", mark.name);
                [name, amount(&mark.value), number(mark.ratio(row))]
            });
            let one = marks.next().unwrap_or_default();
            table.row(first.into_iter().chain(one).chain([goal]));
            marks.for_each(|mark| {
                table.row([String::new(), String::new(), String::new()].into_iter().chain(mark).chain([String::new()]));
            });
        }
        table
    }

    /// The table of the processor time of each tier.
    pub fn tiers(&self) -> Table {
        let mut table = Table::new(&["what", "tier", "ms for one change"]);
        for row in &self.rows {
            for (at, tier) in row.tiers.iter().enumerate() {
                let what = if at == 0 { row.what.clone() } else { String::new() };
                table.row([what, tier.name.clone(), number(tier.milliseconds)]);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::report::Row;

    #[test]
    fn numbers_are_short() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(13_300.0, "13,300");
        check(1_234_567.0, "1,234,567");
        check(162.4, "162");
        check(54.26, "54.3");
        check(1.5, "1.5");
        check(0.0271, "0.027");
        check(0.0, "0");
        check(-5.25, "-5.25");
        check(100.0, "100");
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["a", "b"]);
        assert!(table.is_empty());
        table.row(["one".to_owned(), "1".to_owned()]);
        table.row(["é".to_owned(), "22".to_owned()]);
        assert_eq!(table.text(), "| a   |  b |\n|-----|---:|\n| one |  1 |\n| é   | 22 |\n");
    }

    #[test]
    fn a_row_has_a_line_for_each_mark() {
        let row = Row::new("push", "a push", "ms", Spread::of(vec![30.0, 40.0, 50.0])).goal(45.0);
        let row = row.beside(Kind::Peer, "git", Spread::one(20.0)).beside(Kind::Floor, "fsync", Spread::one(5.0));
        let report = Report { rows: vec![row.tier("conf-master", 12.0)], ..Report::default() };
        let table = report.table().text();
        let cells = |line: usize| -> Vec<String> {
            let line = table.lines().nth(line).unwrap_or_default();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(cells(2), ["", "a push", "ms", "40 (30..50)", "git", "20", "2", "45 reached", ""]);
        assert_eq!(cells(3), ["", "", "", "", "floor: fsync", "5", "8", "", ""]);
        assert!(report.tiers().text().contains("| a push | conf-master |"));
    }
}
