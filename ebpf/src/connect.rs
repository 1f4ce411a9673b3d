//! `connect(2)`: remember where the agent wanted to go, then send it to the proxy: TCP, and UDP to the port of DNS.

use crate::agent::{Standing, run_of, standing};
use crate::context::{Transport, set_user_v4, set_user_v6, socket_of, transport_of, user_v4, user_v6};
use crate::{Answer, answer, maps};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::warn;
use ebpf_abi::{Counter, DNS_PORT, Endpoint};

/// What is left to do once policy on sockets has spoken.
enum Route {
    /// The call goes where it was going.
    Direct,
    /// The call goes to the proxy.
    Proxy,
}

/// IPv4 sockets, and IPv6 datagram sockets given an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub(crate) fn dial4(context: SockAddrContext) -> i32 {
    answer(route(&context, user_v4(&context)).map(|route| match route {
        Route::Direct => {}
        Route::Proxy => set_user_v4(&context, maps::proxy_v4()),
    }))
}

/// IPv6 sockets, IPv4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub(crate) fn dial6(context: SockAddrContext) -> i32 {
    let to = user_v6(&context);
    answer(route(&context, to).map(|route| match route {
        Route::Direct => {}
        Route::Proxy => set_user_v6(&context, proxy_for(to)),
    }))
}

/// An IPv6 destination needs an IPv6 listener only for sockets with `IPV6_V6ONLY`; without one those get `ENETUNREACH`.
#[inline(always)]
fn proxy_for(to: Endpoint) -> Endpoint {
    match (to.address.v4(), maps::proxy_v6()) {
        (None, Some(proxy)) => proxy,
        (None, None) | (Some(_), _) => maps::proxy_v4(),
    }
}

#[inline(always)]
fn route(context: &SockAddrContext, to: Endpoint) -> Result<Route, Counter> {
    let cgroup = match standing(socket_of(context)) {
        Standing::Free => return Ok(Route::Direct),
        Standing::Orphan => return Err(Counter::OrphanRefused),
        Standing::Governed(cgroup) => cgroup,
    };
    match transport_of(context) {
        Transport::Tcp => {
            remember(context, cgroup, to)?;
            maps::count(Counter::Redirected);
            Ok(Route::Proxy)
        }
        Transport::Udp if to.port == DNS_PORT => remember(context, cgroup, to).map(|()| Route::Proxy),
        Transport::Udp => Err(Counter::DatagramRefused),
        Transport::Other => Err(Counter::ProtocolRefused),
    }
}

/// Writes the origin into the socket. Each call writes it anew: a socket may be connected, disconnected (`AF_UNSPEC`)
/// and connected elsewhere. No lock keeps two tasks that send by one UDP socket apart; a run put together from the
/// halves of two is none that the proxy knows.
#[inline(always)]
pub(crate) fn remember(context: &SockAddrContext, cgroup: u64, to: Endpoint) -> Answer {
    let destination = Endpoint { address: to.address.as_destination(), port: to.port };
    if maps::is_proxy(destination) {
        return Err(Counter::ProxyDialRefused);
    }
    let agent = run_of(cgroup).ok_or(Counter::OrphanRefused)?;
    let comm = bpf_get_current_comm().map_err(|_errno| Counter::StorageRefused)?;
    let Some(socket) = maps::socket_or_new(socket_of(context)) else {
        warn!(context, "no memory for the origin of a connection: refused");
        return Err(Counter::StorageRefused);
    };
    socket.governed_by = cgroup;
    socket.dialled = 1;
    let origin = &mut socket.origin;
    origin.run = agent.run;
    origin.destination = destination;
    let task = bpf_get_current_pid_tgid();
    origin.tgid = (task >> 32) as u32;
    origin.tid = task as u32;
    let user = bpf_get_current_uid_gid();
    origin.uid = user as u32;
    origin.gid = (user >> 32) as u32;
    origin.comm = comm;
    origin.governed_by = cgroup;
    // SAFETY: helpers without arguments, and two that take this program's own context.
    unsafe {
        origin.cgroup = bpf_get_current_cgroup_id();
        origin.socket_cookie = bpf_get_socket_cookie(maps::raw(context));
        origin.netns_cookie = bpf_get_netns_cookie(maps::raw(context));
        origin.boot_ns = bpf_ktime_get_boot_ns();
    }
    Ok(())
}
