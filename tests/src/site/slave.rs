//! A conf-slave.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::Value;

use crate::{
    authority::Authority,
    http::Address,
    program::Daemon,
    proxy::Proxy,
    site::{master::token_in, repository::repositories_below},
    wait::{eventually, remove_folder},
};

/// A datacenter's cache.
#[derive(Debug)]
pub struct Slave {
    /// The process.
    pub daemon: Daemon,
    /// Its datacenter.
    pub datacenter: String,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Its base URL.
    pub url: String,
    /// The authority of its certificate, if it speaks TLS.
    pub authority: Option<Authority>,
    /// A proxy between it and its hosts.
    pub proxy: Option<Proxy>,
    /// A proxy between it and the central server.
    pub to_central: Option<Proxy>,
    /// Its folder.
    pub state: PathBuf,
    /// The file with its token, if there are tokens.
    pub token: Option<PathBuf>,
}

impl Slave {
    /// Returns the base URL for hosts: the proxy's, if there is one.
    pub fn public_url(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.url.clone(), Proxy::url)
    }

    /// Returns its address for requests.
    pub fn http(&self) -> Address {
        let address = self.unproven();
        self.token.iter().fold(address, |address, token| address.with(&token_in(token)))
    }

    /// Returns its address for requests without a token.
    pub fn unproven(&self) -> Address {
        Address::of(self.address, self.authority.as_ref())
    }

    /// Requests `GET /api/v1/status`.
    pub fn status(&self) -> Result<Value, String> {
        self.http().get_json("/api/v1/status")
    }

    /// Waits until it serves a sequence or a later one.
    #[track_caller]
    pub fn wait_at(&self, sequence: u64) {
        eventually(&format!("{} to be at #{sequence}", self.url), || {
            let status = self.status()?;
            if status["sequence"].as_u64() >= Some(sequence) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Lists its repositories on disk.
    pub fn repositories(&self) -> Vec<PathBuf> {
        repositories_below(&self.state)
    }

    /// Kills it, removes its folder, and starts it again.
    pub fn empty_and_restart(&mut self) {
        self.daemon.kill9();
        remove_folder(&self.state);
        self.daemon.start();
    }
}
