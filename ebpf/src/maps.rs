//! The maps, each with who writes and who reads it. A full map refuses; only `QUESTIONS` evicts.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::{HashMap, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use core::ptr;
use ebpf_abi::{AGENTS_MAX, Agent, COUNTERS as COUNTERS_LEN, Counter, Endpoint, HANDSHAKES_MAX, Handshake};
use ebpf_abi::{Origin, QUESTIONS_MAX, Question, Routes, Socket};

/// Governed cgroups: written by the agent, read by every hook.
#[btf_map]
pub(crate) static AGENTS: HashMap<u64, Agent, AGENTS_MAX> = HashMap::new();

/// State of an agent's own sockets: written at `socket(2)` and `connect(2)`, dies with the socket.
#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// Origin of an accepted socket: written when its handshake ends, read by the proxy through the socket's descriptor.
#[btf_map]
static ACCEPTED: SkStorage<Origin> = SkStorage::new();

/// Bridges the two ends of one loopback handshake: written by the client's end, taken by the server's.
#[btf_map]
static HANDSHAKES: HashMap<Handshake, Origin, HANDSHAKES_MAX> = HashMap::new();

/// Who asks: written when a question leaves its socket, read by the proxy when it arrives. It evicts the oldest, or one
/// agent could fill it for all the others; what is evicted before it was read is dropped, and asked again.
#[btf_map]
static QUESTIONS: LruHashMap<Question, Origin, QUESTIONS_MAX> = LruHashMap::new();

/// Events by [`Counter`], read by the agent.
#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();

/// Offers a record to the other end; `false` when there is no room.
#[inline(always)]
pub(crate) fn offer(name: &Handshake, origin: &Origin) -> bool {
    HANDSHAKES.insert(name, origin, BPF_NOEXIST.into()).is_ok()
}

/// The record offered under a name. It may be withdrawn, and its place given to another, at any moment.
#[inline(always)]
pub(crate) fn offered(name: &Handshake) -> Option<*const Origin> {
    HANDSHAKES.get_ptr(name)
}

/// Takes an offer back; `false` when it was gone already.
#[inline(always)]
pub(crate) fn withdraw(name: &Handshake) -> bool {
    HANDSHAKES.remove(name).is_ok()
}

/// Says who asks; `false` when there is no room.
#[inline(always)]
pub(crate) fn ask(name: &Question, origin: &Origin) -> bool {
    QUESTIONS.insert(name, origin, BPF_ANY.into()).is_ok()
}

/// What was said before of a question like this does not hold for the one that is on its way now; `false` when nothing
/// was, as usual.
#[inline(always)]
pub(crate) fn disown(name: &Question) -> bool {
    QUESTIONS.remove(name).is_ok()
}

/// Filled in by the loader before the programs are loaded; read-only from then on.
#[unsafe(no_mangle)]
static ROUTES: Routes = {
    const NONE: Endpoint = Endpoint { address: ebpf_abi::Address([0; 4]), port: 0 };
    Routes { proxy_v4: NONE, proxy_v6: NONE }
};

/// Where the proxy takes TCP and DNS over IPv4.
#[inline(always)]
pub(crate) fn proxy_v4() -> Endpoint {
    // SAFETY: a static is always readable; volatile because the loader rewrites it behind the compiler's back.
    unsafe { ptr::read_volatile(&raw const ROUTES.proxy_v4) }
}

/// Where it takes them over IPv6, if it does.
#[inline(always)]
pub(crate) fn proxy_v6() -> Option<Endpoint> {
    // SAFETY: as in `proxy_v4`.
    let endpoint = unsafe { ptr::read_volatile(&raw const ROUTES.proxy_v6) };
    if endpoint.port == 0 { None } else { Some(endpoint) }
}

/// Whether `at` is where the proxy takes TCP and DNS.
#[inline(always)]
pub(crate) fn is_proxy(at: Endpoint) -> bool {
    at == proxy_v4() || proxy_v6().is_some_and(|proxy| at == proxy)
}

/// Whether the proxy listens at `port`, on either of its addresses.
#[inline(always)]
pub(crate) fn is_proxy_port(port: u32) -> bool {
    port != 0 && (port == proxy_v4().port || proxy_v6().is_some_and(|proxy| port == proxy.port))
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the verifier checked the pointer for null; other CPUs have their own slot.
        unsafe { *slot = (*slot).wrapping_add(1) };
    }
}

/// What is known of an agent's socket.
///
/// `sk` is a context (`sock_create`) or a socket pointer read from one; the verifier tells which the program may pass.
#[inline(always)]
pub(crate) fn socket(sk: *mut c_void) -> Option<&'static mut Socket> {
    storage(&raw const SOCKETS, sk, 0)
}

/// The same, made on first use and then all zero. `None` only when the kernel is out of memory.
#[inline(always)]
pub(crate) fn socket_or_new(sk: *mut c_void) -> Option<&'static mut Socket> {
    storage(&raw const SOCKETS, sk, BPF_SK_STORAGE_GET_F_CREATE.into())
}

/// Room for an accepted socket's origin. `None` only when the kernel is out of memory.
#[inline(always)]
pub(crate) fn accepted_or_new(sk: *mut c_void) -> Option<&'static mut Origin> {
    storage(&raw const ACCEPTED, sk, BPF_SK_STORAGE_GET_F_CREATE.into())
}

#[inline(always)]
fn storage<T>(map: *const SkStorage<T>, sk: *mut c_void, flags: u64) -> Option<&'static mut T> {
    // SAFETY: the verifier checks that `map` is a socket storage of T's size and `sk` a socket. The value lives
    // as long as the program runs, and the socket's lock keeps its other hooks out meanwhile.
    unsafe { bpf_sk_storage_get(map.cast_mut().cast(), sk, ptr::null_mut(), flags).cast::<T>().as_mut() }
}

/// A context as the bare pointer some helpers take.
#[inline(always)]
pub(crate) fn raw(context: &impl EbpfContext) -> *mut c_void {
    context.as_ptr()
}
