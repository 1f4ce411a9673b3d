//! `[chat]`: which chats are told of what waits, and how they answer. Addresses that are secrets, and tokens, are names of
//! credentials.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::sign_in::{AccountNames, is_loopback, plain};
use super::{Fault, absolute, checked};

/// Slack's Web API, unless the file says (<https://docs.slack.dev/apis/web-api/>).
const SLACK_API_DEFAULT: &str = "https://slack.com/api";
/// How long a Slack user stays linked to a person, unless the file says.
const LINKED_DEFAULT: Duration = Duration::from_hours(12);
/// Shortest and longest of these times that may be written.
const LINKED_MIN: Duration = Duration::from_hours(1);
const LINKED_MAX: Duration = Duration::from_hours(7 * 24);
/// Longest address, in bytes.
const ADDRESS_BYTES_MAX: usize = 2048;

/// The chats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// Whether they are shown the text of operations. Without it nothing can be decided there, for nothing is seen.
    pub statements: bool,
    /// Slack.
    pub slack: Option<Slack>,
    /// Microsoft Teams.
    pub teams: Option<Teams>,
    /// Any other system that takes webhooks.
    pub webhook: Option<Webhook>,
}

/// A Slack app that posts into a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slack {
    /// The channel's id.
    pub channel: String,
    /// Credential with the app's bot token (`xoxb-`, scope `chat:write`).
    pub bot_token: String,
    /// How clicks arrive.
    pub clicks: Clicks,
    /// The Web API, without a slash at the end.
    pub api: String,
    /// PEM file of the roots that may sign its certificate; `None` is the system's store.
    pub root_cert: Option<PathBuf>,
    /// How long a Slack user stays linked to the person who signed in for it.
    pub linked: Duration,
    /// Whose links count: those whom Slack knows by an address that the provider has of them, or anybody's.
    pub accounts: AccountNames,
}

/// How clicks on Slack's buttons arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clicks {
    /// On a WebSocket that we open.
    Socket {
        /// Credential with the app-level token (`xapp-`, scope `connections:write`).
        app_token: String,
    },
    /// As requests to the page that Slack signs.
    Signed {
        /// Credential with the app's signing secret.
        signing_secret: String,
    },
}

/// A workflow of Teams that posts what it is sent into a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teams {
    /// Credential with its address: whoever knows it may post.
    pub webhook_url: String,
    /// PEM file of the roots that may sign its certificate; `None` is the system's store.
    pub root_cert: Option<PathBuf>,
}

/// A system that takes and sends webhooks as <https://www.standardwebhooks.com> has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where they go.
    pub url: String,
    /// Credential with the secret that both sides sign with (`whsec_` and base64).
    pub secret: String,
    /// PEM file of the roots that may sign its certificate; `None` is the system's store.
    pub root_cert: Option<PathBuf>,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatTable {
    statements: Option<bool>,
    slack: Option<SlackTable>,
    teams: Option<TeamsTable>,
    webhook: Option<WebhookTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlackTable {
    channel: Spanned<String>,
    bot_token: Spanned<String>,
    app_token: Option<Spanned<String>>,
    signing_secret: Option<Spanned<String>>,
    api: Option<Spanned<String>>,
    root_cert: Option<Spanned<PathBuf>>,
    linked: Option<Spanned<String>>,
    accounts: Option<AccountNames>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TeamsTable {
    webhook_url: Spanned<String>,
    root_cert: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookTable {
    url: Spanned<String>,
    secret: Spanned<String>,
    root_cert: Option<Spanned<PathBuf>>,
}

/// Checks the table. Messages lead to the page, so there has to be one.
pub(super) fn chat(table: Spanned<ChatTable>, has_page: bool) -> Result<Chat, Fault> {
    let span = table.span();
    let fault = |message: &str| Fault { span: span.clone(), message: message.to_owned() };
    let table = table.into_inner();
    if !has_page {
        return Err(fault("chats lead to the approvals page; write [web] as well"));
    }
    if table.slack.is_none() && table.teams.is_none() && table.webhook.is_none() {
        return Err(fault("no chat is named; write [chat.slack], [chat.teams] or [chat.webhook]"));
    }
    Ok(Chat {
        statements: table.statements.unwrap_or(true),
        slack: table.slack.map(slack).transpose()?,
        teams: table.teams.map(teams).transpose()?,
        webhook: table.webhook.map(webhook).transpose()?,
    })
}

fn slack(table: SlackTable) -> Result<Slack, Fault> {
    let clicks = match (table.app_token, table.signing_secret) {
        (Some(token), None) => Clicks::Socket { app_token: checked(token, plain)? },
        (None, Some(secret)) => Clicks::Signed { signing_secret: checked(secret, plain)? },
        (None, None) | (Some(_), Some(_)) => {
            return Err(Fault {
                span: table.bot_token.span(),
                message: "clicks arrive in one way: write app_token (Socket Mode) or signing_secret (requests to the page)"
                    .to_owned(),
            });
        }
    };
    Ok(Slack {
        channel: checked(table.channel, channel)?,
        bot_token: checked(table.bot_token, plain)?,
        clicks,
        api: table.api.map_or(Ok(SLACK_API_DEFAULT.to_owned()), |api| {
            checked(api, |api| address(api).map(|api| api.trim_end_matches('/').to_owned()))
        })?,
        root_cert: root_cert(table.root_cert)?,
        accounts: table.accounts.unwrap_or(AccountNames::Matching),
        linked: table.linked.map_or(Ok(LINKED_DEFAULT), |linked| checked(linked, linked_time))?,
    })
}

fn teams(table: TeamsTable) -> Result<Teams, Fault> {
    Ok(Teams { webhook_url: checked(table.webhook_url, plain)?, root_cert: root_cert(table.root_cert)? })
}

fn webhook(table: WebhookTable) -> Result<Webhook, Fault> {
    Ok(Webhook {
        url: checked(table.url, address)?,
        secret: checked(table.secret, plain)?,
        root_cert: root_cert(table.root_cert)?,
    })
}

fn root_cert(path: Option<Spanned<PathBuf>>) -> Result<Option<PathBuf>, Fault> {
    path.map(|path| checked(path, absolute)).transpose()
}

/// Slack's ids are letters and digits; names of channels can be given to another one.
fn channel(text: String) -> Result<String, String> {
    let id = text.starts_with(['C', 'G', 'D'])
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if id && (2..=64).contains(&text.len()) {
        return Ok(text);
    }
    Err(format!(
        "`{}` is not a channel's id; take it from \"About\" of the channel, such as C0123456789",
        text.escape_debug()
    ))
}

fn address(text: String) -> Result<String, String> {
    let uri: Option<Uri> = text.parse().ok();
    let good = uri.is_some_and(|uri| match (uri.scheme_str(), uri.host(), uri.authority()) {
        (Some("https"), Some(_), Some(authority)) => !authority.as_str().contains('@'),
        (Some("http"), Some(host), Some(authority)) => is_loopback(host) && !authority.as_str().contains('@'),
        (Some(_) | None, _, _) => false,
    });
    if good && text.len() <= ADDRESS_BYTES_MAX {
        return Ok(text);
    }
    Err(format!(
        "`{}` is not an address to send to; write https://…, without user and password",
        text.escape_debug()
    ))
}

fn linked_time(text: String) -> Result<Duration, String> {
    let time = humantime::parse_duration(&text).ok();
    time.filter(|time| (LINKED_MIN..=LINKED_MAX).contains(time))
        .ok_or_else(|| format!("`{}` cannot stand here; use \"1h\" to \"7d\"", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const WEB: &str = "[web]\nlisten = \"127.0.0.1:1\"\nurl = \"http://127.0.0.1:1\"\nissuer = \"https://i\"\nclient_id = \"c\"\n";

    fn parse(text: &str) -> Result<Chat, String> {
        let parsed = Config::parse(text, Path::new("p.toml")).map_err(|error| error.to_string())?;
        Ok(parsed.chat.unwrap())
    }

    #[test]
    fn tables_name_chats_and_credentials() {
        let more = "[chat]\nstatements = false\n[chat.slack]\nchannel = \"C01\"\nbot_token = \"bot\"\napp_token = \"app\"\n\
                    linked = \"7d\"\n[chat.teams]\nwebhook_url = \"teams\"\n\
                    [chat.webhook]\nurl = \"https://itsm.internal/hook/\"\nsecret = \"hook\"\n";
        let chat = parse(&format!("{WEB}{more}")).unwrap();
        let slack = chat.slack.unwrap();
        assert_eq!((slack.api.as_str(), slack.linked), ("https://slack.com/api", LINKED_MAX));
        assert_eq!(slack.clicks, Clicks::Socket { app_token: "app".to_owned() });
        assert_eq!(chat.webhook.unwrap().url, "https://itsm.internal/hook/");
        assert!(!chat.statements && chat.teams.is_some());
        assert_eq!(
            Config::parse("", Path::new("p.toml")).unwrap().chat,
            None,
            "nobody is told unless the file says so"
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        let slack = "[chat.slack]\nchannel = \"C01\"\nbot_token = \"bot\"\n";
        for (text, expected) in [
            (format!("{slack}app_token = \"a\"\n"), "p.toml:1:2: chats lead to the approvals page"),
            (format!("{WEB}[chat]\n"), "p.toml:6:1: no chat is named"),
            (format!("{WEB}{slack}"), "p.toml:8:13: clicks arrive in one way"),
            (
                format!("{WEB}{slack}app_token = \"a\"\nsigning_secret = \"s\"\n"),
                "p.toml:8:13: clicks arrive in one way",
            ),
            (
                format!("{WEB}{}app_token = \"a\"\n", slack.replace("C01", "#ops")),
                "p.toml:7:11: `#ops` is not a channel's id",
            ),
            (
                format!("{WEB}{slack}app_token = \"a\"\nlinked = \"8d\"\n"),
                "p.toml:10:10: `8d` cannot stand here",
            ),
            (
                format!("{WEB}{slack}app_token = \"a\"\napi = \"http://slack.test/api\"\n"),
                "p.toml:10:7: `http://slack.test/api` is not",
            ),
            (
                format!("{WEB}[chat.webhook]\nurl = \"https://a:b@c/\"\nsecret = \"s\"\n"),
                "p.toml:7:7: `https://a:b@c/` is not",
            ),
            (
                format!("{WEB}[chat.teams]\nwebhook_url = \"t\"\ntoken = \"x\"\n"),
                "p.toml:8:1: unknown field `token`",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
