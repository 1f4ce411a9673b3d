//! Map keys and values shared by the kernel programs and the agent.
//!
//! Everything here is `repr(C)`, without padding, and valid for every bit pattern. A change to any of it is a new
//! layout: raise [`LAYOUT`], so that a daemon never reads maps that another version pinned.
#![no_std]

/// Version of everything in this file; names the directory below the pin directory.
pub const LAYOUT: u32 = 2;

/// How deep below the root a governed cgroup may be. Deeper tasks are found through their ancestors.
///
/// Bounds the loop that walks a task's lineage.
pub const CGROUP_LEVELS_MAX: u32 = 16;

/// Governed cgroups at once.
pub const AGENTS_MAX: usize = 4096;

/// Redirected connections between their two `ESTABLISHED` callbacks at once.
pub const HANDSHAKES_MAX: usize = 16_384;

/// DNS questions between their sending and the proxy's look at who sent them.
pub const QUESTIONS_MAX: usize = 16_384;

/// Port of DNS (RFC 1035 section 4.2).
pub const DNS_PORT: u32 = 53;

/// Length of `task->comm`, with its terminating zero.
pub const COMM_BYTES: usize = 16;

/// An IPv6 or IPv4-mapped IPv6 address as four words in network byte order, the way the kernel's contexts show it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub [u32; 4]);

/// Third word of an IPv4-mapped address (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2).
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    /// The mapped form of an IPv4 address given as one word in network byte order.
    #[must_use]
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The IPv4 address inside a mapped one, as one word in network byte order.
    #[must_use]
    #[inline(always)]
    pub const fn v4(self) -> Option<u32> {
        let Self([first, second, third, fourth]) = self;
        if first == 0 && second == 0 && third == MAPPED { Some(fourth) } else { None }
    }

    /// Whether the address stays on the host: `127.0.0.0/8` or `::1`.
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        match self.v4() {
            Some(word) => word & 0xff_00_00_00_u32.to_be() == 0x7f_00_00_00_u32.to_be(),
            None => self.equals(Self::LOOPBACK_V6),
        }
    }

    /// Whether the address is `0.0.0.0` or `::`.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let Self([first, second, third, fourth]) = self;
        first == 0 && second == 0 && (third == 0 || third == MAPPED) && fourth == 0
    }

    /// What `connect(2)` makes of an unspecified destination: the loopback address of the same family.
    #[must_use]
    #[inline(always)]
    pub const fn as_destination(self) -> Self {
        if !self.is_unspecified() {
            return self;
        }
        match self.v4() {
            Some(_) => Self::from_v4(0x7f_00_00_01_u32.to_be()),
            None => Self::LOOPBACK_V6,
        }
    }

    /// Word by word, so that the kernel programs need no `memcmp`.
    #[must_use]
    #[inline(always)]
    pub const fn equals(self, other: Self) -> bool {
        let Self([a0, a1, a2, a3]) = self;
        let Self([b0, b1, b2, b3]) = other;
        a0 == b0 && a1 == b1 && a2 == b2 && a3 == b3
    }
}

/// A transport endpoint; port zero means "none".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// Port in host byte order.
    pub port: u32,
}

/// What the loader tells the programs, as read-only data of each loaded generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The proxy's IPv4 listener for TCP and its socket for DNS over UDP, as a mapped address.
    pub proxy_v4: Endpoint,
    /// The same over IPv6, or none.
    pub proxy_v6: Endpoint,
}

/// Value of `AGENTS`, keyed by cgroup id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The run's ULID, big-endian.
    pub run: [u8; 16],
}

/// Who connected and to where, taken in `connect(2)`, or in `sendmsg(2)` of a datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The run's ULID, big-endian.
    pub run: [u8; 16],
    /// The destination the process asked for.
    pub destination: Endpoint,
    /// Thread group of the task.
    pub tgid: u32,
    /// The task itself.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Reserved, zero: keeps the 64-bit fields aligned without hidden padding.
    pub reserved: u32,
    /// Task name.
    pub comm: [u8; COMM_BYTES],
    /// The task's own cgroup.
    pub cgroup: u64,
    /// The entry of `AGENTS` that governs the connection: an ancestor of `cgroup`, or the socket's birthplace.
    pub governed_by: u64,
    /// The client socket's cookie.
    pub socket_cookie: u64,
    /// The client's network namespace.
    pub netns_cookie: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_ns: u64,
}

/// Names one handshake from both of its ends.
///
/// Both initial sequence numbers are part of it: a port that is used again at once cannot take over the record of
/// the connection before it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The network namespace of both ends.
    pub netns_cookie: u64,
    /// The client's address, IPv4 as mapped.
    pub client: Endpoint,
    /// First sequence number the server expects.
    pub client_sequence: u32,
    /// First sequence number the client expects.
    pub server_sequence: u32,
    /// Reserved, zero: keeps the size a multiple of the alignment without hidden padding.
    pub reserved: u32,
}

/// Names one DNS question on its way to the proxy. The network namespace is part of its origin: not every kernel tells
/// it where a packet leaves.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The sender's address, IPv4 as mapped.
    pub client: Endpoint,
    /// The message's id (RFC 1035 section 4.1.1), in host byte order.
    pub id: u32,
}

/// Per socket of an agent, in `SOCKETS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// The entry of `AGENTS` that governs this socket wherever it goes.
    pub governed_by: u64,
    /// Not zero once `origin` was filled by a redirected call.
    pub dialled: u32,
    /// Not zero while `HANDSHAKES` may hold `handshake`.
    pub bridged: u32,
    /// The most recent redirected call.
    pub origin: Origin,
    /// The key `origin` was handed over under.
    pub handshake: Handshake,
}

/// What the kernel side counts, by index into `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `connect(2)` redirected to the proxy.
    Redirected = 0,
    /// Connection that reached the proxy with its origin.
    Identified = 1,
    /// Connection that reached the proxy's port without one: a stranger's, or a lost record.
    Unidentified = 2,
    /// Refused: an agent dialled the proxy itself.
    ProxyDialRefused = 3,
    /// Refused: a protocol other than TCP and UDP.
    ProtocolRefused = 4,
    /// Refused: UDP to any other port than that of DNS.
    DatagramRefused = 5,
    /// Refused: `bind(2)` to an address that others could reach, or to the proxy's port.
    BindRefused = 6,
    /// Dropped: a packet that would have left the host.
    EgressDropped = 7,
    /// Refused: the socket belongs to a run that has ended.
    OrphanRefused = 8,
    /// Refused: the kernel had no room for the record.
    StorageRefused = 9,
    /// Record lost because too many handshakes were in flight; the proxy closes such a connection.
    HandshakesFull = 10,
    /// DNS question sent on to the proxy.
    QuestionRedirected = 11,
    /// Datagram to the proxy that is no question of an agent; the proxy drops it.
    QuestionUnidentified = 12,
}

/// Entries of `COUNTERS`.
pub const COUNTERS: usize = 13;

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Routes>() == 20 * 2);
    assert!(size_of::<Agent>() == 16);
    assert!(size_of::<Origin>() == 16 + 20 + 4 * 5 + COMM_BYTES + 8 * 5);
    assert!(size_of::<Handshake>() == 8 + 20 + 4 * 3);
    assert!(size_of::<Question>() == 20 + 4);
    assert!(size_of::<Socket>() == 8 + 4 + 4 + size_of::<Origin>() + size_of::<Handshake>());
    assert!(Counter::QuestionUnidentified as usize + 1 == COUNTERS);
};

#[cfg(feature = "user")]
mod user {
    //! Lets user space read and write these types as map keys and values.
    #![expect(
        unsafe_code,
        reason = "`Pod` is an unsafe marker; the types are asserted free of padding above"
    )]

    use super::{Agent, Handshake, Origin, Question, Routes, Socket};

    // SAFETY: `repr(C)`, no padding (asserted above), every bit pattern valid.
    unsafe impl aya::Pod for Agent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Handshake {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Origin {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Question {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Routes {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Socket {}
}

#[cfg(test)]
mod tests {
    use super::Address;

    fn v4(octets: [u8; 4]) -> Address {
        Address::from_v4(u32::from_ne_bytes(octets))
    }

    #[test]
    fn mapped_addresses_are_told_from_ipv6() {
        assert_eq!(v4([10, 0, 0, 1]).v4(), Some(u32::from_ne_bytes([10, 0, 0, 1])));
        assert_eq!(Address::LOOPBACK_V6.v4(), None);
        assert_eq!(Address([0, 0, 0, u32::from_ne_bytes([10, 0, 0, 1])]).v4(), None);
    }

    #[test]
    fn loopback_is_the_whole_of_127_and_one_v6_address() {
        for inside in [v4([127, 0, 0, 1]), v4([127, 255, 255, 254]), Address::LOOPBACK_V6] {
            assert!(inside.is_loopback(), "{inside:?}");
        }
        for outside in [v4([126, 0, 0, 1]), v4([128, 0, 0, 1]), v4([1, 0, 0, 127]), Address([0, 0, 0, 0])] {
            assert!(!outside.is_loopback(), "{outside:?}");
        }
    }

    #[test]
    fn an_unspecified_destination_means_loopback() {
        assert_eq!(v4([0, 0, 0, 0]).as_destination(), v4([127, 0, 0, 1]));
        assert_eq!(Address::default().as_destination(), Address::LOOPBACK_V6);
        assert_eq!(v4([127, 9, 9, 9]).as_destination(), v4([127, 9, 9, 9]));
    }
}
