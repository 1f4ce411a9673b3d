//! Bytes to and from both peers, and what the client was told on the way.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::BytesMut;
use portcullis::codec::postgres::backend;
use portcullis::codec::postgres::{BackendTag, Item, Scanner};

/// Appends a message.
pub fn put(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.extend_from_slice(&[tag]);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

/// The cancel key that the client was given.
pub fn key(shown: &[u8]) -> Option<(u32, Vec<u8>)> {
    let (mut scanner, mut input) = (Scanner::<BackendTag>::new(), shown);
    while let Ok(Some(item)) = scanner.next(&mut input) {
        if let Item::Frame(frame) = item
            && frame.tag == BackendTag::BackendKeyData
        {
            let key = backend::decode_backend_key_data(frame.body()).ok()?;
            return Some((key.process_id, key.secret_key.to_vec()));
        }
    }
    None
}

/// Whether the client was told that it is logged in.
pub fn holds_ready(shown: &[u8]) -> bool {
    memchr::memmem::find(shown, b"Z\0\0\0\x05I").is_some()
}

/// Takes what has come; a connection that has ended is dropped.
pub fn read(stream: &mut Option<TcpStream>, to: &mut Vec<u8>) {
    let Some(socket) = stream else { return };
    let mut buffer = [0; 16 * 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => to.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => break,
        }
    }
    *stream = None;
}

/// Sends what the socket takes.
pub fn write(stream: &mut Option<TcpStream>, from: &mut BytesMut) {
    let Some(socket) = stream else { return from.clear() };
    while !from.is_empty() {
        match socket.write(from) {
            Ok(sent) => drop(from.split_to(sent)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => {
                *stream = None;
                return from.clear();
            }
        }
    }
}
