//! `sendto(2)` and `sendmsg(2)` on unconnected UDP sockets: DNS to the resolvers, nothing else.

use crate::agent::{Standing, standing};
use crate::context::{socket_of, user_v4, user_v6};
use crate::{Answer, answer, maps};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_abi::{Counter, Endpoint};

/// IPv4 destinations, IPv4-mapped ones included.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn send4(context: SockAddrContext) -> i32 {
    answer(send(&context, user_v4(&context)))
}

/// IPv6 destinations.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn send6(context: SockAddrContext) -> i32 {
    answer(send(&context, user_v6(&context)))
}

/// Refusing UDP makes QUIC clients fall back to TCP, where the proxy is.
#[inline(always)]
fn send(context: &SockAddrContext, to: Endpoint) -> Answer {
    match standing(socket_of(context)) {
        Standing::Free => Ok(()),
        Standing::Orphan => Err(Counter::OrphanRefused),
        Standing::Governed(_) if maps::is_resolver(to) => Ok(()),
        Standing::Governed(_) => Err(Counter::DatagramRefused),
    }
}
