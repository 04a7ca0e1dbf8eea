//! The routes for this datacenter's hosts.

mod view;
mod datacenters;
mod at;
mod events;
mod embedded;
mod routes;

pub use embedded::EmbeddedConsul;
pub(crate) use {routes::routes, view::View};
