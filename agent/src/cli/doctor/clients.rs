//! One real connection per installed client: does it trust what the variables of `portcullis run` tell it to?
//!
//! The server is doctor's own and so is its authority, made for the purpose: the real CA's key is root's, and what is
//! asked is whether a client obeys its variable, which no other CA could answer differently.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::server::{Heard, POSTGRES, serve};
use super::{Check, State};
use crate::cli::text::summary;
use crate::cli::{BoxError, trust};
use crate::config::Config;
use crate::tls::bundle;
use crate::tls::trial::Trial;
use crate::tls::variables::assignments;

/// How long one client may take. All run at once.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(4);

/// Exit code by which a script says that its library is not installed.
const ABSENT: i32 = 77;

/// Longest identification string (RFC 4253 section 4.2).
const GREETING_BYTES_MAX: u64 = 255;

/// Characters of a client's complaint that are repeated.
const COMPLAINT_CHARS_MAX: usize = 160;

/// Variables that would send a client to a proxy instead.
const PROXY_VARIABLES: [&str; 6] =
    ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// What is tried of one client.
struct Client {
    /// As it is shown.
    name: &'static str,
    /// First segment of the path that it asks for.
    key: &'static str,
    program: &'static str,
    arguments: Vec<String>,
    /// What is found when it works.
    works: &'static str,
    /// What to do beyond that, if anything.
    then: &'static str,
    /// What to do when it does not.
    remedy: &'static str,
}

/// How it went.
enum Outcome {
    Absent,
    Trusts,
    Refuses(String),
}

/// Tries every client there is.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    if std::env::var_os("PORTCULLIS_RUN").is_some() {
        return vec![Check::warn(
            "clients",
            "not tried: inside a run, connections to 127.0.0.1 are the gate's like all others",
            "run `portcullis doctor` outside of a run, as the user that agents have",
        )];
    }
    let mut checks = try_all(config).unwrap_or_else(|error| {
        vec![Check::warn(
            "clients",
            format!("cannot be tried: {error}"),
            "see whether the temporary folder is writable",
        )]
    });
    if super::in_path("ssh").is_some() {
        checks.push(ssh());
    }
    checks
}

/// Whether ssh speaks to a server at all: it trusts host keys, not certificates, so there is nothing to set for it.
fn ssh() -> Check {
    match greeting_of_ssh() {
        Ok(greeting) => Check::warn(
            "ssh",
            format!("connects as {}; SSH is not intercepted yet", summary(&greeting, COMPLAINT_CHARS_MAX)),
            "its connections pass only where a policy names them opaque",
        ),
        Err(error) => Check::warn(
            "ssh",
            format!("does not connect: {error}"),
            "see `ssh -v`; SSH is not intercepted yet, and passes only where a policy names it opaque",
        ),
    }
}

/// What ssh says first to a server of ours (RFC 4253 section 4.2). No configuration is read and no key is offered.
fn greeting_of_ssh() -> io::Result<String> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let mut client = std::process::Command::new("ssh")
        .args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityFile=none",
        ])
        .args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-p",
            &port.to_string(),
        ])
        .args(["doctor@127.0.0.1", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let (sender, greeting) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let first = || {
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(CLIENT_TIME_MAX))?;
            let mut line = Vec::new();
            BufReader::new(stream).take(GREETING_BYTES_MAX).read_until(b'\n', &mut line)?;
            io::Result::Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
        };
        // Nobody waits any more when it took too long.
        drop(sender.send(first()));
    });
    let greeting =
        greeting.recv_timeout(CLIENT_TIME_MAX).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    client.kill()?;
    client.wait()?;
    greeting.and_then(|said| {
        if said.starts_with("SSH-") { Ok(said) } else { Err(io::Error::other("it does not speak SSH")) }
    })
}

fn try_all(config: &Config) -> Result<Vec<Check>, BoxError> {
    let trial = Trial::new()?;
    let scratch = Scratch::new(&trial)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let tried = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let clients = clients(listener.local_addr()?, &scratch.ca_file());
        let heard = Arc::<Heard>::default();
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(trial.server), Arc::clone(&heard)));
        let tried = connect(clients, &scratch, &heard).await;
        serving.abort();
        io::Result::Ok(tried)
    })?;
    Ok(report(tried, trust::in_effect(config)))
}

/// Runs all clients at once. In the order of the list.
async fn connect(clients: Vec<Client>, scratch: &Scratch, heard: &Arc<Heard>) -> Vec<(Client, Outcome)> {
    let mut running = JoinSet::new();
    for (at, client) in clients.into_iter().enumerate() {
        let (command, heard) = (command(&client, scratch), Arc::clone(heard));
        running.spawn(async move {
            let outcome = connect_one(&client, command, &heard).await;
            (at, client, outcome)
        });
    }
    let mut tried = running.join_all().await;
    tried.sort_by_key(|(at, ..)| *at);
    tried.into_iter().map(|(_, client, outcome)| (client, outcome)).collect()
}

async fn connect_one(client: &Client, mut command: Command, heard: &Heard) -> Outcome {
    let ended = timeout(CLIENT_TIME_MAX, command.output()).await;
    if heard.has(client.key) {
        return Outcome::Trusts;
    }
    match ended {
        Err(_) => Outcome::Refuses(format!("no connection within {} s", CLIENT_TIME_MAX.as_secs())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Outcome::Absent,
        Ok(Err(error)) => Outcome::Refuses(error.to_string()),
        Ok(Ok(output)) if output.status.code() == Some(ABSENT) => Outcome::Absent,
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            Outcome::Refuses(summary(last, COMPLAINT_CHARS_MAX))
        }
    }
}

/// The environment that `portcullis run` gives, with the trial's files, and no way around the server.
fn command(client: &Client, scratch: &Scratch) -> Command {
    let mut command = Command::new(client.program);
    command
        .args(&client.arguments)
        .envs(scratch.environment())
        .envs([("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1"), ("GIT_TERMINAL_PROMPT", "0")])
        .env("KUBECONFIG", "/dev/null")
        .current_dir(&scratch.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in PROXY_VARIABLES {
        command.env_remove(name);
    }
    // libpq's would say where to connect to and whom to trust.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command
}

fn clients(server: SocketAddr, ca_file: &Path) -> Vec<Client> {
    let ca_file = ca_file.display();
    let seconds = CLIENT_TIME_MAX.as_secs();
    let new = |name, key, program, arguments: &[&str], works, remedy| Client {
        name,
        key,
        program,
        // What stands for the address of the server.
        arguments: arguments
            .iter()
            .map(|word| word.replace("URL", &format!("https://{server}/{key}")))
            .collect(),
        works,
        then: "",
        remedy,
    };
    let mut clients = vec![
        new(
            "curl",
            "curl",
            "curl",
            &["--silent", "--show-error", "URL"],
            "trusts the bundle (CURL_CA_BUNDLE)",
            SYSTEM,
        ),
        new("git", "git", "git", &["ls-remote", "URL"], "trusts the bundle (GIT_SSL_CAINFO)", SYSTEM),
        new(
            "node",
            "node",
            "node",
            &["-e", NODE, "URL"],
            "trusts the CA (NODE_EXTRA_CA_CERTS)",
            "give it --use-openssl-ca, and SSL_CERT_FILE=$PORTCULLIS_CA_BUNDLE",
        ),
        new(
            "wget",
            "wget",
            "wget",
            &["--no-verbose", "--tries=1", "--output-document=-", "URL"],
            "trusts the bundle (SSL_CERT_FILE)",
            "this one reads the system's store: `portcullis trust install`, or --ca-certificate=$PORTCULLIS_CA_BUNDLE",
        ),
    ];
    clients.extend(python());
    for client in clients.iter_mut().filter(|client| client.program == PYTHON) {
        client.arguments.push(format!("https://{server}/{}", client.key));
    }
    let mut psql = new(
        "psql",
        POSTGRES,
        "psql",
        &["--no-password", "--no-psqlrc", "--command=SELECT 1"],
        "trusts the CA (sslmode=verify-full sslrootcert=$PORTCULLIS_CA_FILE); sslmode=prefer and require need nothing",
        "leave sslmode at prefer or require, which verify nothing",
    );
    psql.arguments.push(format!(
        "host=127.0.0.1 port={} user=doctor dbname=doctor sslmode=verify-full sslrootcert='{ca_file}' \
         gssencmode=disable connect_timeout={seconds}",
        server.port()
    ));
    let mut kubectl = new(
        "kubectl",
        "kubectl",
        "kubectl",
        &["--server=URL", "version"],
        "trusts the CA where it is given as certificate-authority; a kubeconfig carries its own",
        "set certificate-authority in the agent's kubeconfig to $PORTCULLIS_CA_BUNDLE",
    );
    kubectl.arguments.push(format!("--certificate-authority={ca_file}"));
    kubectl.then = "set certificate-authority in the agent's kubeconfig to $PORTCULLIS_CA_BUNDLE";
    clients.extend([psql, kubectl]);
    clients
}

/// For clients that may be built to ignore their variable.
const SYSTEM: &str =
    "its variable does not help here: `portcullis trust install` puts the CA into the system's store";

const NODE: &str = "require('https').get(process.argv[1], (reply) => reply.resume())\
                    .on('error', (error) => { console.error(error.message); process.exit(1) })";

const PYTHON: &str = "python3";

/// Python's client libraries, each by a process of its own.
fn python() -> impl Iterator<Item = Client> {
    const SSL_CERT_FILE: &str = "trusts the bundle (SSL_CERT_FILE)";
    const OWN_CONTEXT: &str = "an SSL context or `verify=` made by hand must load $PORTCULLIS_CA_BUNDLE";
    [
        (
            "python urllib",
            "urllib",
            "import urllib.request; urllib.request.urlopen(sys.argv[1]).read()",
            SSL_CERT_FILE,
        ),
        (
            "python requests",
            "requests",
            "import requests; requests.get(sys.argv[1])",
            "trusts the bundle (REQUESTS_CA_BUNDLE)",
        ),
        ("python httpx", "httpx", "import httpx; httpx.get(sys.argv[1])", SSL_CERT_FILE),
        (
            "python aiohttp",
            "aiohttp",
            "import aiohttp, asyncio\n\
             async def main():\n\
             \x20   async with aiohttp.ClientSession() as session, session.get(sys.argv[1]) as reply:\n\
             \x20       await reply.read()\n\
             asyncio.run(main())",
            SSL_CERT_FILE,
        ),
    ]
    .into_iter()
    .map(|(name, module, script, works)| {
        let script =
            format!("import importlib.util, sys\nif not importlib.util.find_spec('{module}'): sys.exit({ABSENT})\n{script}");
        Client {
            name,
            key: module,
            program: PYTHON,
            arguments: vec!["-c".to_owned(), script],
            works,
            then: "",
            remedy: OWN_CONTEXT,
        }
    })
}

/// One line per client that is here, and one for those that are not.
fn report(tried: Vec<(Client, Outcome)>, in_store: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut absent = Vec::new();
    for (client, outcome) in tried {
        match outcome {
            Outcome::Absent => absent.push(client.name),
            Outcome::Trusts => checks.push(Check {
                name: client.name,
                state: State::Ok,
                found: client.works.to_owned(),
                advice: client.then.to_owned(),
            }),
            Outcome::Refuses(_) if in_store && client.program == "wget" => {
                checks.push(Check::ok(client.name, "trusts the system's store, which holds the CA"));
            }
            Outcome::Refuses(said) => {
                checks.push(Check::warn(
                    client.name,
                    format!("does not trust the bundle: {said}"),
                    client.remedy,
                ));
            }
        }
    }
    if !absent.is_empty() {
        checks.push(Check::ok("clients not installed", absent.join(", ")));
    }
    checks
}

/// A folder of this process's own with the trial's files; removed when dropped.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new(trial: &Trial) -> Result<Self, BoxError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let name = format!("portcullis-doctor-{:016x}", u64::from_be_bytes(random));
        let folder = std::env::temp_dir().join(name);
        // Fails when it exists: nobody else can have put it there.
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let scratch = Self { folder };
        let mut all = bundle::system();
        all.add(trial.ca.clone());
        fs::write(scratch.bundle(), all.pem())?;
        fs::write(scratch.ca_file(), bundle::pem(&trial.ca))?;
        Ok(scratch)
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn bundle(&self) -> PathBuf {
        self.folder.join("bundle.pem")
    }

    fn environment(&self) -> BTreeMap<String, String> {
        assignments(&self.ca_file(), &self.bundle())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing in it is secret, and there is nobody to tell.
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &'static str, program: &'static str) -> Client {
        Client {
            name,
            key: name,
            program,
            arguments: Vec::new(),
            works: "works",
            then: "",
            remedy: "do this",
        }
    }

    #[test]
    fn an_absent_client_is_no_failure_and_a_refusing_one_gets_a_remedy() {
        let tried = || {
            vec![
                (client("curl", "curl"), Outcome::Trusts),
                (client("wget", "wget"), Outcome::Refuses("unknown issuer".to_owned())),
                (client("git", "git"), Outcome::Refuses("unknown issuer".to_owned())),
                (client("node", "node"), Outcome::Absent),
                (client("psql", "psql"), Outcome::Absent),
            ]
        };
        let text = super::super::render(&report(tried(), false));
        let expected = "ok    curl: works\nwarn  wget: does not trust the bundle: unknown issuer\n      -> do this\n\
                        warn  git: does not trust the bundle: unknown issuer\n      -> do this\n\
                        ok    clients not installed: node, psql\n";
        assert_eq!(text, expected);
        let checks = report(tried(), true);
        assert!(checks.iter().any(|check| check.name == "wget" && check.state == State::Ok), "{checks:?}");
    }

    #[tokio::test]
    async fn who_trusts_is_heard_and_who_does_not_is_not() {
        let trial = Trial::new().unwrap();
        let scratch = Scratch::new(&trial).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Heard>::default();
        let serving =
            tokio::spawn(serve(listener, TlsAcceptor::from(Arc::clone(&trial.server)), Arc::clone(&heard)));
        // Debian's Python is there wherever these tests run; the second of the two trusts the system's roots alone.
        for (key, folder) in [("trusting", scratch.folder.as_path()), ("doubting", Path::new("/nonexistent"))]
        {
            let mut client = python().next().unwrap();
            client.key = key;
            client.arguments.push(format!("https://{address}/{key}"));
            let mut command = command(&client, &scratch);
            command.env("SSL_CERT_FILE", folder.join("bundle.pem")).env("SSL_CERT_DIR", "/nonexistent");
            let outcome = connect_one(&client, command, &heard).await;
            match (key, &outcome) {
                ("trusting", Outcome::Trusts) => {}
                ("doubting", Outcome::Refuses(said)) => {
                    assert!(said.contains("CERTIFICATE_VERIFY_FAILED"), "{said}")
                }
                (_, Outcome::Refuses(said)) => panic!("{key}: {said}"),
                (_, Outcome::Trusts | Outcome::Absent) => panic!("{key}"),
            }
        }
        serving.abort();
        let folder = scratch.folder.clone();
        drop(scratch);
        assert!(!folder.exists());
    }
}
