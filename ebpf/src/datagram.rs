//! `sendto(2)` and `sendmsg(2)` on unconnected UDP sockets: DNS goes to the proxy, nothing else goes anywhere.

use crate::agent::{Standing, standing};
use crate::connect::remember;
use crate::context::{set_user_v4, set_user_v6, socket_of, user_v4, user_v6};
use crate::{Answer, answer, maps};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_abi::{Counter, DNS_PORT, Endpoint};

/// IPv4 destinations, IPv4-mapped ones included.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn send4(context: SockAddrContext) -> i32 {
    answer(send(&context, user_v4(&context), Some(maps::proxy_v4()), set_user_v4))
}

/// IPv6 destinations. The kernel takes no IPv4-mapped replacement here, so that there must be an IPv6 socket.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn send6(context: SockAddrContext) -> i32 {
    answer(send(&context, user_v6(&context), maps::proxy_v6(), set_user_v6))
}

/// Refusing UDP makes QUIC clients fall back to TCP, where the proxy is.
#[inline(always)]
fn send(
    context: &SockAddrContext,
    to: Endpoint,
    proxy: Option<Endpoint>,
    redirect: impl Fn(&SockAddrContext, Endpoint),
) -> Answer {
    let cgroup = match standing(socket_of(context)) {
        Standing::Free => return Ok(()),
        Standing::Orphan => return Err(Counter::OrphanRefused),
        Standing::Governed(cgroup) => cgroup,
    };
    // An IPv6 socket connected to a mapped address comes here all the same, with what `connect(2)` made of it.
    if maps::is_proxy(to) && maps::socket(socket_of(context)).is_some_and(|socket| socket.dialled != 0) {
        return Ok(());
    }
    let (DNS_PORT, Some(proxy)) = (to.port, proxy) else { return Err(Counter::DatagramRefused) };
    remember(context, cgroup, to)?;
    redirect(context, proxy);
    Ok(())
}
