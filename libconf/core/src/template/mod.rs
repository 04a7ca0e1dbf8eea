//! Templates: the files of a component whose names end in `.j2`, in the Jinja language.
//!
//! A template is a program of its author: one may never end, or double a text until no memory is
//! left. So templates are rendered (`engine`) in a process of their own, which is bounded and can
//! be ended; `child` is that process. It gets no secret: `stand_in` puts the values in afterwards.

mod stand_in;
mod job;
mod watched;
mod scan;
mod edits;
mod lines;
mod concat;
mod prepared;
mod values;
mod engine;
mod process;
mod uses;
#[cfg(test)]
mod tests;

pub use crate::template::process::{ARGUMENT, be_patient, child, prepare, release, rest, through, was_asked};
pub(crate) use crate::template::{
    job::{Job, Made, Rendering, Results, names_others},
    process::render,
    stand_in::Given,
    uses::Uses,
};
