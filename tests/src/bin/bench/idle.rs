//! Many logged-in sessions that do nothing: what each of them costs in memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};

use crate::report;

/// Said once every session is ready for a query.
pub(crate) const READY: &str = "ready";

/// Opens sessions one after the other, says [`READY`], and holds them until standard input ends.
pub(crate) fn hold(address: &str, sessions: usize) -> Result<()> {
    let open: Vec<TcpStream> = (0..sessions).map(|_| log_in(address)).collect::<Result<_>>()?;
    report::say(READY)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(open);
    Ok(())
}

/// A start-up message of protocol 3.0, and the answer up to ReadyForQuery
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
pub(crate) fn log_in(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("cannot connect")?;
    let parameters = b"\0\x03\0\0user\0agent\0database\0bench\0\0";
    let length = u32::try_from(parameters.len() + 4)?;
    stream.write_all(&[&length.to_be_bytes(), parameters.as_slice()].concat())?;
    loop {
        match message(&mut stream)? {
            (b'Z', _) => return Ok(stream),
            (b'E', body) => bail!("refused: {}", String::from_utf8_lossy(&body).replace('\0', " ")),
            _ => {}
        }
    }
}

/// The server's next message: its type and body.
pub(crate) fn message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let [tag, length @ ..] = header;
    let length = u32::from_be_bytes(length).checked_sub(4).context("a length below its own size")?;
    let mut body = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut body)?;
    Ok((tag, body))
}
