//! The little of PostgreSQL's protocol that a pretended server needs
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).

use std::io::{Read, Result, Write};

/// One message of the server's.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap() + 4;
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// Reads the start-up message and returns its parameters, names and values in turn.
pub(crate) fn startup(stream: &mut impl Read) -> Result<Vec<String>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body)?;
    // Behind the version; every string ends with a zero, and so does the list.
    let words = body[4..].split(|byte| *byte == 0);
    Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// From "no password needed" to "ready", with these parameters besides the usual ones.
pub(crate) fn hello(parameters: &[(&str, &str)]) -> Vec<u8> {
    const USUAL: [(&str, &str); 5] = [
        ("server_version", "15.0"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("integer_datetimes", "on"),
    ];
    let mut hello = message(b'R', &[0; 4]);
    for (name, value) in USUAL.iter().chain(parameters) {
        hello.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    hello.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
    hello.extend(message(b'Z', b"I"));
    hello
}

/// Answers the one question that is asked before the client is let in: where names are looked up.
pub(crate) fn search_path(stream: &mut (impl Read + Write)) -> Result<()> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let [_, length @ ..] = header;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body)?;
    stream.write_all(&[message(b'C', b"SHOW\0"), message(b'Z', b"I")].concat())
}
