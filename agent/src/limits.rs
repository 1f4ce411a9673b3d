//! Every bound on what a peer controls, by name and unit. A limit used in one module only lives there instead.

use std::time::Duration;

/// Longest command line kept of a connecting process, in bytes.
pub const ARGV_BYTES_MAX: usize = 4096;

/// Connections relayed at once; beyond it new ones are refused.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Connections of one run relayed at once, so that a run cannot keep the others out.
pub const CONNECTIONS_PER_RUN_MAX: usize = CONNECTIONS_MAX / 8;

/// How long a client may take to complete its handshake and start-up.
pub const STARTUP_TIME_MAX: Duration = Duration::from_secs(30);
