//! The TCP handshake to the proxy: hands the origin from the client's socket to the accepted one.
//!
//! The client's end is told it is established before it sends the last packet of the handshake, the server's end
//! after it received it. Both then know both sequence numbers, so the record goes from one to the other under a
//! name that no other connection has, and is gone from the map when the proxy sees the connection.

use crate::context::field;
use crate::maps;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use core::ffi::c_void;
use ebpf_abi::{Address, Counter, Endpoint, Handshake};

/// `AF_INET` (include/linux/socket.h).
const AF_INET: u32 = 2;

/// The kernel ignores this return value for the callbacks used here.
const IGNORED: u32 = 1;

/// Called for every TCP socket on the host at the steps it asked for, and at both `ESTABLISHED` steps.
#[sock_ops]
pub(crate) fn handshake(context: SockOpsContext) -> u32 {
    match field!(context.ops, op) {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => offer(&context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accept(&context),
        BPF_SOCK_OPS_STATE_CB if field!(context.ops, __bindgen_anon_1.args[1]) == BPF_TCP_CLOSE => {
            withdraw(&context)
        }
        _ => {}
    }
    IGNORED
}

/// The client's end. Without room in the map there is no record, and the proxy closes what has none.
#[inline(always)]
fn offer(context: &SockOpsContext) {
    let Some(socket) = socket_of(context).and_then(maps::socket) else { return };
    if socket.dialled == 0 {
        return;
    }
    let client = local(context.ops);
    let ours = field!(context.ops, snd_una);
    let theirs = field!(context.ops, rcv_nxt);
    socket.handshake = name(context, client, ours, theirs);
    if !maps::offer(&socket.handshake, &socket.origin) {
        maps::count(Counter::HandshakesFull);
        warn!(context, "no room to hand over the origin of a connection: the proxy will close it");
        return;
    }
    socket.bridged = 1;
    // SAFETY: takes this program's own context.
    unsafe { bpf_sock_ops_cb_flags_set(context.ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
}

/// The proxy's end.
#[inline(always)]
fn accept(context: &SockOpsContext) {
    if !maps::is_proxy_port(field!(context.ops, local_port)) {
        return;
    }
    let ours = field!(context.ops, snd_una);
    let theirs = field!(context.ops, rcv_nxt);
    let name = name(context, remote(context.ops), theirs, ours);
    match take(context, &name) {
        Some(()) => maps::count(Counter::Identified),
        None => maps::count(Counter::Unidentified),
    }
}

/// Moves the record into the accepted socket.
///
/// A client that closes right now removes the record, and its slot may be given to another handshake while it is read
/// here. It was ours throughout if it still is afterwards; if not, an origin without a governing cgroup stays behind,
/// which the proxy takes for none.
#[inline(always)]
fn take(context: &SockOpsContext, name: &Handshake) -> Option<()> {
    let slot = maps::offered(name)?;
    let room = maps::accepted_or_new(socket_of(context)?)?;
    // SAFETY: a map value is readable as long as the program runs; any bytes are a valid `Origin`.
    *room = unsafe { slot.read() };
    if maps::offered(name) != Some(slot) {
        room.governed_by = 0;
        return None;
    }
    maps::withdraw(name);
    Some(())
}

/// The client's socket closed: whatever it still offers is for nobody.
#[inline(always)]
fn withdraw(context: &SockOpsContext) {
    let Some(socket) = socket_of(context).and_then(maps::socket) else { return };
    if socket.bridged == 0 {
        return;
    }
    socket.bridged = 0;
    // Gone already when the proxy took it, which is the usual case.
    maps::withdraw(&socket.handshake);
}

#[inline(always)]
fn name(context: &SockOpsContext, client: Endpoint, client_sequence: u32, server_sequence: u32) -> Handshake {
    // SAFETY: takes this program's own context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(context.ops.cast()) };
    Handshake { netns_cookie, client, client_sequence, server_sequence, reserved: 0 }
}

#[inline(always)]
fn socket_of(context: &SockOpsContext) -> Option<*mut c_void> {
    let sk = field!(context.ops, __bindgen_anon_2.sk);
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// This end's address.
#[inline(always)]
fn local(ops: *const bpf_sock_ops) -> Endpoint {
    let v4 = field!(ops, local_ip4);
    let v6 = [
        field!(ops, local_ip6[0]),
        field!(ops, local_ip6[1]),
        field!(ops, local_ip6[2]),
        field!(ops, local_ip6[3]),
    ];
    Endpoint { address: address(ops, v4, v6), port: field!(ops, local_port) }
}

/// The other end's address. The context has its port in network byte order, unlike the local one.
#[inline(always)]
fn remote(ops: *const bpf_sock_ops) -> Endpoint {
    let v4 = field!(ops, remote_ip4);
    let v6 = [
        field!(ops, remote_ip6[0]),
        field!(ops, remote_ip6[1]),
        field!(ops, remote_ip6[2]),
        field!(ops, remote_ip6[3]),
    ];
    Endpoint { address: address(ops, v4, v6), port: u32::from_be(field!(ops, remote_port)) }
}

/// An IPv6 socket that talks IPv4 has a mapped address, an IPv4 one has a word; both become mapped.
///
/// Takes both as values: reads in two branches would be merged into one at a computed offset, which the verifier
/// refuses for a context.
#[inline(always)]
fn address(ops: *const bpf_sock_ops, v4: u32, v6: [u32; 4]) -> Address {
    if field!(ops, family) == AF_INET { Address::from_v4(v4) } else { Address(v6) }
}
