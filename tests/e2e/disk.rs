//! A recording disk that is full, and one that fails: nothing is forwarded, the client is told why, and the first heals.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use harness::daemon::{Daemon, shop_policy};
use harness::process;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake;
use crate::interactive::Interactive;
use crate::spine::server;
use crate::ssh;
use crate::wait;

const WAIT_MAX: Duration = Duration::from_secs(15);

/// A file system in a folder of its own, gone when dropped. Must outlive the daemon that uses it.
struct Disk(TempDir);

impl Disk {
    /// In memory, of so many megabytes.
    fn of_memory(megabytes: u32) -> Self {
        Self::mount(&["-t", "tmpfs", "-o", &format!("mode=0700,size={megabytes}m"), "tmpfs"])
    }

    /// On an image that is larger than what is set aside for it: it looks roomy and takes nothing more once `below` is
    /// filled, as a thin-provisioned or dying disk does.
    fn overcommitted(below: &Self, megabytes: u64) -> Self {
        let image = below.path().join("image");
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        process::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)).unwrap();
        Self::mount(&["-t", "ext4", "-o", "loop", &image.to_string_lossy()])
    }

    fn mount(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("portcullis-disk.").tempdir().unwrap();
        process::run(Command::new("mount").args(arguments).arg(folder.path())).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space there is, and says what holds it.
    fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut file = File::create(&ballast).unwrap();
        for size in [1 << 20, 4096] {
            let block = vec![0xa5; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(process::run(Command::new("umount").args(["--lazy"]).arg(self.path())));
    }
}

/// A daemon that keeps its state on a disk.
fn start_on(disk: &Disk, policies: &[(&str, &str)]) -> Daemon {
    let mut daemon = prepare_on(disk, policies);
    daemon.launch().unwrap();
    daemon
}

/// The same, not yet started.
fn prepare_on(disk: &Disk, policies: &[(&str, &str)]) -> Daemon {
    let daemon = Daemon::prepare(policies).unwrap();
    let usual = daemon.folder().join("state");
    let config = fs::read_to_string(daemon.config()).unwrap();
    let changed = config.replace(&*usual.to_string_lossy(), &disk.path().join("state").to_string_lossy());
    let changed = changed.replace("free_min = \"0B\"", "free_min = \"1MiB\"");
    assert_ne!(config, changed);
    fs::write(daemon.config(), changed).unwrap();
    daemon
}

fn problems(daemon: &Daemon) -> String {
    daemon.json(&["status"]).unwrap()["problems"].to_string()
}

fn assert_refused(answer: &Value, sqlstate: &str, text: &str, hint: &str) {
    assert_eq!(answer["sqlstate"], sqlstate, "{answer}");
    assert!(answer["text"].as_str().unwrap().contains(text), "{answer}");
    assert!(answer["hint"].as_str().unwrap().contains(hint), "{answer}");
}

#[test]
fn a_full_disk_stops_statements_and_nothing_else_and_heals() {
    let full = "the recording disk is full, so nothing is forwarded until there is space again";
    let hint = "ask the operator to free space in the daemon's state folder, then try again";
    let disk = Disk::of_memory(96);
    let daemon = start_on(&disk, &[("shop", &shop_policy(server()))]);
    server().psql("shop", "CREATE TABLE disk_full (id integer)").unwrap();
    server().psql("shop", "GRANT ALL ON disk_full TO shop_agent").unwrap();
    let there =
        || server().psql("shop", "SELECT string_agg(id::text, ' ' ORDER BY id) FROM disk_full").unwrap();
    let mut agent = Interactive::start(&daemon, "shop");
    assert_eq!(agent.login("db", server(), "shop"), "connected");
    assert_eq!(agent.sql("db", "INSERT INTO disk_full VALUES (1)"), "INSERT 0 1");

    let ballast = disk.fill();
    // A look at the free space counts for a moment.
    wait::until(WAIT_MAX, || match agent.sql("db", "SELECT 1") {
        answer if answer["sqlstate"] == "53100" => Ok(()),
        answer if answer["text"] == "the connection is closed" => {
            // The disk was full between a statement's intent and its outcome, which ends a session. Once more.
            fs::remove_file(&ballast).unwrap();
            wait::until(WAIT_MAX, || match agent.login("db", server(), "shop") {
                answer if answer == "connected" => Ok(()),
                answer => Err(answer),
            });
            assert_eq!(disk.fill(), ballast);
            Err(answer)
        }
        answer => Err(answer),
    });

    assert_refused(&agent.sql("db", "INSERT INTO disk_full VALUES (2)"), "53100", full, hint);
    // With parameters it is Parse, Bind and Execute.
    let extended = "kept['db'].execute('INSERT INTO disk_full VALUES (%s)', [3]).statusmessage";
    assert_refused(&agent.ask(extended), "53100", full, hint);
    let prepared = "kept['db'].execute('SELECT %s', [3], prepare=True).fetchall()";
    assert_refused(&agent.ask(prepared), "53100", full, hint);
    // What policy refuses or holds cannot be recorded either: it is not forwarded, and nobody is asked.
    assert_refused(&agent.sql("db", "SET client_encoding = 'LATIN1'"), "53100", full, hint);
    assert_refused(&agent.sql("db", "DROP TABLE disk_full"), "53100", full, hint);
    let asked = daemon.json(&["approvals"]).unwrap();
    assert!(asked.as_array().unwrap().iter().all(|entry| entry["outcome"] == "withdrawn"), "{asked}");
    // A new session is told why it gets nothing.
    let login = agent.login("late", server(), "shop");
    assert!(login["text"].as_str().unwrap().contains(full), "{login}");
    assert!(problems(&daemon).contains("nearly full: free some space"), "{}", problems(&daemon));
    assert_eq!(there().trim(), "1");

    fs::remove_file(ballast).unwrap();

    // The same session goes on.
    assert_eq!(agent.sql("db", "INSERT INTO disk_full VALUES (4)"), "INSERT 0 1");
    assert_eq!(agent.ask(extended), "INSERT 0 1");
    assert_eq!(agent.ask(prepared), json!([[3]]));
    assert_eq!(agent.login("late", server(), "shop"), "connected");
    assert_eq!(problems(&daemon), "[]");
    assert_eq!(there().trim(), "1 3 4");
    let shown = daemon.cli(&["sessions", "show", "last"]).unwrap();
    assert_eq!(shown.code, 0, "{}", shown.stderr);
}

/// What reached a server after the start-up.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A server that lets everyone in, answers every query with `INSERT 0 1`, and remembers what it heard.
fn listening_server(heard: &Heard) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 79, 0, 1), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let heard = Arc::clone(&heard);
            thread::spawn(move || answer(stream.unwrap(), &heard));
        }
    });
    address
}

fn answer(mut stream: TcpStream, heard: &Heard) -> std::io::Result<()> {
    fake::startup(&mut stream)?;
    stream.write_all(&fake::hello(&[]))?;
    fake::search_path(&mut stream)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let chunk = &buffer[..length];
        heard.lock().unwrap().extend_from_slice(chunk);
        // The test's queries end in this and contain it nowhere else.
        if chunk.ends_with(b"end */\0") {
            stream.write_all(&fake::message(b'C', b"INSERT 0 1\0"))?;
            stream.write_all(&fake::message(b'Z', b"I"))?;
        }
    }
}

#[test]
fn a_failing_disk_stops_everything_before_a_byte_is_forwarded() {
    let stopped = "the recording cannot be written, so nothing is forwarded";
    let heard = Heard::default();
    let address = listening_server(&heard);
    let policy = format!(
        "version = 1\nname = \"deaf\"\n\n[[connection]]\nname = \"db\"\nto = [\"{address}\"]\nprotocol = \"postgres\"\n\
         upstream = {{ user = \"u\", credential = \"shop-password\", tls = \"disable\" }}\n\n\
         [[guard]]\nname = \"writes\"\non = \"postgres\"\neffect = [\"write\"]\naction = \"allow\"\n"
    );
    let below = Disk::of_memory(32);
    let disk = Disk::overcommitted(&below, 256);
    let mut daemon = start_on(&disk, &[("deaf", &policy)]);
    let mut agent = Interactive::start(&daemon, "deaf");
    let conninfo = format!("host={} port={} user=agent dbname=d", address.ip(), address.port());
    for name in ["db", "other"] {
        assert_eq!(agent.ask(&format!("login({name:?}, {conninfo:?})")), "connected");
    }
    assert_eq!(agent.sql("db", "INSERT INTO t VALUES ('before') /* end */"), "INSERT 0 1");
    let before = heard.lock().unwrap().clone();
    assert!(String::from_utf8_lossy(&before).contains("'before'"));
    assert_eq!(problems(&daemon), "[]");

    let _ballast = below.fill();
    // More than fits into blocks that are there already, and nothing that compresses.
    let noise = "kept['db'].execute(\"INSERT INTO t VALUES ('after \" + os.urandom(200_000).hex() + \"') /* end */\")";
    let refused = agent.ask(noise);

    // Its intent may or may not be on the disk, so the session cannot go on. libpq keeps the text of a last word.
    let text = refused["text"].as_str().unwrap();
    assert!(
        text.contains(stopped) && text.contains("it must be restarted once the disk works again"),
        "{text}"
    );
    assert_refused(
        &agent.sql("other", "INSERT INTO t VALUES ('later') /* end */"),
        "58030",
        stopped,
        "restarted",
    );
    let login = agent.ask(&format!("login(\"late\", {conninfo:?})"));
    assert!(login["text"].as_str().unwrap().contains(stopped), "{login}");
    let problems = problems(&daemon);
    assert!(problems.contains("recording stopped after a failed "), "{problems}");
    assert!(problems.contains(": check the disk, then restart the daemon"), "{problems}");
    assert_eq!(*heard.lock().unwrap(), before, "something was forwarded");

    // It can still be stopped in order, and says why it was no use.
    daemon.signal("TERM").unwrap();
    assert!(daemon.wait().unwrap(), "{}", daemon.log());
    assert!(daemon.log().contains("recording failed; nothing is forwarded until the daemon is restarted"));
    assert_eq!(*heard.lock().unwrap(), before, "something was forwarded");

    // Nor does the disk keep agents cut off once somebody lets them go.
    drop(agent);
    let detached = daemon.cli(&["detach"]).unwrap();
    assert!(
        format!("{}{}", detached.stdout, detached.stderr).contains("nothing is governed any more"),
        "{detached:?}"
    );
    assert!(!daemon.bpf().exists(), "{detached:?}");
}

#[test]
fn a_shell_that_cannot_be_recorded_any_more_is_cut() {
    let disk = Disk::of_memory(96);
    let server = ssh::server();
    let anything = "[[guard]]\nname = \"anything\"\non = \"ssh\"\neffect = [\"unknown\", \"write\", \"read\"]\naction = \"allow\"\n";
    let policy = server.policy("", "", anything).unwrap();
    let mut daemon = prepare_on(&disk, &[("shop", &policy)]);
    daemon.credential("account-key", &server.key("account").unwrap()).unwrap();
    daemon.launch().unwrap();
    let folder = server.scratch("full-disk").unwrap();
    let seen = folder.join("seen");
    let ticking = format!("touch {}; while sleep 0.02; do echo tick; done", seen.display());
    let mut ticks = server.ssh(&daemon, &["-tt"], &[&ticking]).unwrap();
    let ticks = thread::spawn(move || process::finish(&mut ticks).unwrap());
    wait::until(WAIT_MAX, || if seen.exists() { Ok(()) } else { Err("nothing runs") });
    disk.fill();
    let ticks = ticks.join().unwrap();
    assert_eq!(ticks.code, 255, "{}", ticks.stderr);
    let told = format!("{}{}", ticks.stdout, ticks.stderr);
    assert!(told.contains("cannot be recorded any more"), "{told}");
    assert!(daemon.log().contains("a stream cannot be recorded"), "{}", daemon.log());
}
