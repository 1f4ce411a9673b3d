//! `portcullis run`: becomes the first process of a new run, then becomes the command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use rustix::thread::set_no_new_privs;

use super::trust::own;
use super::{Failure, ask, complain, known_hosts, renew, token};
use crate::config::Config;
use crate::control::protocol::REQUEST_BYTES_MAX;
use crate::control::{ClientError, Reply, Request};
use crate::run::{Subject, caller};
use crate::sys;

/// What a shell and env(1) exit with when the command is not there, and when it is but cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUNNABLE: i32 = 126;

/// Most text of the caller's own certificates, in bytes; the request that carries it needs some room for the rest.
const OWN_BYTES_MAX: usize = REQUEST_BYTES_MAX / 8 * 7;

const HELP: &str = "\
Runs CMD in a new cgroup whose connections Portcullis intercepts and judges by the
policy NAME. CMD takes this process's place: signals, terminal, standard streams and
exit code are its own. The run ends with its last process.

CMD gets PORTCULLIS_RUN and the variables that make its clients trust the local CA
(`portcullis trust env` lists them); certificates that yours name are kept. It cannot
gain privileges (no_new_privs), and inherits no open sockets. Run it as a user without
sudo or docker.

Where the policy asks for an ID token ([identity]), name it with --token-file or --token-env. Without
either, this is looked for: $PORTCULLIS_ID_TOKEN (GitLab: `id_tokens:`), GitHub Actions' own (`permissions:
id-token: write`), a projected token at /var/run/secrets/portcullis/token, the Kubernetes service account's.
A token from a file or GitHub is renewed as long as the run goes on, by a process of yours outside of it. CMD
does not get the variables that the token came from.

Where the policy has SSH connections, their hosts are written into ~/.ssh/known_hosts with
the key that clients see, before your own lines; --no-known-hosts leaves the file alone.

Examples:
  portcullis run --policy crewai -- python crew.py
  portcullis run --policy migrations --label job=$CI_JOB_ID -- psql -f up.sql
  portcullis run --policy crewai --token-file /run/job/id-token -- python crew.py

Exits as CMD does; 126 when CMD cannot be run, 127 when it is not found, 1 when the
run is refused.";

/// Arguments of `portcullis run`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// The policy that governs the run
    #[arg(long, value_name = "NAME")]
    policy: String,
    /// Kept with everything recorded of the run; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// File with the ID token that says whom the run acts for; read again when the token is due for renewal
    #[arg(long, value_name = "FILE", conflicts_with = "token_env")]
    token_file: Option<PathBuf>,
    /// Environment variable with the ID token; CMD does not get it
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Accept that root can lift the gate, and run as root
    #[arg(long)]
    allow_root: bool,
    /// Leave ~/.ssh/known_hosts alone; the published ssh_known_hosts beside the control socket has the key
    #[arg(long)]
    no_known_hosts: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Returns only when there is no run or no command.
pub(super) fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let mut words = arguments.command.into_iter();
    let program = words.next().ok_or_else(|| Failure::Usage("name a command after `--`".to_owned()))?;
    let mut labels = BTreeMap::new();
    for (key, value) in arguments.labels {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::Usage(format!("--label {key} is given twice")));
        }
    }
    // Until it becomes the command this process knows the token.
    renew::not_to_be_taken_over()?;
    refuse_network_streams()?;
    warn_of_powerful_groups();
    let certificates = own_certificates(config)?;
    let named = token::named(arguments.token_file, arguments.token_env);
    let source = token::find(named, &arguments.policy, config)?;
    let token = source.as_ref().map(|source| source.read()).transpose()?;
    let renewal = source.as_ref().map(|source| renew::prepare(source, config)).transpose()?.flatten();
    let request = Request::Run {
        policy: arguments.policy,
        labels,
        allow_root: arguments.allow_root,
        certificates,
        token,
    };
    let Reply::Started { run, environment, ssh_hosts, cgroup, expires_ms } = ask(config, &request)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    if let (Some(renewal), Some(expires_ms)) = (renewal, expires_ms) {
        renewal.begin(run, cgroup, expires_ms);
    }
    if !ssh_hosts.is_empty() && !arguments.no_known_hosts {
        make_known(&ssh_hosts, config);
    }
    // From here on this process is the agent's.
    drop_inherited_sockets()?;
    set_no_new_privs(true).map_err(io::Error::from)?;
    let mut command = Command::new(&program);
    command.args(words).envs(environment);
    for variable in source.iter().flat_map(token::Source::variables) {
        command.env_remove(variable);
    }
    let error = command.exec();
    complain(&format!("cannot run {}: {error}", program.display()));
    std::process::exit(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE });
}

/// Lets the caller's SSH clients know the key that they will see. A run goes on without: its clients then refuse, or ask.
fn make_known(hosts: &[String], config: &Config) {
    let published = config.ssh_known_hosts();
    let written = std::env::home_dir().ok_or_else(|| io::Error::other("you have no home")).and_then(|home| {
        let key = fs::read_to_string(&published)?;
        known_hosts::write(&home, hosts, &key)
    });
    if let Err(error) = written {
        complain(&format!(
            "warning: ~/.ssh/known_hosts is left as it is ({error}); SSH clients can use {} instead",
            published.display()
        ));
    }
}

/// The certificates that the caller's variables name and the bundle lacks: the run gets a bundle with them in it.
fn own_certificates(config: &Config) -> Result<String, Failure> {
    let own = own::of_caller(config);
    for warning in own.warnings {
        complain(&format!("warning: {warning}"));
    }
    if own.pem.len() > OWN_BYTES_MAX {
        return Err(Failure::Failed(format!(
            "the certificates that your variables name (SSL_CERT_FILE and its like) are too many: {} bytes of them are \
             not the system's, {OWN_BYTES_MAX} can be kept; unset the variables, or install the certificates in the \
             system's store",
            own.pem.len()
        )));
    }
    Ok(own.pem)
}

/// A connection made before the run is not governed. One that is a standard stream cannot be closed without breaking
/// the command, so it is refused.
fn refuse_network_streams() -> Result<(), Failure> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (name, stream) in [("stdin", stdin.as_fd()), ("stdout", stdout.as_fd()), ("stderr", stderr.as_fd())] {
        match socket_domain(stream) {
            // ENOTSUP and ENOTSOCK: not a socket. Unix sockets are how many programs connect children.
            Err(_) | Ok(AddressFamily::UNIX) => {}
            Ok(_) => {
                return Err(Failure::Failed(format!(
                    "{name} is a network connection, which would stay ungoverned; pipe it (`… | portcullis run …`)"
                )));
            }
        }
    }
    Ok(())
}

/// Lets the command inherit files, pipes and terminals, and nothing that can speak to others: sockets, and anonymous
/// inodes such as io_uring or pidfd, which may hold some.
fn drop_inherited_sockets() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if fd <= 2 {
            continue;
        }
        let kept = fs::metadata(entry.path()).is_ok_and(|file| {
            let kind = file.file_type();
            kind.is_file()
                || kind.is_dir()
                || kind.is_fifo()
                || kind.is_char_device()
                || kind.is_block_device()
        });
        if !kept {
            match sys::close_on_exec(fd) {
                // The listing's own descriptor is closed by now.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn warn_of_powerful_groups() {
    let Ok(subject) = caller::current() else { return };
    for group in powerful_groups(&subject) {
        complain(&format!(
            "warning: user {} is in group {group}, which can become root and lift the gate; run agents as another user",
            subject.user
        ));
    }
}

/// Groups whose members can become root on common hosts.
pub(super) fn powerful_groups(subject: &Subject) -> Vec<&str> {
    const POWERFUL: [&str; 10] =
        ["sudo", "wheel", "admin", "docker", "podman", "lxd", "incus-admin", "libvirt", "disk", "shadow"];
    subject.groups.iter().map(String::as_str).filter(|group| POWERFUL.contains(group)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_key_and_a_value() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a="), Ok(("a".to_owned(), String::new())));
        assert!(label("a").is_err());
    }

    #[test]
    fn powerful_groups_are_named() {
        let subject =
            Subject { groups: ["ci", "docker", "sudo"].map(str::to_owned).to_vec(), ..Subject::default() };
        assert_eq!(powerful_groups(&subject), ["docker", "sudo"]);
    }
}
