//! A server that tells who reached it over TLS: the other end of the client checks.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// The name under which a PostgreSQL client is remembered.
pub(super) const POSTGRES: &str = "psql";

/// Longest head of a request, and longest start-up message, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long one connection may take.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// SSLRequest, PostgreSQL protocol's question whether the server speaks TLS: its length and its code
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 18\r\n\
                        connection: close\r\n\r\nportcullis doctor\n";

/// Who has sent a request over TLS, and so has accepted the server's certificate: the first segment of its path.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashSet<String>>);

impl Heard {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn note(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, heard: Arc<Heard>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, heard) = (acceptor.clone(), Arc::clone(&heard));
                connections.spawn(async move {
                    // A client that refuses the certificate ends its connection with an error: it is not heard.
                    drop(timeout(CONNECTION_TIME_MAX, answer(stream, &acceptor, &heard)).await);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream, acceptor: &TlsAcceptor, heard: &Heard) -> io::Result<()> {
    let mut first = [0; 1];
    stream.peek(&mut first).await?;
    if first == [0] {
        let mut request = [0; SSL_REQUEST.len()];
        stream.read_exact(&mut request).await?;
        if request != SSL_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.write_all(b"S").await?;
        return answer_postgres(acceptor.accept(stream).await?, heard).await;
    }
    answer_http(acceptor.accept(stream).await?, heard).await
}

async fn answer_http(mut stream: impl AsyncRead + AsyncWrite + Unpin, heard: &Heard) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if let Some(name) = client_name(&String::from_utf8_lossy(&head)) {
        heard.note(name);
    }
    stream.write_all(ANSWER).await?;
    stream.shutdown().await
}

/// The first segment of the path in a request's head: `git` of `GET /git/info/refs HTTP/1.1`.
fn client_name(head: &str) -> Option<&str> {
    let path = head.split(' ').nth(1)?;
    path.strip_prefix('/')?.split(['/', '?']).next()
}

async fn answer_postgres(mut stream: impl AsyncRead + AsyncWrite + Unpin, heard: &Heard) -> io::Result<()> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > HEAD_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut startup = vec![0; length.saturating_sub(4)];
    stream.read_exact(&mut startup).await?;
    heard.note(POSTGRES);
    // ErrorResponse: severity, SQLSTATE `connection_exception`, text.
    let fields = b"SFATAL\0VFATAL\0C08000\0Mportcullis doctor: reached over TLS\0\0";
    stream.write_u8(b'E').await?;
    stream.write_u32(u32::try_from(fields.len() + 4).unwrap_or(u32::MAX)).await?;
    stream.write_all(fields).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_by_their_path() {
        assert_eq!(client_name("GET /git/info/refs?service=x HTTP/1.1\r\n\r\n"), Some("git"));
        assert_eq!(client_name("GET /curl HTTP/1.1\r\n"), Some("curl"));
        assert_eq!(client_name("GET /curl?x HTTP/1.1\r\n"), Some("curl"));
        assert_eq!(client_name("nonsense"), None);
        assert_eq!(client_name("OPTIONS * HTTP/1.1"), None);
    }

    #[test]
    fn the_answers_length_is_right() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}
