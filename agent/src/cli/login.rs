//! `portcullis login`, `logout` and `whoami`: reviewers sign in at the identity provider from a terminal.
//!
//! The daemon is the provider's client; what runs here opens a browser, or shows a code, and hands on what comes back. No token
//! reaches this process.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::callback::{Answered, Callback};
use super::text::{moment, shown};
use super::{Failure, ask, complain, print_json};
use crate::config::Config;
use crate::control::protocol::{SignedIn, Token};
use crate::control::{ClientError, Reply, Request};
use crate::signin::LoginBy;

const HELP: &str = "\
Whoever is signed in decides as the identity provider knows them: by its name and groups. It
holds for this login of this user (one ssh connection, one desktop), for the time that [login]
says, until `portcullis logout`, or until the daemon restarts.

Examples:
  portcullis login                  in a browser on this host, or by a code where there is none
  portcullis login --device         by a code that is typed on any other device
  portcullis login --for 7QX2ZC     as fresh and strong as that request's rule wants it (of a request that
                                    you see: sign in without it first)
  portcullis whoami";

/// Arguments of `portcullis login`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Show a code to be typed on another device, instead of opening a browser here
    #[arg(long)]
    device: bool,
    /// Print the address, and leave it to you to open it in a browser on this host
    #[arg(long, conflicts_with = "device")]
    no_browser: bool,
    /// Prove what the rule behind this request asks of whoever approves it
    #[arg(long = "for", value_name = "ID")]
    approval: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// A sign-in that was begun.
struct Begun {
    login: Token,
    url: String,
    user_code: Option<String>,
    interval: Duration,
    until: Instant,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let approval = match &arguments.approval {
        Some(id) => Some(super::approvals::find_id(config, id)?),
        None => None,
    };
    let begin = |by| begin(config, &Request::Login { by, approval });
    let in_browser = || -> Result<SignedIn, Failure> {
        let callback = Callback::open()?;
        let begun = begin(LoginBy::Browser { port: callback.port() })?;
        by_browser(config, callback, &begun, !arguments.no_browser)
    };
    let who = if arguments.device {
        by_device(config, &begin(LoginBy::Device)?)?
    } else if arguments.no_browser || has_screen() {
        in_browser()?
    } else {
        // A provider need not know this way; a browser can be brought here by `ssh -L`.
        match begin(LoginBy::Device) {
            Ok(begun) => by_device(config, &begun)?,
            Err(Failure::Failed(why)) => {
                complain(&format!("{why}; trying with a browser on this host"));
                in_browser()?
            }
            Err(other) => return Err(other),
        }
    };
    if arguments.json { print_json(&who) } else { tell(&who) }
}

/// `portcullis logout`.
pub(super) fn logout(config: &Config) -> Result<(), Failure> {
    let Reply::Login(_) = ask(config, &Request::Logout)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    Ok(writeln!(io::stdout(), "signed out of this host; the identity provider may remember you")?)
}

/// `portcullis whoami`.
pub(super) fn whoami(json: bool, config: &Config) -> Result<(), Failure> {
    let Reply::Login(found) = ask(config, &Request::WhoAmI)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    match found {
        Some(who) if json => print_json(&who),
        Some(who) => tell(&who),
        None => Err(Failure::Failed("nobody is signed in here; `portcullis login` does it".to_owned())),
    }
}

fn tell(who: &SignedIn) -> Result<(), Failure> {
    let groups = if who.groups.is_empty() { "no group".to_owned() } else { who.groups.join(", ") };
    let (user, groups, issuer) = (shown(&who.user, false), shown(&groups, false), shown(&who.issuer, false));
    Ok(writeln!(io::stdout(), "{user} ({groups}) by {issuer}, until {}", moment(who.until_ms))?)
}

fn begin(config: &Config, request: &Request) -> Result<Begun, Failure> {
    let Reply::LoginAt { login, url, user_code, interval_ms, time_left_ms } = ask(config, request)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    let time_left = Duration::from_millis(time_left_ms);
    let interval = Duration::from_millis(interval_ms);
    Ok(Begun { login, url, user_code, interval, until: Instant::now() + time_left })
}

/// Waits for the browser's return, and has it judged.
fn by_browser(config: &Config, callback: Callback, begun: &Begun, open: bool) -> Result<SignedIn, Failure> {
    let opened = open && open_browser(&begun.url);
    let where_ = if opened { "if no browser opens, go to" } else { "in a browser on this host, go to" };
    complain(&format!("{where_}\n  {}", shown(&begun.url, false)));
    let time_left = begun.until.saturating_duration_since(Instant::now());
    let who = callback.wait(&begun.url, time_left, |query| {
        let answer = Some(Token::new(query.to_owned()));
        match go_on(config, begun, answer) {
            Ok(Went::SignedIn(who)) => Answered::Done(Ok(who)),
            // Somebody else may have spoken to the port.
            Ok(Went::NotYet(_)) => Answered::Another,
            Err(error) => Answered::Done(Err(error)),
        }
    })?;
    who.unwrap_or_else(|| Err(Failure::Failed("nobody signed in in time; begin again".to_owned())))
}

/// Shows the code, and asks until it is used.
fn by_device(config: &Config, begun: &Begun) -> Result<SignedIn, Failure> {
    let code = begun.user_code.as_deref().unwrap_or_default();
    complain(&format!(
        "on any device, go to\n  {}\nand see that it shows this code: {}",
        shown(&begun.url, false),
        shown(code, false)
    ));
    let mut interval = begun.interval;
    while Instant::now() < begun.until {
        thread::sleep(interval);
        match go_on(config, begun, None)? {
            Went::SignedIn(who) => return Ok(who),
            Went::NotYet(pause) => interval = pause,
        }
    }
    Err(Failure::Failed("nobody signed in in time; begin again".to_owned()))
}

/// How far a sign-in went.
enum Went {
    SignedIn(SignedIn),
    NotYet(Duration),
}

fn go_on(config: &Config, begun: &Begun, answer: Option<Token>) -> Result<Went, Failure> {
    let reply = ask(config, &Request::LoggedIn { login: begun.login.clone(), answer })?;
    if let Reply::LoginWaits { interval_ms } = reply {
        return Ok(Went::NotYet(Duration::from_millis(interval_ms)));
    }
    let Reply::Login(Some(who)) = reply else { return Err(ClientError::NotUnderstood.into()) };
    Ok(Went::SignedIn(*who))
}

/// Whether a browser that opens here is seen by somebody.
fn has_screen() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"].into_iter().any(is_set)
}

/// Opens the user's browser: the first that `BROWSER` names (a list with colons; `%s` stands for the address), or the desktop's.
/// Says whether one was started.
fn open_browser(url: &str) -> bool {
    let named = std::env::var("BROWSER").ok().filter(|named| !named.is_empty());
    let command = named.as_deref().and_then(|named| named.split(':').next()).unwrap_or("xdg-open");
    let mut words = command.split_whitespace();
    let Some(program) = words.next() else { return false };
    let mut arguments: Vec<String> = words.map(|word| word.replace("%s", url)).collect();
    if !command.contains("%s") {
        arguments.push(url.to_owned());
    }
    let mut browser = Command::new(program);
    browser.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match browser.spawn() {
        Ok(mut child) => {
            // It ends when it likes; nobody waits for it but this thread.
            thread::spawn(move || child.wait());
            true
        }
        Err(_) => false,
    }
}

/// Where the browser comes back to.
pub(super) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
