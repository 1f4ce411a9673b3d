//! What a policy says of HTTP alone: how TLS is treated, where the credential goes, what a guard looks at in a request.

use globset::GlobMatcher;

use crate::request::http::{GraphqlPattern, GrpcPattern, JsonPathPattern, PairPattern, PathPattern};

/// Bytes of a body read before it is judged, unless the file says otherwise.
pub const INSPECT_BYTES_DEFAULT: u64 = 1024 * 1024;

/// Most bytes of a body a file may ask to read before judging: they wait in memory, once for each open request.
pub const INSPECT_BYTES_LIMIT: u64 = 64 * 1024 * 1024;

/// How long the client of a held request is kept waiting when neither guard nor `[defaults]` says: less than most
/// clients' own time-outs.
pub const INLINE_TIME_DEFAULT: std::time::Duration = std::time::Duration::from_secs(30);

/// What the client speaks on an HTTP connection, and how far it is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// TLS, which ends here and is made again towards the server. The default.
    Intercept,
    /// TLS that is not ended here: the server's name and the bytes are recorded, nothing is read.
    Passthrough,
    /// No TLS.
    Plain,
}

/// Where a request's real credential goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injection {
    /// `Authorization: Bearer SECRET` (RFC 6750).
    Bearer,
    /// `Authorization: Basic` of `upstream.user` and the secret (RFC 7617).
    Basic,
    /// The value of this header field; lower-case name.
    Header(String),
    /// The value of this query parameter.
    Query(String),
    /// The request is signed again (AWS Signature Version 4).
    SigV4,
}

/// What happens to a body that a rule asks for and that cannot be looked into: too long, or in an unknown coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uninspected {
    /// A human decides. The default.
    Hold,
    /// Refused.
    Deny,
    /// Passes, and the record says so.
    Allow,
}

/// Which way a masked body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MaskDirection {
    /// To the server.
    Request,
    /// To the client. The default.
    Response,
}

/// What a guard looks at in an HTTP request. An empty list does not constrain.
#[derive(Clone, Debug, Default)]
pub struct HttpWhen {
    /// `hosts = [...]`: globs over the host name.
    pub hosts: Vec<GlobMatcher>,
    /// `methods = [...]`: exact, case-sensitive (RFC 9110 section 9.1).
    pub methods: Vec<String>,
    /// `paths = [...]`.
    pub paths: Vec<PathPattern>,
    /// `query = [...]`.
    pub query: Vec<PairPattern>,
    /// `headers = [...]`.
    pub headers: Vec<PairPattern>,
    /// `json = [...]`.
    pub json: Vec<JsonPathPattern>,
    /// `graphql = [...]`.
    pub graphql: Vec<GraphqlPattern>,
    /// `grpc = [...]`.
    pub grpc: Vec<GrpcPattern>,
}

impl HttpWhen {
    /// Whether a body decides if this matches.
    #[must_use]
    pub fn asks_for_body(&self) -> bool {
        !self.json.is_empty() || !self.graphql.is_empty()
    }
}
