//! The way to a server by a proxy: CONNECT (RFC 9110 section 9.3.6).

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::UpstreamError;
use crate::gate::Through;

/// Bytes of the proxy's answer that are taken.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Has the proxy open a tunnel on a fresh connection to it.
///
/// # Errors
/// The proxy will not, or speaks no HTTP.
pub(super) async fn open(
    tcp: TcpStream,
    proxy: SocketAddr,
    through: &Through,
) -> Result<TcpStream, UpstreamError> {
    let failed = |detail: String| UpstreamError::Proxy { proxy, detail };
    let begun = http1::Builder::new()
        .preserve_header_case(true)
        .max_header_size(HEAD_BYTES_MAX)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(tcp))
        .await;
    let (mut sender, connection) = begun.map_err(|error| failed(error.to_string()))?;
    let serving = tokio::spawn(connection.with_upgrades());
    let request = request(through).map_err(|error| failed(error.to_string()))?;
    let answered = sender.send_request(request).await;
    let response = answered.map_err(|error| failed(error.to_string()))?;
    if !response.status().is_success() {
        serving.abort();
        return Err(failed(format!("it answers with {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| failed(error.to_string()))?;
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
        Ok(_) => Err(failed("the server spoke before it was spoken to".to_owned())),
        Err(_) => Err(failed("the tunnel is not the connection it was asked on".to_owned())),
    }
}

fn request(through: &Through) -> Result<Request<Empty<Bytes>>, http::Error> {
    let uri = Uri::builder().authority(through.authority()).build()?;
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(Empty::new())?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(through.authority())?);
    for (name, value) in through.fields() {
        request.headers_mut().append(name, value.clone());
    }
    Ok(request)
}
