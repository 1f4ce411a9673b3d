//! The life of a run: how a command is taken in and how it ends, what it cannot reach, and policies that change or
//! claim cgroups under running agents.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{self, BYSTANDER, Finished, NOBODY, Talking, as_user, finish};
use portcullis::intercept::cgroup2_root;
use serde_json::Value;

use crate::spine::{server, shop};

/// A daemon with a policy that names no connection: enough for what connects nowhere.
fn bare() -> Daemon {
    Daemon::start(&[("bare", "version = 1\nname = \"bare\"\n")]).unwrap()
}

/// `portcullis run --policy POLICY -- sh -c SCRIPT` as nobody.
fn shell(daemon: &Daemon, policy: &str, script: &str) -> Command {
    let mut run = agent::under(daemon, NOBODY, policy).unwrap();
    run.args(["sh", "-c", script]);
    run
}

fn refused_run(daemon: &Daemon, arguments: &[&str]) -> String {
    let run = finish(daemon.command_as(NOBODY).unwrap().arg("run").args(arguments)).unwrap();
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert_eq!(run.stdout, "", "the command did not run");
    run.stderr
}

fn runs(status: &[Value]) -> &[Value] {
    status[0]["runs"].as_array().map_or(&[], Vec::as_slice)
}

fn await_no_runs(daemon: &Daemon) {
    daemon.until(&["status"], |status| runs(status).is_empty()).unwrap();
}

fn policy_version(daemon: &Daemon) -> Value {
    daemon.json(&["status"]).unwrap()["policies"][0]["version"].clone()
}

fn assert_masked(seen: &Finished, daemon: &Daemon) {
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert_eq!(seen.stdout.trim(), "[redacted]");
}

#[test]
fn streams_exit_code_and_environment_are_the_commands_own() {
    let daemon = bare();
    let script = "cat; echo \"run=$PORTCULLIS_RUN ca=$PORTCULLIS_CA_FILE kept=$KEPT\"; echo err >&2; exit 7";
    let mut run = shell(&daemon, "bare", script);
    let mut child = run
        .env("KEPT", "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through stdin\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stderr, b"err\n");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (first, second) = stdout.split_once('\n').unwrap();
    assert_eq!(first, "through stdin");
    let ca = format!("{}/run/ca.pem", daemon.folder().display());
    let run = second.strip_prefix("run=").unwrap().split(' ').next().unwrap();
    assert_eq!(run.len(), 26, "a ULID: {run}");
    assert_eq!(second, format!("run={run} ca={ca} kept=yes\n"));
    assert!(fs::read_to_string(ca).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(daemon.log().contains(run), "the daemon knows it by that name");

    for (command, code) in [("/nonexistent/command", 127), ("/etc/passwd", 126)] {
        let failed = finish(agent::under(&daemon, NOBODY, "bare").unwrap().arg(command)).unwrap();
        assert_eq!(failed.code, code, "{}", failed.stderr);
        assert!(failed.stderr.contains(&format!("cannot run {command}")), "{}", failed.stderr);
    }
    await_no_runs(&daemon);
}

#[test]
fn a_signal_reaches_the_command() {
    let daemon = bare();
    // The child says that it is ready: forked but not yet exec'd, it would still have its parent's handler.
    let script = "trap 'echo caught; kill $!; exit 3' TERM; sh -c 'echo ready; exec sleep 60' & wait";
    let mut caught = Talking::spawn(&mut shell(&daemon, "bare", script)).unwrap();
    caught.until_contains("ready").unwrap();
    caught.process().signal("TERM").unwrap();
    caught.until_contains("caught").unwrap();
    assert_eq!(caught.finish().unwrap().code, 3);

    let mut killed = Talking::spawn(&mut shell(&daemon, "bare", "echo ready; exec sleep 60")).unwrap();
    killed.until_contains("ready").unwrap();
    killed.process().signal("TERM").unwrap();
    assert_eq!(killed.finish().unwrap().code, 128 + 15);
    await_no_runs(&daemon);
}

#[test]
fn a_terminal_stays_a_terminal() {
    let daemon = bare();
    // script(1) has `$SHELL -c` run it. A shell that stays in between would die of the interrupt below. Where these tests
    // are a shell's background job, they and all they start ignore SIGINT unless told otherwise.
    let run = format!(
        "exec env --default-signal=INT {} run --policy bare -- sh -c 'test -t 0 && test -t 1 && test -t 2 && tty && exit 5'",
        process::portcullis().unwrap().display()
    );
    let mut script = as_user(NOBODY, "script");
    script.env("PORTCULLIS_CONFIG", daemon.config()).args(["-qec", &run, "/dev/null"]);
    let seen = finish(&mut script).unwrap();
    assert_eq!(seen.code, 5, "{}", seen.stdout);
    assert!(seen.stdout.starts_with("/dev/pts/"), "{}", seen.stdout);

    // An interrupt typed at the terminal arrives.
    let run = run.replace(
        "tty && exit 5",
        "trap \"echo got it; exit 4\" INT && echo ready && while :; do sleep 0.1; done",
    );
    let mut script = as_user(NOBODY, "script");
    script.env("PORTCULLIS_CONFIG", daemon.config()).args(["-qec", &run, "/dev/null"]);
    let mut typed = Talking::spawn(&mut script).unwrap();
    typed.until_contains("ready").unwrap();
    typed.say("\u{3}").unwrap();
    typed.until_contains("got it").unwrap();
    assert_eq!(typed.finish().unwrap().code, 4);
}

#[test]
fn a_run_ends_with_its_last_process() {
    let daemon = shop();
    let psql = format!("'{}'", agent::psql_arguments(server(), "shop").join("' '"));
    // The grandchild reads a line before it connects, in a session of its own, when its parents are gone.
    let script = format!(
        "exec 3<&0 4>&1; setsid sh -c \"read -r _ <&3; {psql} -Atc 'SELECT ssn FROM customers WHERE id = 1' >&4\" \
         >/dev/null 2>&1 & echo $PORTCULLIS_RUN"
    );
    let mut first = Talking::spawn(&mut shell(&daemon, "shop", &script)).unwrap();
    let run = first.until(|line| line.len() == 26).unwrap();
    daemon
        .until(&["status"], |_| first_has_ended(&first))
        .expect("the run's first process ends while its grandchild goes on");
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!(status["runs"][0]["id"], run.as_str(), "the grandchild keeps it");
    first.say("go on").unwrap();
    first.until_contains("[redacted]").unwrap();
    await_no_runs(&daemon);
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert_eq!(sessions[0]["opened"]["run"], run.as_str());
    let cgroup = status["runs"][0]["cgroup"].as_str().unwrap().trim_start_matches('/').to_owned();
    assert!(!cgroup2_root().unwrap().join(cgroup).exists(), "its cgroup is gone, too");
}

/// A child that was not waited for yet is a zombie then.
fn first_has_ended(talking: &Talking) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", talking.process().id())).unwrap_or_default();
    stat.contains(") Z ")
}

#[test]
fn root_is_refused_unless_that_is_accepted() {
    let daemon = bare();
    let run = daemon.cli(&["run", "--policy", "bare", "--", "echo", "ran"]).unwrap();
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.contains("an agent must not be root: root can lift the gate"), "{}", run.stderr);
    assert!(run.stderr.contains("runuser -u NAME"), "{}", run.stderr);
    let run = daemon.cli(&["run", "--policy", "bare", "--allow-root", "--", "echo", "ran"]).unwrap();
    assert_eq!((run.code, run.stdout.as_str()), (0, "ran\n"));
}

#[test]
fn who_may_start_a_run_is_the_policys() {
    let restricted = "version = 1\nname = \"bare\"\n[run]\nusers = [\"nobody\"]\n";
    let daemon = Daemon::start(&[("bare", restricted)]).unwrap();
    let run = finish(shell(&daemon, "bare", "echo ran").current_dir("/")).unwrap();
    assert_eq!(run.stdout, "ran\n", "{}", run.stderr);
    let mut other = agent::under(&daemon, BYSTANDER, "bare").unwrap();
    let run = finish(other.args(["echo", "ran"])).unwrap();
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.contains("policy `bare` lets only user nobody start runs"), "{}", run.stderr);
}

#[test]
fn what_is_wrong_with_a_policy_is_said_when_a_run_asks_for_it() {
    let broken = "version = 1\nname = \"broken\"\n[egres]\ndefault = \"deny\"\n";
    let good = "version = 1\nname = \"bare\"\n";
    let daemon = Daemon::start(&[("bare", good), ("broken", broken)]).unwrap();
    let message = refused_run(&daemon, &["--policy", "crewai", "--", "echo", "ran"]);
    assert!(message.contains("there is no policy `crewai`; there are: bare"), "{message}");
    let message = refused_run(&daemon, &["--policy", "broken", "--", "echo", "ran"]);
    assert!(message.contains("broken.toml"), "{message}");
    assert!(message.contains("egres") && message.contains(":3:"), "{message}");
    let message = refused_run(&daemon, &["--policy", "bare", "--label", "a b=c", "--", "echo", "ran"]);
    assert!(message.contains("label key `a b` is not acceptable"), "{message}");

    let status = daemon.json(&["status"]).unwrap();
    let files = status["policies"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "bare" && file["error"].is_null()), "{files:?}");
    assert!(files.iter().any(|file| file["error"].as_str().is_some_and(|e| e.contains("egres"))));
    let doctor = finish(daemon.command().unwrap().args(["doctor", "--json"])).unwrap();
    assert_eq!(doctor.code, 1, "a broken policy fails the check");
    let checks: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let of = |name: &str| checks.as_array().unwrap().iter().find(|check| check["name"] == name).cloned();
    assert_eq!(of("policy").unwrap()["state"], "fail");
    for name in ["kernel", "cgroup v2", "bpffs", "kernel programs", "daemon", "disk"] {
        assert_eq!(of(name).unwrap()["state"], "ok", "{name}: {}", doctor.stdout);
    }

    let file = |name: &str| daemon.folder().join("policies").join(name).display().to_string();
    let check = daemon.cli(&["policy", "check", &file("bare.toml"), &file("broken.toml")]).unwrap();
    assert_eq!(check.code, 1);
    assert!(check.stderr.contains("broken.toml:3:"), "{}", check.stderr);
    assert_eq!(daemon.cli(&["policy", "check", &file("bare.toml")]).unwrap().code, 0);
}

#[test]
fn a_run_inherits_no_socket() {
    let daemon = bare();
    // Python, outside any run, connects and hands its socket to `portcullis run`, once beside the standard streams
    // and once as one of them.
    let script = r#"
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
s = socket.create_connection(listener.getsockname())
plain = os.open("/etc/hostname", os.O_RDONLY)
for fd in (s.fileno(), plain):
    os.set_inheritable(fd, True)
if sys.argv[1] == "stdin":
    os.dup2(s.fileno(), 0)
check = f"for fd in {s.fileno()} {plain}; do test -e /proc/self/fd/$fd && echo open || echo closed; done"
os.execv(sys.argv[2], [sys.argv[2], "run", "--policy", "bare", "--", "sh", "-c", check])
"#;
    let run = |how: &str| {
        let mut python = as_user(NOBODY, process::python());
        python.env("PORTCULLIS_CONFIG", daemon.config()).args(["-c", script, how]);
        finish(python.arg(process::portcullis().unwrap())).unwrap()
    };
    let beside = run("beside");
    assert_eq!(beside.stdout, "closed\nopen\n", "{}", beside.stderr);
    let stdin = run("stdin");
    assert_eq!((stdin.code, stdin.stdout.as_str()), (1, ""));
    assert!(stdin.stderr.contains("stdin is a network connection"), "{}", stdin.stderr);
}

#[test]
fn a_governed_process_reaches_no_control() {
    let daemon = bare();
    let portcullis = process::portcullis().unwrap();
    let portcullis = portcullis.display();
    let refusal = "processes of a governed run may not use the control socket";
    for command in [
        "status",
        "approvals",
        "approvals --watch",
        "approvals approve ABCDEF",
        "run --policy bare -- true",
        "detach",
    ] {
        // In a session of its own and without its parent, too.
        for script in [format!("{portcullis} {command}"), format!("setsid -w {portcullis} {command}")] {
            let seen = finish(&mut shell(&daemon, "bare", &script)).unwrap();
            assert_eq!((seen.code, seen.stdout.as_str()), (1, ""), "{command}: {}", seen.stderr);
            assert!(seen.stderr.contains(refusal), "{command}: {}", seen.stderr);
        }
    }
    assert!(daemon.log().contains("an agent tried to use the control socket"));
    assert_eq!(daemon.cli(&["status"]).unwrap().code, 0, "others still may");
}

#[test]
fn a_changed_policy_holds_for_the_next_statement() {
    let daemon = shop();
    let shell = &mut agent::psql_shell(&daemon, server(), NOBODY, "shop").unwrap();
    let mut psql = Talking::spawn(shell).unwrap();
    psql.say("SELECT 'first ' || count(*) FROM orders;").unwrap();
    psql.until_contains("first 5000").unwrap();

    let before = policy_version(&daemon);
    let guard = "[[guard]]\nname = \"no orders\"\non = \"postgres\"\nobjects = [\"orders\"]\naction = \"deny\"\n\
                 hint = \"ask for customers\"\n\n[[guard]]\nname = \"nothing irreversible\"";
    let policy = shop_policy(server());
    daemon.policy("shop", &policy.replacen("[[guard]]\nname = \"nothing irreversible\"", guard, 1)).unwrap();
    daemon.until(&["status"], |status| status[0]["policies"][0]["version"] != before).unwrap();
    psql.say("SELECT 'second ' || count(*) FROM orders;").unwrap();
    psql.until_contains("ERROR:  42501: portcullis: ").unwrap();
    psql.until_contains("Rule: no orders.").unwrap();
    psql.until_contains("HINT:  ask for customers").unwrap();

    // A broken file changes nothing: the last good version stays.
    daemon.policy("shop", "version = 1\nname = \"shop\"\noops = 1\n").unwrap();
    daemon
        .until(&["status"], |status| {
            let files = status[0]["policies"].as_array().unwrap();
            files.iter().any(|file| file["error"].as_str().is_some_and(|error| error.contains("oops")))
        })
        .unwrap();
    psql.say("SELECT 'third ' || count(*) FROM customers; SELECT 1 FROM orders;").unwrap();
    psql.until_contains("third 200").unwrap();
    psql.until_contains("Rule: no orders.").unwrap();

    // Without a policy nothing passes.
    fs::remove_file(daemon.folder().join("policies/shop.toml")).unwrap();
    daemon.until(&["status"], |status| status[0]["policies"] == Value::Array(Vec::new())).unwrap();
    psql.say("SELECT 'fourth ' || 1;").unwrap();
    psql.until_contains("ERROR:  42501: portcullis: the policy `shop` of this run is missing or broken")
        .unwrap();
    psql.until_contains("HINT:  ask the operator to run `portcullis policy check`").unwrap();

    daemon.policy("shop", &policy).unwrap();
    daemon.until(&["status"], |status| status[0]["policies"][0]["version"] == before).unwrap();
    psql.say("SELECT 'fifth ' || count(*) FROM orders;").unwrap();
    psql.until_contains("fifth 5000").unwrap();
    let finished = psql.finish().unwrap();
    assert!(!finished.stdout.contains("second ") && !finished.stdout.contains("fourth "));
}

/// A cgroup that some service manager made.
pub(crate) struct Foreign(PathBuf);

impl Foreign {
    pub(crate) fn new(name: &str) -> Self {
        let path = cgroup2_root().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// What is started in it as nobody, once its program and arguments are added.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\""])
            .env("HOME", "/")
            .arg(&self.0);
        command
    }

    /// psql as nobody, started in it.
    pub(crate) fn psql(&self, sql: &str) -> Command {
        let mut command = self.command();
        command.args(agent::psql_arguments(server(), "shop")).args(["-Atc", sql]);
        command
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // The test may have removed it.
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn a_cgroup_that_a_policy_claims_is_governed_when_it_appears() {
    let unique = format!("portcullis-test-{}", std::process::id());
    let claim = format!("[match]\ncgroups = [\"/{unique}-*\"]\n\n[egress]");
    let existing = Foreign::new(&format!("{unique}-there"));
    let daemon = Daemon::start(&[("shop", &shop_policy(server()).replace("[egress]", &claim))]).unwrap();
    let later = Foreign::new(&format!("{unique}-later"));
    let unclaimed = Foreign::new(&format!("{unique}.other"));
    let status = daemon.until(&["status"], |status| runs(status).len() == 2).unwrap();
    let mut cgroups: Vec<&str> = runs(&status).iter().map(|run| run["cgroup"].as_str().unwrap()).collect();
    cgroups.sort_unstable();
    assert_eq!(cgroups, [format!("/{unique}-later"), format!("/{unique}-there")]);

    let select = "SELECT ssn FROM customers WHERE id = 1";
    for cgroup in [&existing, &later] {
        assert_masked(&finish(&mut cgroup.psql(select)).unwrap(), &daemon);
    }
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert_eq!(sessions.len(), 2, "{sessions:#?}");
    for session in &sessions {
        let opened = &session["opened"];
        assert_eq!((&opened["policy"], &opened["user"]), (&"shop".into(), &"nobody".into()));
        assert!(runs(&status).iter().any(|run| run["id"] == opened["run"]), "{opened}");
    }
    // The agent of another cgroup goes directly, where its own password does not do.
    let outside = finish(&mut unclaimed.psql(select)).unwrap();
    assert!(outside.stderr.contains("no password supplied"), "{}", outside.stderr);

    // A process of a claimed cgroup cannot reach control either.
    let mut control = Command::new("sh");
    control.args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&later.0);
    control.arg(process::portcullis().unwrap()).arg("status").env("PORTCULLIS_CONFIG", daemon.config());
    assert_eq!(finish(&mut control).unwrap().code, 1);

    fs::remove_dir(&later.0).unwrap();
    daemon.until(&["status"], |status| runs(status).len() == 1).unwrap();

    // A policy that no longer claims it lets go of it.
    daemon.policy("shop", &shop_policy(server())).unwrap();
    await_no_runs(&daemon);
    let after = finish(&mut existing.psql(select)).unwrap();
    assert!(after.stderr.contains("no password supplied"), "{}", after.stderr);
}

#[test]
fn a_run_outlives_its_daemon_and_is_taken_up_again() {
    let mut daemon = shop();
    let psql = format!("'{}'", agent::psql_arguments(server(), "shop").join("' '"));
    let script = format!("echo ready; while read -r sql; do {psql} -Atc \"$sql\"; echo done $?; done");
    let mut agent = Talking::spawn(&mut shell(&daemon, "shop", &script)).unwrap();
    agent.until_contains("ready").unwrap();
    let before = daemon.json(&["status"]).unwrap()["runs"][0].clone();
    daemon.kill().unwrap();
    agent.say("SELECT 1").unwrap();
    agent.until_contains("Connection refused").unwrap();
    agent.until_contains("done 2").unwrap();
    daemon.launch().unwrap();
    assert_eq!(daemon.json(&["status"]).unwrap()["runs"][0], before);
    agent.say("SELECT ssn FROM customers WHERE id = 1").unwrap();
    agent.until_contains("[redacted]").unwrap();
    agent.until_contains("done 0").unwrap();
    agent.finish().unwrap();
    await_no_runs(&daemon);
}
