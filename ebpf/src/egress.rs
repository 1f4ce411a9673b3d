//! Packets leaving: the backstop. Whatever an agent's socket got hold of, only loopback and DNS come through.

use crate::agent::nearest;
use crate::context::{UDP, field};
use crate::maps;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_ancestor_cgroup_id;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use ebpf_abi::{Address, Counter, Endpoint};

/// `ETH_P_IP`, `ETH_P_IPV6` (include/linux/if_ether.h) as the context has them.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// `LOOPBACK_IFINDEX` (include/net/flow.h), the same in every network namespace.
const LOOPBACK_DEVICE: u32 = 1;

/// A packet as far as this program looks into it.
struct Packet {
    destination: Address,
    /// Offset of the UDP header, if the packet has one.
    datagram: Option<usize>,
}

const PASS: i32 = 1;
const DROP: i32 = 0;

/// Called for every packet that a local socket sends.
#[cgroup_skb(egress)]
pub(crate) fn leave(context: SkBuffContext) -> i32 {
    let packet = parse(&context);
    if packet.as_ref().is_some_and(|packet| stays_here(&context, packet)) || !is_governed(&context) {
        return PASS;
    }
    if packet.is_some_and(|packet| is_dns(&context, &packet)) {
        return PASS;
    }
    maps::count(Counter::EgressDropped);
    DROP
}

/// To a loopback address by the loopback device: a socket bound to another device sends even `127.0.0.1` out there.
#[inline(always)]
fn stays_here(context: &SkBuffContext, packet: &Packet) -> bool {
    packet.destination.is_loopback() && field!(context.skb.skb, ifindex) == LOOPBACK_DEVICE
}

/// By the socket's mark, or by the cgroup it was born in: sockets older than the run have no mark.
#[inline(always)]
fn is_governed(context: &SkBuffContext) -> bool {
    let skb: *mut __sk_buff = context.skb.skb;
    let sk = field!(skb, __bindgen_anon_2.sk);
    if !sk.is_null() && maps::socket(sk.cast::<c_void>()).is_some() {
        return true;
    }
    // SAFETY: takes this program's own context; answers 0 beyond the socket's own level.
    nearest(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) }).is_some()
}

/// `None` for what is neither IPv4 nor IPv6, or is cut short.
#[inline(always)]
fn parse(context: &SkBuffContext) -> Option<Packet> {
    match field!(context.skb.skb, protocol) {
        IPV4 => {
            let first: u8 = context.load(0).ok()?;
            let protocol: u8 = context.load(9).ok()?;
            let destination: u32 = context.load(16).ok()?;
            let header_len = usize::from(first & 0x0f) * 4;
            Some(Packet {
                destination: Address::from_v4(destination),
                datagram: (u32::from(protocol) == UDP).then_some(header_len),
            })
        }
        IPV6 => {
            let protocol: u8 = context.load(6).ok()?;
            let destination: [u32; 4] = context.load(24).ok()?;
            Some(Packet {
                destination: Address(destination),
                datagram: (u32::from(protocol) == UDP).then_some(40),
            })
        }
        _ => None,
    }
}

#[inline(always)]
fn is_dns(context: &SkBuffContext, packet: &Packet) -> bool {
    let Some(header) = packet.datagram else { return false };
    let Ok(port) = context.load::<u16>(header + 2) else { return false };
    maps::is_resolver(Endpoint { address: packet.destination, port: u32::from(u16::from_be(port)) })
}
