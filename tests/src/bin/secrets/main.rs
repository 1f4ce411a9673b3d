//! Ten thousand values in masked columns, and statements of every shape through every driver that try to bring one out, under a
//! policy that allows everything: `cargo xtask secrets` runs this. What clients received, what is recorded and what is logged
//! is searched for any piece of any value.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::Daemon;
use harness::postgres::{ROLE, Server};
use harness::process::{self, NOBODY};
use serde_json::Value;

mod search;

use search::Search;

const PORT: u16 = 5432;
const DATABASE: &str = "secrets";

/// Each asks statements of its own.
const DRIVERS: [&str; 8] =
    [ORACLES, "raw-query", "raw-binary", "psql", "psycopg-text", "psycopg-binary", "psycopg2", "asyncpg"];

/// Asks the same in two databases that differ in masked values alone. Not part of a run unless asked for: it takes a second database.
const TWINS: &str = "twins";

/// Oracles asked where they may answer, to see that they do.
const CONTROL: &str = "60";

/// Leaks that are shown in full; the rest are counted.
const SHOWN_MAX: usize = 40;

/// Asks whether conditions tell masked values: answered where a policy lets conditions pass, never where it does not.
const ORACLES: &str = "oracles";

/// Everything passes that may pass; columns are masked in each of the four ways. `predicates` says what conditions on them may do.
fn policy(server: &Server, name: &str, predicates: &str) -> String {
    format!(
        r#"version = 1
name = "{name}"
[[connection]]
name = "secrets"
to = ["{address}"]
protocol = "postgres"
upstream = {{ user = "{ROLE}", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}
[[guard]]
name = "as an approver would"
on = "postgres"
effect = ["write", "ddl", "admin", "unknown"]
action = "allow"
[[mask]]
on = "postgres"
columns = ["hashed.s_*"]
with = "hash"
[[mask]]
on = "postgres"
columns = ["nulled.s_*"]
with = "null"
[[mask]]
on = "postgres"
columns = ["partly.s_*"]
with = "partial"
[[mask]]
on = "postgres"
columns = ["*.s_*"]
with = "redact"
[defaults]
unknown = "deny"
predicates = "{predicates}"
"#,
        address = server.address(),
        ca = server.ca().display(),
    )
}

fn main() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let out = words.next().map(PathBuf::from).context("OUT STATEMENTS [DRIVER...]")?;
    let number = words.next().context("how many statements per driver")?.to_string_lossy().into_owned();
    let wanted: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let server = Server::start(Ipv4Addr::new(127, 83, 0, 3), PORT)?;
    server.psql("postgres", "CREATE DATABASE secrets")?;
    server.psql(DATABASE, include_str!("schema.sql"))?;
    let planted = server.psql(DATABASE, include_str!("plant.sql"))?;
    let search = Search::new(&planted)?;
    // What finds nothing here would find nothing anywhere.
    let shown = server
        .psql(DATABASE, "SELECT * FROM vault; SELECT encode(convert_to(s_text, 'UTF8'), 'hex') FROM vault")?;
    if search.leaks("a control", shown.as_bytes()).is_empty() {
        bail!("the search does not find what is shown to it");
    }
    let (allow, deny) = (policy(&server, "secrets", "allow"), policy(&server, ORACLES, "deny"));
    // Digests and last characters differ with what they are of.
    let alike =
        policy(&server, TWINS, "deny").replace("\"hash\"", "\"redact\"").replace("\"partial\"", "\"null\"");
    let mut daemon = Daemon::prepare(&[("secrets", &allow), (ORACLES, &deny), (TWINS, &alike)])?;
    daemon.launch()?;
    let mut told = std::io::stdout().lock();
    writeln!(told, "{} values planted", search.values())?;
    let mut leaks = Vec::new();
    let mut bytes = 0;
    let all = DRIVERS.map(str::to_owned);
    for driver in if wanted.is_empty() { all.as_slice() } else { wanted.as_slice() } {
        let folder = out.join(driver);
        if driver == ORACLES || driver == TWINS {
            if driver == TWINS {
                plant_twin(&server)?;
            }
            leaks.extend(ask_oracles(&daemon, &server, driver, &number, &folder, &mut told)?);
            continue;
        }
        let received =
            ask(&daemon, &server, Asks { policy: "secrets", driver, number: &number }, &folder, &mut told)?;
        bytes += received.len();
        leaks.extend(search.leaks(driver, &received));
    }
    let (kept, found) = searched_store(&daemon, &search)?;
    leaks.extend(found);
    let log = daemon.log();
    leaks.extend(search.leaks("the daemon's log", log.as_bytes()));
    writeln!(
        told,
        "{bytes} bytes received, {kept} bytes of the store and {} of the log searched; leaks: {}",
        log.len(),
        leaks.len()
    )?;
    for leak in leaks.iter().take(SHOWN_MAX) {
        writeln!(told, "  {leak}")?;
    }
    if leaks.is_empty() { Ok(()) } else { bail!("planted values came out") }
}

/// Lets oracles be asked under both policies. Under the one that lets conditions pass they have to answer, or they would find
/// nothing anywhere. What is answered under the other is a leak.
fn ask_oracles(
    daemon: &Daemon,
    server: &Server,
    driver: &str,
    number: &str,
    folder: &Path,
    told: &mut impl std::io::Write,
) -> Result<Vec<String>> {
    let mut answered = |policy: &str, number: &str| -> Result<(u64, Vec<String>)> {
        let mut said = Vec::new();
        drop(ask(daemon, server, Asks { policy, driver, number }, folder, &mut said)?);
        told.write_all(&said)?;
        let line = said.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"{"));
        let said: Value = serde_json::from_slice(line.context("it said nothing")?)?;
        let number = said.pointer("/told/number").and_then(Value::as_u64).context("no number")?;
        let first = said.pointer("/told/first").and_then(Value::as_array);
        let first = first.into_iter().flatten().map(|what| format!("tells masked values: {what}"));
        Ok((number, first.collect()))
    };
    // Of twins, a difference has to be seen as well: between digests.
    if answered("secrets", CONTROL)?.0 == 0 {
        bail!("nothing is told, even where conditions pass");
    }
    Ok(answered(driver, number)?.1)
}

/// A second database, with other values in masked columns and nothing else.
fn plant_twin(server: &Server) -> Result<()> {
    server.psql("postgres", "CREATE DATABASE secrets_twin")?;
    let schema = include_str!("schema.sql");
    let twin = schema
        .replace("convert_to(salt, 'UTF8')", "convert_to('twin' || salt, 'UTF8')")
        .replace("ON DATABASE secrets ", "ON DATABASE secrets_twin ");
    if twin == schema {
        bail!("the twin would have the same values");
    }
    server.psql("secrets_twin", &twin).map(drop)
}

/// What is asked, and by which policy.
#[derive(Clone, Copy)]
struct Asks<'a> {
    policy: &'a str,
    driver: &'a str,
    number: &'a str,
}

/// Lets a driver ask its statements as the agent; what it received.
fn ask(
    daemon: &Daemon,
    server: &Server,
    asks: Asks<'_>,
    folder: &Path,
    told: &mut impl std::io::Write,
) -> Result<Vec<u8>> {
    let Asks { policy, driver, number } = asks;
    drop(fs::remove_dir_all(folder));
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    // Paths of sockets are short.
    let socket = tempfile::Builder::new().prefix("secrets.").tempdir()?;
    fs::set_permissions(socket.path(), fs::Permissions::from_mode(0o777))?;
    let script = [
        include_str!("../../../e2e/masks/raw.py"),
        include_str!("shapes.py"),
        include_str!("oracles.py"),
        include_str!("drivers.py"),
    ]
    .join("\n");
    let received = folder.join("received");
    let mut run = agent::python_command(daemon, server, NOBODY, policy, &script)?;
    run.args([driver, number]).arg(&received).arg(socket.path());
    let finished = process::finish(&mut run)?;
    if finished.code != 0 {
        bail!("{driver}: {}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
    }
    writeln!(told, "{}", finished.stdout.trim_end())?;
    Ok(fs::read(received)?)
}

/// Searches every file of the state folder as it is, and every zstd frame in it as what it holds.
fn searched_store(daemon: &Daemon, search: &Search) -> Result<(usize, Vec<String>)> {
    let (mut bytes, mut leaks) = (0, Vec::new());
    let mut folders = vec![daemon.folder().join("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.display().to_string();
            let content = fs::read(&path)?;
            bytes += content.len();
            leaks.extend(search.leaks(&name, &content));
            for frame in frames(&content) {
                bytes += frame.len();
                leaks.extend(search.leaks(&name, &frame));
            }
        }
    }
    Ok((bytes, leaks))
}

/// What the zstd frames among these bytes hold (RFC 8878, section 3.1.1: the magic number).
fn frames(content: &[u8]) -> Vec<Vec<u8>> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut found = Vec::new();
    for at in 0..content.len() {
        let rest = content.get(at..).unwrap_or_default();
        if !rest.starts_with(&MAGIC) {
            continue;
        }
        let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(rest) else { continue };
        let mut frame = Vec::new();
        // What follows by chance on the same four bytes is no frame.
        if std::io::Read::read_to_end(&mut decoder.single_frame(), &mut frame).is_ok() {
            found.push(frame);
        }
    }
    found
}
