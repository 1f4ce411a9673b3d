//! `bind(2)`: agents may listen for themselves on loopback, for nobody else, and never on the proxy's port.

use crate::agent::{Standing, standing};
use crate::context::{socket_of, user_v4, user_v6};
use crate::{Answer, answer, maps};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_abi::{Counter, Endpoint};

/// IPv4 addresses.
#[cgroup_sock_addr(bind4)]
pub(crate) fn bind_v4(context: SockAddrContext) -> i32 {
    answer(bind(&context, user_v4(&context)))
}

/// IPv6 and IPv4-mapped addresses.
#[cgroup_sock_addr(bind6)]
pub(crate) fn bind_v6(context: SockAddrContext) -> i32 {
    answer(bind(&context, user_v6(&context)))
}

/// Any address with port 0 stays possible for unspecified ones: clients do that before `connect(2)`. Should such a
/// socket listen, its answers to strangers are dropped on egress.
#[inline(always)]
fn bind(context: &SockAddrContext, at: Endpoint) -> Answer {
    match standing(socket_of(context)) {
        Standing::Free => return Ok(()),
        Standing::Orphan => return Err(Counter::OrphanRefused),
        Standing::Governed(_) => {}
    }
    let ours_alone = at.address.is_loopback() || (at.address.is_unspecified() && at.port == 0);
    if ours_alone && !maps::is_proxy_port(at.port) { Ok(()) } else { Err(Counter::BindRefused) }
}
