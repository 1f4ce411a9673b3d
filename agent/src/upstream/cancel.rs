//! Sends a CancelRequest to the server that runs a session.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::CONNECT_TIME_MAX;
use super::dial::Target;
use super::error::{Stage, UpstreamError};
use super::login::BackendKey;
use super::wire::within;

/// CancelRequest's code, 1234.5678
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
const CANCEL_REQUEST: u32 = 80_877_102;
/// Length, code and process id, in bytes.
const FIXED_BYTES: u32 = 12;

/// Asks the server to cancel what the session with this key is doing, on a new connection under the session's own
/// TLS rules. The server never says whether it did; returning `Ok` means that it has read the request.
///
/// # Errors
/// The server cannot be reached or verified.
pub async fn cancel(target: &Target, key: &BackendKey) -> Result<(), UpstreamError> {
    let mut stream = target.redial().await?;
    let secret = key.secret.expose();
    let mut request = BytesMut::with_capacity(secret.len().saturating_add(16));
    request.put_u32(FIXED_BYTES.saturating_add(u32::try_from(secret.len()).unwrap_or(u32::MAX)));
    request.put_u32(CANCEL_REQUEST);
    request.put_u32(key.process_id);
    request.put_slice(secret);
    let address = target.address();
    let exchange = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        // The server closes when it has sent the signal; waiting for that keeps a cancel from being overtaken by the
        // next statement. How it closes does not matter.
        match stream.read(&mut [0; 1]).await {
            Ok(_) | Err(_) => Ok(()),
        }
    };
    let exchange = async {
        exchange.await.map_err(|source| UpstreamError::Broken { stage: Stage::Cancel, address, source })
    };
    within(CONNECT_TIME_MAX, Stage::Cancel, address, exchange).await
}
