//! A loopback port that leads to a Unix socket, for programs that speak TCP alone.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::address::own_address;

/// A loopback port that leads to a Unix socket, until it is dropped.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Forwarder {
    /// Starts one in front of `socket`. Connections that are open go on after it was dropped.
    pub fn start(socket: &Path) -> Self {
        let address = own_address(7501);
        let listener = TcpListener::bind(address).expect("a free loopback address");
        let closed = Arc::new(AtomicBool::new(false));
        let (socket, ended) = (socket.to_owned(), Arc::clone(&closed));
        thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let socket = socket.clone();
                // The programs on both sides notice a broken connection themselves.
                thread::spawn(move || drop(forward(&client, &socket)));
            }
        });
        Forwarder { address, closed }
    }

    /// Returns its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn forward(mut client: &TcpStream, socket: &Path) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = UnixStream::connect(socket)?;
    let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut client, &mut &server);
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}
