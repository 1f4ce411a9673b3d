//! Clients of the HTTP server: unchanged programs of an unprivileged user, governed or not.

use std::process::Command;

use anyhow::Result;

use super::{HttpServer, NAMES, Port};
use crate::agent;
use crate::daemon::Daemon;
use crate::process::{self, Finished, NOBODY};

/// What Python scripts find in front of them: names to connect by, whom to trust, raw connections.
const PRELUDE: &str = include_str!("client.py");
const PLANTED: &str = include_str!("planted.py");

/// How a client gets to the server.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// Under the policy `shop` of this daemon.
    Governed(&'a Daemon),
    /// Without Portcullis: what a control run sees.
    Direct,
}

impl Way<'_> {
    /// A command of the agent's, which trusts by `PORTCULLIS_CA_FILE` whoever is at the other end.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn command(self, server: &HttpServer, program: &str) -> Result<Command> {
        match self {
            Self::Governed(daemon) => {
                let mut run = agent::under(daemon, NOBODY, "shop")?;
                run.arg(program);
                Ok(run)
            }
            Self::Direct => {
                let mut command = process::as_user(NOBODY, program);
                command.env("PORTCULLIS_CA_FILE", server.ca()).current_dir("/");
                Ok(command)
            }
        }
    }

    /// A Python script with the client libraries. See `client.py` for what is defined.
    ///
    /// # Errors
    /// When there is no Python, or the script cannot be written.
    pub fn python(self, server: &HttpServer, script: &str) -> Result<Command> {
        let python = process::venv_python()?;
        let mut command = self.command(server, &python.display().to_string())?;
        // From a file: command lines are recorded, and these scripts name what is planted.
        command.args(["-u", "-B"]).arg(server.script(&format!("{PLANTED}\n{PRELUDE}\n{script}"))?);
        command.arg(server.at(Port::Https).ip().to_string());
        Ok(command)
    }

    /// curl that knows the server's names. In a URL, `PORT` is the port's number and `IP` the server's address.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn curl(self, server: &HttpServer, port: Port, arguments: &[&str]) -> Result<Command> {
        // Only the agent knows where its CA is; a variable also counts behind `--next`.
        let mut curl = self.command(server, "sh")?;
        curl.args([
            "-c",
            "CURL_CA_BUNDLE=$PORTCULLIS_CA_FILE exec curl --silent --show-error --max-time 60 \"$@\"",
            "curl",
        ]);
        let (ip, number) = (server.at(port).ip().to_string(), port.number().to_string());
        for name in NAMES {
            curl.arg("--resolve").arg(format!("{name}:{number}:{ip}"));
        }
        curl.args(arguments.iter().map(|argument| {
            argument.replace(":PORT", &format!(":{number}")).replace("//IP", &format!("//{ip}"))
        }));
        Ok(curl)
    }

    /// Runs curl to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn curled(self, server: &HttpServer, port: Port, arguments: &[&str]) -> Result<Finished> {
        process::finish(&mut self.curl(server, port, arguments)?)
    }
}
