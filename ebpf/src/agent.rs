//! Who is governed: the task by its cgroup lineage, or the socket by what it remembers.

use crate::maps::{AGENTS, socket};
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use core::ffi::c_void;
use core::ptr;
use ebpf_abi::{Agent, CGROUP_LEVELS_MAX};

/// What a hook may assume of its caller.
pub(crate) enum Standing {
    /// Not ours.
    Free,
    /// Ours; the cgroup id is a key of `AGENTS`.
    Governed(u64),
    /// A socket whose run has ended. Nothing may be done with it.
    Orphan,
}

/// The deepest governed cgroup that the current task is in or below.
#[inline(always)]
pub(crate) fn governing_task() -> Option<u64> {
    // SAFETY: the helper takes any level and answers 0 beyond the task's own.
    nearest(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// The deepest governed cgroup among the ancestors that `ancestor` names by level.
///
/// Level 0 is the root, which is never governed.
#[inline(always)]
pub(crate) fn nearest(ancestor: impl Fn(i32) -> u64) -> Option<u64> {
    let mut found = 0;
    let mut level = 1;
    while level <= CGROUP_LEVELS_MAX {
        let id = ancestor(level as i32);
        if id == 0 {
            break;
        }
        if AGENTS.get_ptr(id).is_some() {
            found = id;
        }
        level += 1;
    }
    if found == 0 { None } else { Some(found) }
}

/// Decides for a hook that has both a current task and a socket.
#[inline(always)]
pub(crate) fn standing(sk: *mut c_void) -> Standing {
    if let Some(cgroup) = governing_task() {
        return Standing::Governed(cgroup);
    }
    let Some(socket) = socket(sk) else { return Standing::Free };
    if AGENTS.get_ptr(socket.governed_by).is_some() {
        Standing::Governed(socket.governed_by)
    } else {
        Standing::Orphan
    }
}

/// The run of a governed cgroup; `None` when it ended in between.
///
/// A removed entry's slot may be given to another run at once, even while it is read here. It was ours throughout if
/// it still is afterwards.
#[inline(always)]
pub(crate) fn run_of(cgroup: u64) -> Option<Agent> {
    let slot = AGENTS.get_ptr(cgroup)?;
    // SAFETY: a map value is readable as long as the program runs; any 16 bytes are a valid `Agent`.
    let agent = unsafe { ptr::read_volatile(slot) };
    if AGENTS.get_ptr(cgroup) == Some(slot) { Some(agent) } else { None }
}
