//! The effect of a change before it lands: what is lost, what each host gets, and the difference in
//! files and settings.

mod model;
mod component;
mod losses;
mod of;
mod print;

pub(crate) use crate::judge::plan::model::ChangePlan;
