//! The control: a relay that copies bytes and looks at nothing, one thread for each direction.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

const BUFFER_BYTES: usize = 64 * 1024;

/// Relays until killed.
pub(crate) fn serve(listen: &str, target: &str) -> Result<()> {
    for client in TcpListener::bind(listen)?.incoming() {
        let client = client?;
        let server = TcpStream::connect(target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = (client.try_clone()?, client);
        let (from_server, to_server) = (server.try_clone()?, server);
        thread::spawn(move || copy(from_client, to_server));
        thread::spawn(move || copy(from_server, to_client));
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(length) = from.read(&mut buffer)
        && length > 0
        && to.write_all(buffer.get(..length).unwrap_or_default()).is_ok()
    {}
    // Either side may be gone already.
    drop(to.shutdown(Shutdown::Write));
}
