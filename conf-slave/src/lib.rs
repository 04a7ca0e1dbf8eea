//! A datacenter's cache of the configuration, and the publisher of its pointers in Consul.

pub mod embedded;
pub mod plan;
