//! Plots as SVG, written by hand: bars of rows beside their marks, and curves.

use std::fmt::Write as _;

use crate::figures::{
    report::{Kind, Row},
    scale::Curve,
    spread::Spread,
    table::{amount, number},
};

const OURS: &str = "#1f6feb";
const PEER: &str = "#bf5b17";
const FLOOR: &str = "#8c8c8c";
const COLOURS: [&str; 6] = [OURS, PEER, "#2da44e", "#8250df", FLOOR, "#cf222e"];
const INK: &str = "#57606a";
const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";

/// Draws each row as bars: this system first, then its marks, on a scale of the row's own.
pub fn bars(rows: &[&Row]) -> String {
    const LEFT: f64 = 430.0;
    const WIDE: f64 = 330.0;
    const HIGH: f64 = 20.0;
    let mut body = String::new();
    let mut y = 10.0;
    for row in rows {
        let better = if row.more_is_better { "more is better" } else { "less is better" };
        let _ = writeln!(
            body,
            "<text x=\"10\" y=\"{:.0}\" {FONT} font-weight=\"bold\" fill=\"{INK}\">{} ({}, {better})</text>",
            y + 14.0,
            escaped(&row.what),
            escaped(&row.unit)
        );
        y += HIGH + 4.0;
        let marks = row.marks.iter().map(|mark| (mark.name.as_str(), mark.kind, &mark.value));
        let all: Vec<(&str, Kind, &Spread)> =
            std::iter::once(("this system", Kind::Ours, &row.ours)).chain(marks).collect();
        let most = all.iter().map(|(_, _, value)| value.p90).fold(f64::MIN_POSITIVE, f64::max);
        let place = |value: f64| LEFT + value / most * WIDE;
        for (at, (name, kind, value)) in all.into_iter().enumerate() {
            let colour = match kind {
                Kind::Ours if at == 0 => OURS,
                Kind::Peer => PEER,
                Kind::Floor | Kind::Ours => FLOOR,
            };
            let middle = y + HIGH / 2.0;
            let _ = writeln!(
                body,
                "<text x=\"{:.0}\" y=\"{:.0}\" {FONT} fill=\"{INK}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                 <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#24292f\" stroke-width=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\" {FONT} fill=\"{INK}\">{}</text>",
                LEFT - 8.0,
                middle + 4.0,
                escaped(name),
                y + 3.0,
                (place(value.median) - LEFT).max(1.0),
                HIGH - 6.0,
                place(value.p10),
                place(value.p90),
                place(value.p90.max(value.median)) + 6.0,
                middle + 4.0,
                escaped(&amount(value)),
            );
            y += HIGH;
        }
        if let Some(goal) = row.goal.filter(|goal| *goal <= most) {
            let (x, top) = (place(goal), y - HIGH * f64::from(u32::try_from(row.marks.len() + 1).unwrap_or(1)));
            let _ = writeln!(
                body,
                "<path d=\"M{x:.1} {top:.0}V{y:.0}\" stroke=\"#cf222e\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>"
            );
        }
        y += 12.0;
    }
    page(930.0, y, &body)
}

/// Draws a curve on two logarithmic axes: what grows with the change alone is flat.
pub fn curve(curve: &Curve) -> String {
    const LEFT: f64 = 90.0;
    const TOP: f64 = 40.0;
    const WIDE: f64 = 480.0;
    const HIGH: f64 = 260.0;
    let points = || curve.series.iter().flat_map(|series| &series.points);
    let (x_from, x_to) = decades(points().map(|(x, _)| *x));
    let (y_from, y_to) = decades(points().map(|(_, y)| *y));
    let place = |x: f64, y: f64| {
        let part = |value: f64, from: f64, to: f64| (value.max(f64::MIN_POSITIVE).log10() - from) / (to - from);
        (LEFT + part(x, x_from, x_to) * WIDE, TOP + HIGH - part(y, y_from, y_to).clamp(0.0, 1.0) * HIGH)
    };
    let mut body = format!(
        "<text x=\"10\" y=\"20\" {FONT} font-weight=\"bold\" fill=\"{INK}\">{} ({})</text>\n",
        escaped(&curve.what),
        escaped(&curve.unit)
    );
    let steps =
        |from: f64, to: f64| std::iter::successors(Some(from), |at| Some(at + 1.0)).take_while(move |at| *at <= to);
    for decade in steps(x_from, x_to) {
        let (x, _) = place(10_f64.powf(decade), 1.0);
        let _ = writeln!(
            body,
            "<path d=\"M{x:.1} {TOP}V{:.1}\" stroke=\"#d0d7de\"/><text x=\"{x:.1}\" y=\"{:.0}\" {FONT} fill=\"{INK}\" \
             text-anchor=\"middle\">{}</text>",
            TOP + HIGH,
            TOP + HIGH + 18.0,
            number(10_f64.powf(decade))
        );
    }
    for decade in steps(y_from, y_to) {
        let (_, y) = place(1.0, 10_f64.powf(decade));
        let _ = writeln!(
            body,
            "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#d0d7de\"/><text x=\"{:.0}\" y=\"{:.0}\" {FONT} fill=\"{INK}\" \
             text-anchor=\"end\">{}</text>",
            LEFT + WIDE,
            LEFT - 8.0,
            y + 4.0,
            number(10_f64.powf(decade))
        );
    }
    let _ = writeln!(
        body,
        "<text x=\"{:.0}\" y=\"{:.0}\" {FONT} fill=\"{INK}\" text-anchor=\"middle\">{}</text>",
        LEFT + WIDE / 2.0,
        TOP + HIGH + 38.0,
        escaped(&curve.x)
    );
    for (at, series) in curve.series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let places: Vec<(f64, f64)> = series.points.iter().map(|(x, y)| place(*x, *y)).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in places {
            let _ = writeln!(body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let y = TOP + 14.0 + 18.0 * f64::from(u32::try_from(at).unwrap_or_default());
        let _ = writeln!(
            body,
            "<rect x=\"{:.0}\" y=\"{:.0}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{y:.0}\" {FONT} fill=\"{INK}\">{}</text>",
            LEFT + WIDE + 16.0,
            y - 6.0,
            LEFT + WIDE + 36.0,
            escaped(&series.name)
        );
    }
    page(LEFT + WIDE + 300.0, TOP + HIGH + 50.0, &body)
}

/// The whole powers of ten around values.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| *value > 0.0) {
        from = from.min(value.log10().floor());
        to = to.max(value.log10().ceil());
    }
    if from > to { (0.0, 1.0) } else { (from, to.max(from + 1.0)) }
}

fn page(wide: f64, high: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide:.0}\" height=\"{high:.0}\" viewBox=\"0 0 {wide:.0} {high:.0}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_a_point_for_each_value() {
        let mut one = Curve::new("a", "a & b", "hosts", "ms", &["first", "second"]);
        one.point(10.0, &[1.0, 50.0]);
        one.point(1000.0, &[1.5, 5000.0]);
        let svg = curve(&one);
        assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
        assert!(svg.contains("a &amp; b (ms)") && svg.contains(">10,000<"), "{svg}");
        assert_eq!(decades([10.0, 1000.0].into_iter()), (1.0, 3.0));
        assert_eq!(decades([0.0, 5.0].into_iter()), (0.0, 1.0));
        assert_eq!(decades(std::iter::empty()), (0.0, 1.0));
    }

    #[test]
    fn the_longest_bar_is_as_wide_as_the_plot() {
        let row = Row::new("push", "a push", "ms", Spread::one(30.0)).beside(Kind::Peer, "plain", Spread::one(60.0));
        let svg = bars(&[&row]);
        assert!(svg.contains("width=\"165.0\"") && svg.contains("width=\"330.0\""), "{svg}");
    }
}
