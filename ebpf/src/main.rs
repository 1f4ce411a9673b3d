//! Kernel side of Portcullis: redirects what agents open and reports where it was going. It judges no content.
//!
//! All programs hang on the root of the cgroup v2 tree, because a socket's hooks are those of the cgroup it was born
//! in, not of the one that uses it. Who is governed is decided per call: a task below a cgroup in `AGENTS`, or a
//! socket that such a task once had. Every step that cannot record or look up what it needs refuses.
//!
//! For any other target than BPF this is an empty program, so that the host's clippy reads it too.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    unsafe_code,
    reason = "kernel helpers and contexts are raw pointers; the verifier proves every access"
)]

mod agent;
mod bind;
mod connect;
mod context;
mod create;
mod datagram;
mod egress;
mod handshake;
mod maps;
mod peer;

/// What a hook answers: kernel return value 1 lets the call go on, 0 makes it fail with `EPERM`.
pub(crate) type Answer = Result<(), ebpf_abi::Counter>;

/// Counts a refusal and turns the answer into the kernel's return value.
#[inline(always)]
pub(crate) fn answer(answer: Answer) -> i32 {
    match answer {
        Ok(()) => 1,
        Err(reason) => {
            maps::count(reason);
            0
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are open to GPL-compatible programs alone. `\0` ends the C string the kernel compares.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
