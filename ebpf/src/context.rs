//! Field by field reads and writes of the kernel's contexts, which allow no other width or offset.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;
use core::ptr;
use ebpf_abi::{Address, Endpoint};

/// `SOCK_STREAM`, `SOCK_DGRAM` (include/linux/net.h).
pub(crate) const STREAM: u32 = 1;
pub(crate) const DATAGRAM: u32 = 2;
/// `IPPROTO_TCP`, `IPPROTO_UDP` (RFC 790).
pub(crate) const TCP: u32 = 6;
pub(crate) const UDP: u32 = 17;

/// Reads one field of a context. Volatile, so that neighbouring reads are not merged into a width the verifier refuses.
macro_rules! field {
    ($context:expr, $($name:tt)+) => {
        // SAFETY: the kernel's contexts are valid for the whole program; the verifier checks offset and width.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($name)+) }
    };
}
pub(crate) use field;

/// A transport as the hooks see it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Other,
}

impl Transport {
    /// Of a socket's type and protocol. A raw socket may bear TCP's protocol number, hence both.
    #[inline(always)]
    pub(crate) fn of(kind: u32, protocol: u32) -> Self {
        if kind == STREAM && protocol == TCP {
            Self::Tcp
        } else if kind == DATAGRAM && protocol == UDP {
            Self::Udp
        } else {
            Self::Other
        }
    }
}

/// The socket of an address hook.
#[inline(always)]
pub(crate) fn socket_of(context: &SockAddrContext) -> *mut c_void {
    // SAFETY: as in `field`; both readings of the union are plain words.
    unsafe { (*context.sock_addr).__bindgen_anon_1.sk.cast() }
}

/// The transport of an address hook's socket.
#[inline(always)]
pub(crate) fn transport_of(context: &SockAddrContext) -> Transport {
    Transport::of(field!(context.sock_addr, type_), field!(context.sock_addr, protocol))
}

/// The address an IPv4 hook is about.
#[inline(always)]
pub(crate) fn user_v4(context: &SockAddrContext) -> Endpoint {
    let address = Address::from_v4(field!(context.sock_addr, user_ip4));
    Endpoint { address, port: port(context.sock_addr) }
}

/// The address an IPv6 hook is about; may be IPv4-mapped.
#[inline(always)]
pub(crate) fn user_v6(context: &SockAddrContext) -> Endpoint {
    let address = Address([
        field!(context.sock_addr, user_ip6[0]),
        field!(context.sock_addr, user_ip6[1]),
        field!(context.sock_addr, user_ip6[2]),
        field!(context.sock_addr, user_ip6[3]),
    ]);
    Endpoint { address, port: port(context.sock_addr) }
}

/// Replaces the address of an IPv4 hook. An endpoint that is not IPv4 leaves it alone.
#[inline(always)]
pub(crate) fn set_user_v4(context: &SockAddrContext, to: Endpoint) {
    let Some(word) = to.address.v4() else { return };
    // SAFETY: the verifier allows word writes to these two fields in connect4 and getpeername4.
    unsafe {
        ptr::write_volatile(&raw mut (*context.sock_addr).user_ip4, word);
        ptr::write_volatile(&raw mut (*context.sock_addr).user_port, network_port(to.port));
    }
}

/// Replaces the address of an IPv6 hook.
#[inline(always)]
pub(crate) fn set_user_v6(context: &SockAddrContext, to: Endpoint) {
    let Address([first, second, third, fourth]) = to.address;
    // SAFETY: the verifier allows word writes to these fields in connect6 and getpeername6.
    unsafe {
        ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[0], first);
        ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[1], second);
        ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[2], third);
        ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[3], fourth);
        ptr::write_volatile(&raw mut (*context.sock_addr).user_port, network_port(to.port));
    }
}

/// The hook's port in host byte order; the context has it as a 16-bit network order value in a word.
#[inline(always)]
fn port(context: *const bpf_sock_addr) -> u32 {
    u32::from(u16::from_be((field!(context, user_port) & 0xffff) as u16))
}

#[inline(always)]
fn network_port(port: u32) -> u32 {
    u32::from(((port & 0xffff) as u16).to_be())
}
