//! The command line's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Envelope, REPLY_BYTES_MAX, Refusal, Reply, Request, VERSION};

/// How long the daemon may take to answer (name services can be slow).
const REPLY_TIME_MAX: Duration = Duration::from_secs(60);

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}; start it with `systemctl start portcullis` or `portcullis serve`", .0.display())]
    NotRunning(PathBuf),
    /// The socket's mode keeps the caller out.
    #[error("this user may not open {}; ask to be put into its group", .0.display())]
    NotAllowed(PathBuf),
    /// The daemon said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The daemon answered something else.
    #[error("the daemon's answer cannot be understood; are both from the same version?")]
    NotUnderstood,
    /// The conversation broke.
    #[error("the daemon went away or did not answer in time; see `journalctl -u portcullis`")]
    Broken(#[source] io::Error),
}

/// A connection to the daemon, good for one request.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens or the caller may not connect.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED) => ClientError::NotRunning(path.to_owned()),
            Some(libc::EACCES) => ClientError::NotAllowed(path.to_owned()),
            _ => ClientError::Broken(error),
        })?;
        stream.set_read_timeout(Some(REPLY_TIME_MAX)).map_err(ClientError::Broken)?;
        stream.set_write_timeout(Some(REPLY_TIME_MAX)).map_err(ClientError::Broken)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks and reads the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the daemon says no.
    pub fn ask(mut self, request: &Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.reply()
    }

    /// Asks for a watch; [`Client::reply`] then waits for each reply, however long.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn watch(mut self) -> Result<Self, ClientError> {
        self.send(&Request::Watch)?;
        self.stream.get_ref().set_read_timeout(None).map_err(ClientError::Broken)?;
        Ok(self)
    }

    /// The next reply.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the daemon says no.
    pub fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let limit = u64::try_from(REPLY_BYTES_MAX).unwrap_or(u64::MAX);
        self.stream.by_ref().take(limit).read_until(b'\n', &mut line).map_err(ClientError::Broken)?;
        if line.is_empty() {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&line) {
            Ok(Reply::Refused(refusal)) => Err(ClientError::Refused(refusal)),
            Ok(reply) => Ok(reply),
            Err(_) => Err(ClientError::NotUnderstood),
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let broken = |error: serde_json::Error| ClientError::Broken(error.into());
        let request = serde_json::to_value(request).map_err(broken)?;
        let mut line = serde_json::to_vec(&Envelope { version: VERSION, request }).map_err(broken)?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // The daemon may have refused and hung up before it read the request: its answer says more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(ClientError::Broken),
        }
    }
}
