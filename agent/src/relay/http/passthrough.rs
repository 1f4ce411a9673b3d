//! TLS that the policy does not end: the name the client asks for and the bytes are recorded, nothing is read.

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::flow::Side;
use crate::gate::Admission;
use crate::policy::rule::Destination;
use crate::record::SessionRecord;
use crate::record::event::{EndReason, Ended};
use crate::relay::{Relay, Shutdown, opaque};

/// Relays one connection unread. A name other than those the policy gives the connection by is refused: behind one
/// address there may be many servers.
pub(super) async fn serve(
    tcp: TcpStream,
    hello: Bytes,
    name: Option<String>,
    admission: &Admission,
    relay: &Relay,
    mut record: SessionRecord,
    shutdown: Shutdown,
) {
    if let Some(name) = &name
        && !allows(admission, name)
    {
        let detail = format!("the client asks for \"{name}\", which the connection is not for");
        let ended = Ended { reason: EndReason::Refused, side: Side::Policy, detail: Some(detail) };
        return super::finish(record, ended);
    }
    let note = match &name {
        Some(name) => format!("TLS passed through, for \"{name}\""),
        None => "TLS passed through; the client names no server".to_owned(),
    };
    if let Err(error) = record.note(&note) {
        let ended =
            Ended { reason: EndReason::Failed, side: Side::Portcullis, detail: Some(error.to_string()) };
        return super::finish(record, ended);
    }
    opaque::serve(tcp, &hello, admission, relay, record, shutdown).await;
}

fn allows(admission: &Admission, name: &str) -> bool {
    let mut hosts = admission.connection().to.iter().filter_map(|to| match to {
        Destination::Host { name, .. } => Some(name.as_str()),
        Destination::Network { .. } => None,
    });
    let by_address = admission.connection().to.iter().any(|to| matches!(to, Destination::Network { .. }));
    by_address || hosts.any(|host| host.eq_ignore_ascii_case(name))
}
