//! Measured figures: what was measured, beside what, and how it is shown.
//!
//! The program `bench` fills a `Report`. Its tables, its plots and the page of the documentation
//! are made of the report alone, so they cannot say anything else.

mod spread;
mod report;
mod table;
mod trace;
mod scale;
mod plot;
mod page;

pub use self::{
    page::Performance,
    plot::{bars, curve},
    report::{Kind, Machine, Mark, Report, Row, Tier},
    scale::{Curve, Day, Hop, Scale, Series},
    spread::{Spread, three},
    table::{Table, amount, number},
    trace::{Moment, Trace, Work},
};
