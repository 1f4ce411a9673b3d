//! `getpeername(2)` and `recvmsg(2)`: a redirected client sees the address it dialled, and answers come from there.
//!
//! A socket that asks several resolvers without `connect(2)` sees all answers come from the one it asked last.

use crate::context::{set_user_v4, set_user_v6, socket_of, user_v4, user_v6};
use crate::maps;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_abi::Endpoint;

/// The kernel lets these hooks answer 1 and nothing else.
const UNCHANGED_OR_REPLACED: i32 = 1;

/// IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn peer4(context: SockAddrContext) -> i32 {
    if let Some(dialled) = dialled(&context, user_v4(&context)) {
        set_user_v4(&context, dialled);
    }
    UNCHANGED_OR_REPLACED
}

/// IPv6 sockets; IPv4-mapped peers are shown as mapped, which is how they were dialled.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn peer6(context: SockAddrContext) -> i32 {
    if let Some(dialled) = dialled(&context, user_v6(&context)) {
        set_user_v6(&context, dialled);
    }
    UNCHANGED_OR_REPLACED
}

/// The source of a datagram, for IPv4 sockets.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn receive4(context: SockAddrContext) -> i32 {
    if let Some(dialled) = dialled(&context, user_v4(&context)) {
        set_user_v4(&context, dialled);
    }
    UNCHANGED_OR_REPLACED
}

/// The same for IPv6 sockets, IPv4-mapped sources included.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn receive6(context: SockAddrContext) -> i32 {
    if let Some(dialled) = dialled(&context, user_v6(&context)) {
        set_user_v6(&context, dialled);
    }
    UNCHANGED_OR_REPLACED
}

/// Where the socket was going, if what it is connected to is the proxy.
#[inline(always)]
fn dialled(context: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
    if !maps::is_proxy(peer) {
        return None;
    }
    let socket = maps::socket(socket_of(context))?;
    if socket.dialled == 0 { None } else { Some(socket.origin.destination) }
}
