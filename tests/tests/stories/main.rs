//! The stories, one room each: what the system is for, and everything that may get in its way. One program, so that it is
//! linked once and all stories share the machine's cores.

mod consul_faults;
mod delivery;
mod harness;
mod kills;
mod paths;
mod refusals;
