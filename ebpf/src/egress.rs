//! Packets leaving: the backstop. Whatever an agent's socket got hold of, only what stays on loopback comes through.
//!
//! Also where the sender of a DNS question is noted: only here are its socket and its source port known together.

use crate::Answer;
use crate::agent::nearest;
use crate::context::{UDP, field};
use crate::maps;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_ancestor_cgroup_id;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use ebpf_abi::{Address, Counter, Endpoint, Question};

/// `ETH_P_IP`, `ETH_P_IPV6` (include/linux/if_ether.h) as the context has them.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// `LOOPBACK_IFINDEX` (include/net/flow.h), the same in every network namespace.
const LOOPBACK_DEVICE: u32 = 1;

/// A packet as far as this program looks into it.
struct Packet {
    source: Address,
    destination: Address,
    /// Offset of the UDP header, if the packet has one.
    datagram: Option<usize>,
}

/// Length of a UDP header (RFC 768).
const UDP_HEADER_BYTES: usize = 8;

const PASS: i32 = 1;
const DROP: i32 = 0;

/// Called for every packet that a local socket sends.
#[cgroup_skb(egress)]
pub(crate) fn leave(context: SkBuffContext) -> i32 {
    let refused = match parse(&context) {
        Some(packet) if stays_here(&context, &packet) => match question(&context, &packet) {
            Some(question) => note_sender(&context, question).err(),
            None => None,
        },
        Some(_) | None if is_governed(&context) => Some(Counter::EgressDropped),
        Some(_) | None => None,
    };
    let Some(reason) = refused else { return PASS };
    maps::count(reason);
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
            let source: u32 = context.load(12).ok()?;
            let destination: u32 = context.load(16).ok()?;
            let header_len = usize::from(first & 0x0f) * 4;
            Some(Packet {
                source: Address::from_v4(source),
                destination: Address::from_v4(destination),
                datagram: (u32::from(protocol) == UDP).then_some(header_len),
            })
        }
        IPV6 => {
            let protocol: u8 = context.load(6).ok()?;
            let source: [u32; 4] = context.load(8).ok()?;
            let destination: [u32; 4] = context.load(24).ok()?;
            Some(Packet {
                source: Address(source),
                destination: Address(destination),
                datagram: (u32::from(protocol) == UDP).then_some(40),
            })
        }
        _ => None,
    }
}

/// A datagram to the proxy, as the proxy will see it; one without a message's id has id 0.
#[inline(always)]
fn question(context: &SkBuffContext, packet: &Packet) -> Option<Question> {
    let header = packet.datagram?;
    let port = u32::from(u16::from_be(context.load::<u16>(header + 2).ok()?));
    if !maps::is_proxy(Endpoint { address: packet.destination, port }) {
        return None;
    }
    let port = u32::from(u16::from_be(context.load::<u16>(header).ok()?));
    let id = u32::from(u16::from_be(context.load::<u16>(header + UDP_HEADER_BYTES).unwrap_or_default()));
    Some(Question { client: Endpoint { address: packet.source, port }, id })
}

/// What a stranger sends passes, but in nobody's name: while the proxy is down its port may be another program's.
#[inline(always)]
fn note_sender(context: &SkBuffContext, question: Question) -> Answer {
    let sk = field!(context.skb.skb, __bindgen_anon_2.sk);
    let socket = if sk.is_null() { None } else { maps::socket(sk.cast::<c_void>()) };
    let Some(socket) = socket.filter(|socket| socket.dialled != 0) else {
        maps::disown(&question);
        maps::count(Counter::QuestionUnidentified);
        return Ok(());
    };
    if maps::AGENTS.get_ptr(socket.origin.governed_by).is_none() {
        return Err(Counter::OrphanRefused);
    }
    if !maps::ask(&question, &socket.origin) {
        return Err(Counter::StorageRefused);
    }
    maps::count(Counter::QuestionRedirected);
    Ok(())
}
