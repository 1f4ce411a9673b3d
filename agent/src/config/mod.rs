//! The daemon's configuration file: strict TOML, every path movable so that a whole installation fits in a scratch folder.

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use self::chat::Chat;
use self::credential::Sources;
use self::sign_in::Login;
use self::web::Web;

pub mod chat;
pub mod credential;
pub mod sign_in;
pub mod web;

/// Where the file lives unless `--config` or `PORTCULLIS_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/portcullis/portcullis.toml";

/// What `portcullis serve --print-config` prints: every key with its default, and why one would change it.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Largest configuration file read, in bytes.
const CONFIG_BYTES_MAX: u64 = 256 * 1024;

/// Where the local CA's certificate and the bundle lie when the control socket's path has no folder.
const RUN_DIR: &str = "/run/portcullis";
/// Name of the published bundle: the system's roots and the local CA.
const BUNDLE_FILE: &str = "bundle.pem";
/// The host key that SSH clients see, for their `UserKnownHostsFile`.
const SSH_KNOWN_HOSTS_FILE: &str = "ssh_known_hosts";
/// Name of the published certificate of the local CA.
const CA_FILE: &str = "ca.pem";

/// Longest name of the local CA, in characters: a common name (64) less the suffix that sets two CAs apart.
const CA_NAME_CHARS_MAX: usize = 55;
/// Shortest and longest validity of a new local CA. `1y` is 365.25 days, as everywhere in humantime's notation.
const CA_LIFETIME_MIN: Duration = Duration::from_hours(24);
const CA_LIFETIME_MAX: Duration = Duration::from_secs(30 * YEAR_SECONDS);
const YEAR_SECONDS: u64 = 31_557_600;
/// Name servers that a configuration may have; glibc takes three.
const NAME_SERVERS_MAX: usize = 8;

/// The checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Recordings, the local CA and what a restart needs. Owned by root, mode 0700.
    pub state_dir: PathBuf,
    /// Policy files, `*.toml`.
    pub policies_dir: PathBuf,
    /// Upstream credentials, one root-only file each.
    pub credentials_dir: PathBuf,
    /// Credentials that come from elsewhere, by name.
    pub sources: Sources,
    /// Where the kernel programs, maps and links are pinned; on a bpffs.
    pub bpf_dir: PathBuf,
    /// Folder below the cgroup-v2 root that holds the cgroups of `portcullis run`. One path component.
    pub runs_cgroup: String,
    /// TCP port of the proxy on 127.0.0.1; 0 lets the kernel pick.
    pub proxy_port: u16,
    /// Name servers that agents' questions are passed on to; empty means those of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Unix group that owns the control socket; `None` leaves it root's.
    pub control_group: Option<String>,
    /// Permission bits of the control socket.
    pub control_mode: u32,
    /// Unix group whose members decide holds that name no approvers, and see all of them.
    pub operators: String,
    /// Operations held at once; beyond it new ones are denied.
    pub holds_max: usize,
    /// `[approvals] holds_per_run_max`: as many of one run.
    pub holds_per_run_max: usize,
    /// Common name of a new local CA; a random suffix is added.
    pub ca_name: String,
    /// How long a new local CA is valid.
    pub ca_lifetime: Duration,
    /// Free bytes on the state folder's file system below which nothing is forwarded.
    pub free_bytes_min: u64,
    /// The approvals page; `None` serves none.
    pub web: Option<Web>,
    /// Chats that are told of what waits; `None` tells none.
    pub chat: Option<Chat>,
    /// `portcullis login`; `None`: nobody signs in by the command line.
    pub login: Option<Login>,
    /// How much is logged; `PORTCULLIS_LOG` overrides it.
    pub log: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What went wrong on our side.
    Error,
    /// Also what an operator should look at.
    Warn,
    /// Also every run, hold and decision. The default.
    Info,
    /// Also every connection's steps.
    Debug,
    /// Everything.
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be opened or read.
    #[error("cannot read {}; create it (`portcullis serve --print-config`) or name another with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any sensible configuration.
    #[error("{} is larger than {CONFIG_BYTES_MAX} bytes; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A key or value is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/portcullis"),
            policies_dir: PathBuf::from("/etc/portcullis/policies"),
            credentials_dir: PathBuf::from("/etc/portcullis/credentials"),
            sources: Sources::new(),
            bpf_dir: PathBuf::from("/sys/fs/bpf/portcullis"),
            runs_cgroup: "portcullis.runs".to_owned(),
            proxy_port: 16_440,
            name_servers: Vec::new(),
            control_socket: PathBuf::from("/run/portcullis/control.sock"),
            control_group: None,
            control_mode: 0o666,
            operators: "portcullis".to_owned(),
            holds_max: 2000,
            holds_per_run_max: 100,
            ca_name: "Portcullis local CA".to_owned(),
            ca_lifetime: Duration::from_secs(3 * YEAR_SECONDS),
            free_bytes_min: 1 << 30,
            web: None,
            chat: None,
            login: None,
            log: LogLevel::Info,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read or any key in it is unknown, of the wrong type or out of range.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        std::fs::File::open(path)
            .map_err(unreadable)?
            .take(CONFIG_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        Self::parse(&text, path)
    }

    /// Checks the text of a configuration file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let invalid = |span: Range<usize>, message: String| {
            let (line, column) = position(text, span.start);
            ConfigError::Invalid { path: path.to_owned(), line, column, message }
        };
        let file: File = toml::from_str(text)
            .map_err(|error| invalid(error.span().unwrap_or(0..0), first_line(error.message())))?;
        file.check().map_err(|fault| invalid(fault.span, fault.message))
    }

    /// Where the proxy listens: loopback only, because all redirected traffic is local.
    #[must_use]
    pub fn proxy_listen(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.proxy_port)
    }

    /// The folder that the daemon publishes in: the control socket's, because the state folder is root's.
    #[must_use]
    pub fn published(&self) -> &Path {
        self.control_socket.parent().unwrap_or(Path::new(RUN_DIR))
    }

    /// The published certificate of the local CA, alone.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.published().join(CA_FILE)
    }

    /// The published host key that SSH clients see, in the format of `known_hosts`.
    #[must_use]
    pub fn ssh_known_hosts(&self) -> PathBuf {
        self.published().join(SSH_KNOWN_HOSTS_FILE)
    }

    /// The published bundle: the system's roots and the local CA.
    #[must_use]
    pub fn ca_bundle(&self) -> PathBuf {
        self.published().join(BUNDLE_FILE)
    }
}

/// The file as written. Absent keys keep their defaults.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    paths: Paths,
    credential: credential::Tables,
    runs: RunsTable,
    proxy: Proxy,
    resolver: ResolverTable,
    control: Control,
    approvals: ApprovalsTable,
    ca: CaTable,
    record: Record,
    web: Option<web::WebTable>,
    chat: Option<Spanned<chat::ChatTable>>,
    login: Option<sign_in::LoginTable>,
    log: Log,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Paths {
    state: Option<Spanned<PathBuf>>,
    policies: Option<Spanned<PathBuf>>,
    credentials: Option<Spanned<PathBuf>>,
    bpf: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RunsTable {
    cgroup: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Proxy {
    port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ResolverTable {
    upstream: Option<Spanned<Vec<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Control {
    socket: Option<Spanned<PathBuf>>,
    group: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApprovalsTable {
    operators: Option<Spanned<String>>,
    holds_max: Option<Spanned<usize>>,
    holds_per_run_max: Option<Spanned<usize>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaTable {
    name: Option<Spanned<String>>,
    lifetime: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Record {
    free_min: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    level: Option<LogLevel>,
}

/// Something wrong at a place in the text.
struct Fault {
    span: Range<usize>,
    message: String,
}

impl File {
    fn check(self) -> Result<Config, Fault> {
        let default = Config::default();
        let web = self.web.map(web::web).transpose()?;
        let control_mode =
            self.control.mode.map_or(Ok(default.control_mode), |mode| checked(mode, octal_mode))?;
        Ok(Config {
            state_dir: path_or(self.paths.state, default.state_dir)?,
            policies_dir: path_or(self.paths.policies, default.policies_dir)?,
            credentials_dir: path_or(self.paths.credentials, default.credentials_dir)?,
            sources: credential::sources(self.credential)?,
            bpf_dir: path_or(self.paths.bpf, default.bpf_dir)?,
            runs_cgroup: self
                .runs
                .cgroup
                .map_or(Ok(default.runs_cgroup), |name| checked(name, cgroup_name))?,
            proxy_port: self.proxy.port.unwrap_or(default.proxy_port),
            name_servers: self
                .resolver
                .upstream
                .map_or(Ok(default.name_servers), |servers| checked(servers, name_servers))?,
            control_socket: path_or(self.control.socket, default.control_socket)?,
            control_group: self.control.group.map(|group| checked(group, group_name)).transpose()?,
            control_mode,
            operators: self
                .approvals
                .operators
                .map_or(Ok(default.operators), |group| checked(group, group_name))?,
            holds_per_run_max: self
                .approvals
                .holds_per_run_max
                .map_or(Ok(default.holds_per_run_max), |max| checked(max, holds_max))?,
            holds_max: self
                .approvals
                .holds_max
                .map_or(Ok(default.holds_max), |max| checked(max, holds_max))?,
            ca_name: self.ca.name.map_or(Ok(default.ca_name), |name| checked(name, ca_name))?,
            ca_lifetime: self
                .ca
                .lifetime
                .map_or(Ok(default.ca_lifetime), |lifetime| checked(lifetime, ca_lifetime))?,
            free_bytes_min: self
                .record
                .free_min
                .map_or(Ok(default.free_bytes_min), |size| checked(size, bytes))?,
            chat: self.chat.map(|table| chat::chat(table, web.is_some())).transpose()?,
            login: self
                .login
                .map(|table| sign_in::login(table, web.as_ref().map(|web| &web.client)))
                .transpose()?,
            web,
            log: self.log.level.unwrap_or(default.log),
        })
    }
}

fn checked<T, U>(value: Spanned<T>, check: impl Fn(T) -> Result<U, String>) -> Result<U, Fault> {
    let span = value.span();
    check(value.into_inner()).map_err(|message| Fault { span, message })
}

fn path_or(value: Option<Spanned<PathBuf>>, default: PathBuf) -> Result<PathBuf, Fault> {
    value.map_or(Ok(default), |path| checked(path, absolute))
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir) {
        Ok(path)
    } else {
        Err(format!("`{}` is not an absolute path; write it from `/`, without `..`", path.display()))
    }
}

fn cgroup_name(name: String) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(format!(
            "`{name}` cannot name a cgroup; use at most 64 letters, digits, `.`, `_`, `-`, no leading `.`"
        ))
    }
}

fn group_name(name: String) -> Result<String, String> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | ',');
    if !name.is_empty() && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(format!("`{}` is not a Unix group; write a name as in `getent group`", name.escape_debug()))
    }
}

fn name_servers(texts: Vec<String>) -> Result<Vec<SocketAddr>, String> {
    if texts.len() > NAME_SERVERS_MAX {
        return Err(format!("{} name servers; write at most {NAME_SERVERS_MAX}", texts.len()));
    }
    texts
        .iter()
        .map(|text| {
            let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
            address.or_else(|_| text.parse()).map_err(|_| {
                format!("`{}` is not a name server; write ADDRESS or ADDRESS:PORT", text.escape_debug())
            })
        })
        .collect()
}

fn octal_mode(text: String) -> Result<u32, String> {
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        Ok(_) | Err(_) => {
            Err(format!("`{text}` is not a file mode; write octal digits in quotes, such as \"0660\""))
        }
    }
}

fn holds_max(max: usize) -> Result<usize, String> {
    if (1..=65_536).contains(&max) { Ok(max) } else { Err(format!("{max} is out of range; use 1 to 65536")) }
}

fn ca_name(name: String) -> Result<String, String> {
    let chars = name.chars().count();
    if (1..=CA_NAME_CHARS_MAX).contains(&chars) && name.trim() == name && !name.chars().any(char::is_control)
    {
        Ok(name)
    } else {
        Err(format!(
            "`{}` cannot name the CA; use 1 to {CA_NAME_CHARS_MAX} characters, none of them a control character, \
             no space at either end",
            name.escape_debug()
        ))
    }
}

fn ca_lifetime(text: String) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(&text).map_err(|_| {
        format!("`{text}` is not a length of time; write a number and a unit, such as \"3y\" or \"90d\"")
    })?;
    if (CA_LIFETIME_MIN..=CA_LIFETIME_MAX).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err(format!("`{text}` is out of range; use \"1d\" to \"30y\""))
    }
}

fn bytes(text: String) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not a size; write a number with B, KiB, MiB, GiB or TiB, such as \"1GiB\"");
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits_end).ok_or_else(wrong)?;
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(wrong)
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("not TOML").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("p.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_spells_out_the_defaults() {
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let spelled = parse(&uncommented).unwrap();
        assert_eq!(Config { control_group: None, ..spelled }, Config::default());
        for key in [
            "state",
            "policies",
            "credentials",
            "bpf",
            "cgroup",
            "port",
            "upstream",
            "socket",
            "group",
            "mode",
            "name",
            "lifetime",
        ] {
            assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is not in the example");
        }
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn everything_fits_in_a_scratch_folder() {
        let config = parse(
            "[paths]\nstate = \"/tmp/x/state\"\npolicies = \"/tmp/x/p\"\ncredentials = \"/tmp/x/c\"\n\
             bpf = \"/sys/fs/bpf/x\"\n[control]\nsocket = \"/tmp/x/c.sock\"\nmode = \"0600\"\n\
             [runs]\ncgroup = \"x.runs\"\n[proxy]\nport = 0\n\
              [resolver]\nupstream = [\"127.9.0.53:5353\", \"::1\"]\n[record]\nfree_min = \"10 MiB\"\n\
              [ca]\nname = \"Example gate\"\nlifetime = \"90d\"\n",
        )
        .unwrap();
        assert_eq!(config.state_dir, Path::new("/tmp/x/state"));
        assert_eq!(config.control_mode, 0o600);
        assert_eq!(config.proxy_listen().port(), 0);
        assert_eq!(config.free_bytes_min, 10 << 20);
        assert_eq!(
            (config.ca_name.as_str(), config.ca_lifetime),
            ("Example gate", Duration::from_hours(90 * 24))
        );
        assert_eq!(config.ca_file(), Path::new("/tmp/x/ca.pem"));
        assert_eq!(config.ca_bundle(), Path::new("/tmp/x/bundle.pem"));
        let servers: Vec<_> = config.name_servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.9.0.53:5353", "[::1]:53"]);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place() {
        for (text, expected) in [
            ("[paths]\n  state = \"here\"\n", "p.toml:2:11: `here` is not an absolute path"),
            ("[paths]\nstate = \"/a/../b\"\n", "p.toml:2:9: `/a/../b` is not an absolute path"),
            ("[path]\n", "p.toml:1:2: unknown field `path`, expected one of"),
            ("[proxy]\nport = 70000\n", "p.toml:2:8: "),
            ("[control]\nmode = \"0999\"\n", "p.toml:2:8: `0999` is not a file mode"),
            ("[runs]\ncgroup = \"a/b\"\n", "p.toml:2:10: `a/b` cannot name a cgroup"),
            ("[resolver]\nupstream = [\"ns\"]\n", "p.toml:2:12: `ns` is not a name server"),
            ("[approvals]\noperators = \"a b\"\n", "p.toml:2:13: `a b` is not a Unix group"),
            ("[approvals]\nholds_max = 0\n", "p.toml:2:13: 0 is out of range"),
            ("[record]\nfree_min = \"20000000TiB\"\n", "p.toml:2:12: `20000000TiB` is not a size"),
            ("[record]\nfree_min = \"1GB\"\n", "p.toml:2:12: `1GB` is not a size"),
            ("[ca]\nname = \"\"\n", "p.toml:2:8: `` cannot name the CA"),
            ("[ca]\nname = \"a\\u001Bb\"\n", "p.toml:2:8: `a\\u{1b}b` cannot name the CA"),
            ("[ca]\nlifetime = \"soon\"\n", "p.toml:2:12: `soon` is not a length of time"),
            ("[ca]\nlifetime = \"1h\"\n", "p.toml:2:12: `1h` is out of range"),
            ("[ca]\nlifetime = \"31y\"\n", "p.toml:2:12: `31y` is out of range"),
            ("[ca]\nlifetime = 3\n", "p.toml:2:12: invalid type"),
            ("[ca]\nkey = \"x\"\n", "p.toml:2:1: unknown field `key`"),
            ("[log]\nlevel = \"loud\"\n", "p.toml:2:9: unknown variant `loud`"),
            ("x", "p.toml:1:2: "),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let error = Config::load(Path::new("/nonexistent/p.toml")).unwrap_err().to_string();
        assert!(error.contains("--print-config"), "{error}");
    }
}
