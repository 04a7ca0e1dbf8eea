//! The stories, one room each: what the system is for, and everything that may get in its way. One program, so that it is
//! linked once and all stories share the machine's cores.

mod applications;
mod barrier;
mod canary;
mod cli;
mod compatibility;
mod consul_faults;
mod credentials;
mod daemons;
mod delivery;
mod disk;
mod events;
mod git_clients;
mod harness;
mod jinja2;
mod jobs;
mod kills;
mod layers;
mod moving_in;
mod nginx;
mod openapi;
mod paths;
mod pins;
mod place;
mod refusals;
mod secrets;
mod slaves;
mod templates;
mod update;
mod validation;
mod wire;
mod writers;
