//! A datacenter's cache of the configuration, and the publisher of its pointers in Consul.
//!
//! Read in this order: [`follow`] hears of a snapshot, [`mirror`] brings and checks it, [`plan`] decides what Consul
//! should say and [`publish`] says it; [`tips`] brings the branches behind it, [`upkeep`] packs and looks for damage.
//! [`http`] is what hosts ask, [`at`] which snapshot was the newest at a change, [`hosts`] what they report, [`embedded`] the stand-in for Consul.
//!
//! Always true:
//! - What is served was signed for this datacenter, is complete, and never goes back, across restarts either.
//! - What Consul names was served before it was named; no write of an older snapshot follows a newer one there.
//! - With the central server, Consul or both away, hosts are served from what is here; both are caught up with by itself.

pub mod central;
pub mod reports;
pub mod server;

pub mod config;
pub mod http;
pub mod mirror;
pub mod problems;
pub mod publish;
