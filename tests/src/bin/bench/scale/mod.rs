//! How the cost grows with hosts, components and datacenters, and what a day costs.

mod hosts;
mod components;
mod many;
mod days;

use std::{fmt::Write as _, fs};

use tests::figures::{Curve, Scale, curve};

use crate::options::Options;

/// Measures, prints and writes.
pub(crate) fn run(options: &Options) -> std::io::Result<()> {
    let size = options.size;
    let wanted = |name: &str| options.rows.is_empty() || options.rows.iter().any(|row| row == name);
    let mut scale = Scale::default();
    if wanted("hosts") {
        let (curves, measured) = hosts::measure(size);
        scale.curves.extend(curves);
        scale.days = days::of_fleets(&measured);
        scale.measured = measured;
    }
    if wanted("components") {
        scale.curves.extend(components::measure(size));
    }
    if wanted("datacenters") {
        scale.curves.extend(many::measure(size));
    }
    fs::create_dir_all(&options.out)?;
    let mut text = String::new();
    for curve in &scale.curves {
        text.push_str(&told(curve));
    }
    if !scale.measured.is_empty() {
        let (hops, days) = (scale.hops().text(), scale.days().text());
        let _ = writeln!(text, "what passes between the tiers\n\n{hops}\nwhat a day costs\n\n{days}");
    }
    print!("{text}");
    for one in &scale.curves {
        fs::write(options.out.join(format!("scale-{}.svg", one.id)), curve(one))?;
    }
    fs::write(options.out.join("scale.txt"), &text)?;
    fs::write(options.out.join("scale.json"), format!("{}\n", serde_json::to_string_pretty(&scale)?))
}

fn told(curve: &Curve) -> String {
    format!("{}\n\n{}\n", curve.what, curve.table().text())
}
