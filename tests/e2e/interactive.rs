//! An agent that does what the test tells it, line by line, for as long as the test lives.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{ChildStdout, Stdio};

use harness::daemon::Daemon;
use harness::postgres::Server;
use harness::process::{self, NOBODY, Owned};
use serde_json::Value;

/// Evaluates every line of standard input and answers with one line of JSON: the value, an errno's name, or what
/// PostgreSQL's client library said. Connections stay open until they are closed or the agent ends.
const SCRIPT: &str = r#"
import errno, json, os, socket, struct, sys
import psycopg

kept = {}

def dial(name, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kept[name] = socket.socket(family, socket.SOCK_STREAM)
    kept[name].settimeout(20)
    kept[name].connect((address, port))
    return "connected"

def say(name, text):
    kept[name].sendall(text.encode())
    return kept[name].recv(100).decode()

def end(name):
    return kept[name].recv(1000).decode()

def greet(name, database):
    body = b"user\0agent\0database\0" + database.encode() + b"\0\0"
    kept[name].sendall(struct.pack("!II", len(body) + 8, 196608) + body)
    heard = b""
    while not heard.endswith(b"Z\0\0\0\5I"):
        more = kept[name].recv(1000)
        assert more, heard
        heard += more
    return "ready"

def login(name, conninfo):
    kept[name] = psycopg.connect(conninfo, autocommit=True)
    return "connected"

def sql(name, text):
    cursor = kept[name].execute(text)
    return cursor.fetchall() if cursor.description else cursor.statusmessage

def later(name, text):
    kept[name].pgconn.send_query(text.encode())
    kept[name].pgconn.flush()
    return "sent"

def run():
    return os.environ["PORTCULLIS_RUN"]

for line in sys.stdin:
    try:
        answer = eval(line)
    except psycopg.Error as error:
        diag = error.diag
        answer = {"sqlstate": error.sqlstate, "text": str(error), "detail": diag.message_detail, "hint": diag.message_hint}
    except OSError as error:
        answer = {"errno": errno.errorcode.get(error.errno, str(error))}
    print(json.dumps(answer, default=str), flush=True)
"#;

/// The agent. Ends with its owner, or when told nothing any more.
pub(crate) struct Interactive {
    process: Owned,
    answers: BufReader<ChildStdout>,
}

impl Interactive {
    /// Starts it in a run of its own under `policy`.
    pub(crate) fn start(daemon: &Daemon, policy: &str) -> Self {
        let mut run = daemon.command_as(NOBODY).unwrap();
        run.args(["run", "--policy", policy, "--"]).arg(process::python()).args(["-c", SCRIPT]);
        let mut process = Owned::spawn(run.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let answers = BufReader::new(process.child().stdout.take().unwrap());
        Self { process, answers }
    }

    /// Has it evaluate a Python expression.
    pub(crate) fn ask(&mut self, expression: &str) -> Value {
        writeln!(self.process.child().stdin.as_mut().unwrap(), "{expression}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{expression}: {line:?}: {error}"))
    }

    /// Opens a connection under a name; `"connected"`, or the errno.
    pub(crate) fn dial(&mut self, name: &str, to: SocketAddr) -> Value {
        self.ask(&format!("dial({name:?}, \"{}\", {})", to.ip(), to.port()))
    }

    /// Logs in to PostgreSQL under a name.
    pub(crate) fn login(&mut self, name: &str, server: &Server, database: &str) -> Value {
        let at = server.address();
        let (host, port) = (at.ip(), at.port());
        self.ask(&format!("login({name:?}, \"host={host} port={port} user=agent dbname={database}\")"))
    }

    /// Runs a statement on a connection.
    pub(crate) fn sql(&mut self, name: &str, text: &str) -> Value {
        self.ask(&format!("sql({name:?}, {text:?})"))
    }

    /// The run's id.
    pub(crate) fn run(&mut self) -> String {
        self.ask("run()").as_str().unwrap().to_owned()
    }

    /// Ends it and waits for its end.
    pub(crate) fn finish(mut self) {
        drop(self.process.child().stdin.take());
        assert!(self.process.child().wait().unwrap().success());
    }
}
