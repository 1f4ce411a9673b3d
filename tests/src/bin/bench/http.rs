//! `bench http`: small GETs, new connections, a large download and the first event of a stream, over TLS on both legs,
//! beside HAProxy and mitmproxy that end TLS and make it again in front of the same nginx.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::Daemon;
use harness::http::{HttpServer, TOKEN, port};
use harness::process::{self, NOBODY, Owned};
use serde_json::{Value, json};

use crate::{CORE, Options, report, targets};

/// The server's address; HAProxy and mitmproxy have the ones after it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 44, 8, 10);
const HAPROXY: Ipv4Addr = Ipv4Addr::new(127, 44, 8, 11);
const MITMPROXY: Ipv4Addr = Ipv4Addr::new(127, 44, 8, 12);

/// How long a proxy may take to listen.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// What is measured, in what unit, and whether more is better.
const SCENARIOS: [(&str, &str); 4] = [
    ("small GETs, keep-alive, 8 connections", "requests/s"),
    ("new TLS connections, 8 at once", "connections/s"),
    ("one download of text", "MB/s"),
    ("first event of a stream", "ms"),
];

/// What stands between the client and nginx.
struct Way {
    name: &'static str,
    address: SocketAddr,
    daemon: Option<Daemon>,
    _process: Option<Owned>,
}

/// Runs the whole comparison.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (rounds, seconds, megabytes) = if options.quick { (3, 1, 128) } else { (5, 2, 1024) };
    report::progress("starting nginx, the proxies and the daemon");
    let server = HttpServer::start(ADDRESS)?;
    fs::set_permissions(server.folder(), fs::Permissions::from_mode(0o755))?;
    fill(server.folder(), megabytes)?;
    let mut ways = ways(&server, options)?;
    let mut figures = vec![vec![Vec::new(); ways.len()]; SCENARIOS.len()];
    let mut memory = (0, 0);
    for round in 0..=rounds {
        report::progress(&match round {
            0 => "warming up".to_owned(),
            _ => format!("round {round} of {rounds}, {} targets in turn", ways.len()),
        });
        for (scenario, series) in figures.iter_mut().enumerate() {
            for (way, series) in ways.iter_mut().zip(series) {
                let pid = way.daemon.as_mut().map(Daemon::pid);
                let before = pid.map(resident).transpose()?;
                let figure = measure(way, &server, scenario, seconds, megabytes)?;
                if let (2, Some(pid), Some(before)) = (scenario, pid, before) {
                    memory = (before, memory.1.max(resident(pid)?.saturating_sub(before)));
                }
                if round > 0 {
                    series.push(figure);
                }
            }
        }
    }
    print(&ways, &figures, memory, options, rounds)
}

/// Files for nginx: a small JSON document, and much text without a secret.
fn fill(folder: &Path, megabytes: usize) -> Result<()> {
    let orders: Vec<Value> = (0..8)
        .map(|id| json!({"id": id, "state": "paid", "total": 12.5, "note": "leave at the door"}))
        .collect();
    fs::write(folder.join("small.json"), json!({ "orders": orders }).to_string())?;
    let line = "The quick brown fox jumps over the lazy dog, order 4711 of 12 May, again and again.\n";
    let block = line.repeat((1 << 20) / line.len() + 1);
    let block = block.get(..1 << 20).context("a short block")?;
    let mut file = fs::File::create(folder.join("big.txt"))?;
    for _ in 0..megabytes {
        std::io::Write::write_all(&mut file, block.as_bytes())?;
    }
    Ok(())
}

fn ways(server: &HttpServer, options: &Options) -> Result<Vec<Way>> {
    let direct = SocketAddr::from((ADDRESS, port::HTTP2));
    let mut ways = vec![
        Way { name: "direct", address: direct, daemon: None, _process: None },
        haproxy(server)?,
        portcullis(server)?,
    ];
    match mitmproxy(server)? {
        Some(way) => ways.push(way),
        None => {
            report::progress("mitmproxy is not there and is left out; `cargo xtask bench http` installs it")
        }
    }
    ways.retain(|way| {
        options.only.is_empty()
            || way.name == "direct"
            || options.only.iter().any(|name| way.name.contains(name.as_str()))
    });
    Ok(ways)
}

fn haproxy(server: &HttpServer) -> Result<Way> {
    let root = server.folder();
    let pem = fs::read_to_string(root.join("server.pem"))? + &fs::read_to_string(root.join("server.key"))?;
    fs::write(root.join("haproxy.pem"), pem)?;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend in\n  bind {HAPROXY}:8444 ssl crt {root}/haproxy.pem alpn http/1.1\n  default_backend out\n\
         backend out\n  http-reuse safe\n  server nginx {ADDRESS}:8444 ssl verify required ca-file {root}/ca.pem sni str(api.shop.test) verifyhost api.shop.test\n\
         listen events\n  bind {HAPROXY}:8443 ssl crt {root}/haproxy.pem alpn http/1.1\n  server python {ADDRESS}:8443 ssl verify required ca-file {root}/ca.pem sni str(api.shop.test) verifyhost api.shop.test\n",
        root = root.display()
    );
    fs::write(root.join("haproxy.cfg"), text)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(root.join("haproxy.cfg")).stdout(Stdio::null()).stderr(Stdio::null());
    started("HAProxy", HAPROXY, command)
}

/// `None` when it is not installed.
fn mitmproxy(server: &HttpServer) -> Result<Option<Way>> {
    let Some(program) =
        std::env::var_os("PORTCULLIS_MITMDUMP").map(PathBuf::from).filter(|path| path.is_file())
    else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    command
        .args(["--quiet", "--listen-host", &MITMPROXY.to_string(), "--listen-port", "8444"])
        .args(["--mode", &format!("reverse:https://{ADDRESS}:8444")])
        .args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", server.ca().display())])
        .args(["--set", &format!("confdir={}", server.folder().join("mitmproxy").display())])
        .args(["--set", "stream_large_bodies=1m", "--set", "http2=false"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    started("mitmproxy", MITMPROXY, command).map(Some)
}

fn started(name: &'static str, address: Ipv4Addr, mut command: Command) -> Result<Way> {
    let process = Owned::spawn(&mut command)?;
    let address = SocketAddr::from((address, port::HTTP2));
    let deadline = Instant::now() + START_TIME_MAX;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            bail!("{name} does not listen on {address}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Way { name, address, daemon: None, _process: Some(process) })
}

/// Guards, masks, detectors and recording; reads are recorded without waiting for the disk, as a policy may say.
fn portcullis(server: &HttpServer) -> Result<Way> {
    let policy = server.policy(
        "[[guard]]\nname = \"no deletes\"\non = \"http\"\nmethods = [\"DELETE\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"admin\"\non = \"http\"\npaths = [\"/admin/**\"]\naction = \"deny\"\n\
         [[mask]]\non = \"http\"\njson = [\"$.customers[*].ssn\"]\nwith = \"redact\"\n\
         [[mask]]\ndetect = [\"payment-card\", \"email\", \"api-key\", \"jwt\", \"aws-key\", \"iban\", \"private-key\", \"password-in-url\"]\nwith = \"redact\"\n\
         [record]\ndurable = [\"write\", \"ddl\", \"admin\", \"unknown\"]\nresult_bytes = \"64KiB\"\n",
    );
    let mut daemon = Daemon::prepare(&[("web", &policy)])?;
    daemon.use_binary(&targets::binary()?);
    daemon.credential("shop-token", TOKEN)?;
    daemon.launch()?;
    let address = SocketAddr::from((ADDRESS, port::HTTP2));
    Ok(Way { name: "Portcullis", address, daemon: Some(daemon), _process: None })
}

impl Way {
    /// A client program of an unprivileged user, governed where the way is Portcullis.
    fn client(&self, program: &str) -> Result<Command> {
        match &self.daemon {
            None => Ok(process::as_user(NOBODY, program)),
            Some(daemon) => {
                let mut run = agent::under(daemon, NOBODY, "web")?;
                run.arg(program);
                Ok(run)
            }
        }
    }
}

fn measure(way: &Way, server: &HttpServer, scenario: usize, seconds: u64, megabytes: usize) -> Result<f64> {
    let base = format!("https://{}", way.address);
    let time = format!("-d{seconds}s");
    let small = format!("{base}/static/small.json");
    match scenario {
        0 => wrk(way, &["-t1", "-c8", &time, &small]),
        1 => wrk(way, &["-t1", "-c8", &time, "-H", "Connection: close", &small]),
        2 => {
            let took = curl(way, "%{time_total}", &format!("{base}/static/big.txt"))?;
            Ok(megabytes as f64 / took)
        }
        _ => {
            // The events come from the Python server, which mitmproxy does not lead to here.
            if way.name == "mitmproxy" {
                return Ok(f64::NAN);
            }
            let address = if way.name == "HAProxy" { HAPROXY } else { server.address() };
            let url = format!("https://{address}:{}/events", port::TLS);
            let mut times = (0..9).map(|_| curl_first(way, &url)).collect::<Result<Vec<f64>>>()?;
            times.sort_by(f64::total_cmp);
            Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN) * 1000.0)
        }
    }
}

fn wrk(way: &Way, arguments: &[&str]) -> Result<f64> {
    let said = process::run(way.client("wrk")?.args(arguments))?;
    let wrong = |line: &&str| line.contains("Non-2xx") || line.contains("Socket errors");
    if let Some(errors) = said.lines().find(wrong).filter(|_| !arguments.contains(&"Connection: close")) {
        bail!("{}: {errors}", way.name);
    }
    let line =
        said.lines().find_map(|line| line.strip_prefix("Requests/sec:")).context("wrk said no rate")?;
    Ok(line.trim().parse()?)
}

fn curl(way: &Way, format: &str, url: &str) -> Result<f64> {
    let mut command = way.client("curl")?;
    command.args(["--silent", "--show-error", "--insecure", "--http1.1", "--max-time", "300"]);
    let said = process::run(command.args(["--output", "/dev/null", "--write-out", format, url]))?;
    Ok(said.trim().parse()?)
}

/// From the connection's being ready to the first byte of the answer's body, in seconds.
fn curl_first(way: &Way, url: &str) -> Result<f64> {
    let mut command = way.client("curl")?;
    command.args(["--silent", "--show-error", "--insecure", "--http1.1", "--no-buffer", "--max-time", "20"]);
    command.args(["--output", "/dev/null", "--write-out", "%{time_starttransfer} %{time_appconnect}", url]);
    let said = process::run(&mut command)?;
    let (first, ready) = said.trim().split_once(' ').context("curl said something else")?;
    Ok(first.parse::<f64>()? - ready.parse::<f64>()?)
}

/// `VmHWM` of a process, in KiB.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(
    ways: &[Way],
    figures: &[Vec<Vec<f64>>],
    memory: (u64, u64),
    options: &Options,
    rounds: usize,
) -> Result<()> {
    let of = |scenario: usize, name: &str| {
        let at = ways.iter().position(|way| way.name == name)?;
        figures.get(scenario)?.get(at).map(|values| median(values))
    };
    if options.json {
        let scenarios: Vec<Value> = SCENARIOS
            .iter()
            .zip(figures)
            .map(|((title, unit), series)| {
                let targets: Vec<Value> = ways
                    .iter()
                    .zip(series)
                    .map(|(way, values)| json!({"target": way.name, "median": median(values), "rounds": values}))
                    .collect();
                json!({"scenario": title, "unit": unit, "targets": targets})
            })
            .collect();
        let all = json!({"rounds": rounds, "scenarios": scenarios, "download_memory_kib": memory.1});
        return report::say(&all.to_string());
    }
    for (number, ((title, unit), series)) in SCENARIOS.iter().zip(figures).enumerate() {
        report::say("")?;
        report::say(&format!("{title}, {unit}"))?;
        for (way, values) in ways.iter().zip(series) {
            if values.is_empty() {
                report::say(&format!("  {:<12} {:>10}", way.name, "-"))?;
                continue;
            }
            let value = median(values);
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let ratio = |name| {
                let other = of(number, name).filter(|other| other.is_finite());
                other.map_or_else(|| format!("{:>8}", "-"), |other| format!("{:>7.2}x", value / other))
            };
            report::say(&format!(
                "  {:<12} {value:>10.1}  {:>20}  of HAProxy {}  of mitmproxy {}",
                way.name,
                format!("{low:.1} - {high:.1}"),
                ratio("HAProxy"),
                ratio("mitmproxy"),
            ))?;
        }
    }
    report::say("")?;
    report::say(&format!(
        "Memory of the daemon's peak before downloads {} KiB, grown by {} KiB during one.\n\
         Medians of {rounds} rounds, targets in turn, everything on core {CORE} at nice -20. TLS 1.3 on both legs; HAProxy and\n\
         mitmproxy end it and make it again. Portcullis with guards, JSON masks, every detector, and recording.",
        memory.0, memory.1
    ))
}
