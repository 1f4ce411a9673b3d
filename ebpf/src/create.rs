//! `socket(2)`: agents get TCP and UDP, and every socket of theirs is marked for life.

use crate::agent::governing_task;
use crate::context::{Transport, field};
use crate::{Answer, answer, maps};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use ebpf_abi::Counter;

/// Raw, SCTP, UDP-Lite, MPTCP and ping sockets pass by some of the other hooks, so they are not made at all.
#[cgroup_sock(sock_create)]
pub(crate) fn create(context: SockContext) -> i32 {
    answer(create_socket(&context))
}

#[inline(always)]
fn create_socket(context: &SockContext) -> Answer {
    let Some(cgroup) = governing_task() else { return Ok(()) };
    if Transport::of(field!(context.sock, type_), field!(context.sock, protocol)) == Transport::Other {
        return Err(Counter::ProtocolRefused);
    }
    let socket = maps::socket_or_new(maps::raw(context)).ok_or(Counter::StorageRefused)?;
    socket.governed_by = cgroup;
    Ok(())
}
