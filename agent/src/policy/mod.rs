//! Rules: what a policy file says, and the pure decision on one operation.

pub mod cases;
pub mod decide;
pub mod diagnostic;
pub mod load;
pub mod rule;
pub mod schema;
pub mod trial;
pub mod watch;

pub use decide::{HttpOperation, PostgresOperation, SshAsked, UnreadBody};
pub use load::{LoadError, Loaded, load};
pub use rule::{Action, Connection, Guard, Policy, Verdict};
pub use watch::PolicySet;

/// How verdicts name the rule when no guard matched and `[defaults]` decided.
pub const DEFAULT_RULE: &str = "default";
