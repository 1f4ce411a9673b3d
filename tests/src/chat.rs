//! A stand-in for Slack, Microsoft Teams and a receiver of webhooks, in Python, on this host.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::{self, Talking};

const SCRIPT: &str = include_str!("chat.py");

/// What the stand-in takes as credentials, and signs with: names and secrets, but for Teams' address.
pub const CREDENTIALS: [(&str, &str); 4] = [
    ("slack-bot", "xoxb-the-bots-own"),
    ("slack-app", "xapp-the-apps-own"),
    ("slack-signing", "8f742231b10e8888abcd99yyyzzz85a5"),
    ("hook-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
];

/// A running stand-in. Ends when dropped.
#[derive(Debug)]
pub struct ChatStandIn {
    process: Talking,
    url: String,
}

impl ChatStandIn {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no Python with aiohttp, or it does not start.
    pub fn start() -> Result<Self> {
        let mut command = std::process::Command::new(process::venv_python()?);
        let mut process = Talking::spawn(command.args(["-u", "-c", SCRIPT]))?;
        let port: Value = serde_json::from_str(&process.until_contains("\"port\"")?)?;
        Ok(Self { process, url: format!("http://127.0.0.1:{}", member(&port, "port")?) })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A table for Slack; clicks come by `clicks`: `app_token` or `signing_secret`, and the name of its credential.
    #[must_use]
    pub fn slack_table(&self, clicks: &str) -> String {
        format!(
            "\n[chat.slack]\nchannel = \"C0OPS\"\nbot_token = \"slack-bot\"\n{clicks}\napi = \"{}/api\"\n",
            self.url
        )
    }

    /// Tables for Teams and the receiver of webhooks; the credential `teams-url` is [`ChatStandIn::teams_url`].
    #[must_use]
    pub fn other_tables(&self) -> String {
        format!(
            "\n[chat.teams]\nwebhook_url = \"teams-url\"\n[chat.webhook]\nurl = \"{}/hook\"\nsecret = \"hook-secret\"\n",
            self.url
        )
    }

    /// The address of the workflow, which is a secret.
    #[must_use]
    pub fn teams_url(&self) -> String {
        format!("{}/teams?sig=teams-secret", self.url)
    }

    /// What it is sent next that has this member and was not waited for before.
    ///
    /// # Errors
    /// When it does not come, or something is sent that no such service would take.
    pub fn until(&mut self, member: &str) -> Result<Value> {
        let wanted = format!("\"{member}\": ");
        let line = self.process.until(|line| line.contains("\"breach\": ") || line.contains(&wanted))?;
        let said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if said.get("breach").is_some() {
            bail!("{said}");
        }
        Ok(said)
    }

    /// Clicks a button of a message as a Slack user, on the socket: what the user is told.
    ///
    /// # Errors
    /// When it is not acknowledged in time, or the user is told nothing.
    pub fn click(&mut self, user: &str, button: &str, message: &Value) -> Result<Value> {
        self.say(&json!({"do": "click", "user": user, "button": button, "message": message}))?;
        self.until("acknowledged")?;
        self.until("whispered")
    }

    /// Reports a click as a signed request, and the same once more: the statuses of both.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn click_by_request(
        &mut self,
        user: &str,
        button: &str,
        message: &Value,
        url: &str,
        secret: Option<&str>,
    ) -> Result<Value> {
        self.say(&json!({
            "do": "click", "user": user, "button": button, "message": message, "url": url, "secret": secret,
        }))?;
        member(&self.until("statuses")?, "statuses")
    }

    /// Passes a person's answer on, as the receiver of webhooks: status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn answer(&mut self, url: &str, id: &str, body: &Value, forged: bool) -> Result<(u64, Value)> {
        self.say(&json!({"do": "answer", "url": url, "id": id, "body": body, "forged": forged}))?;
        let got = self.until("status")?;
        Ok((member(&got, "status")?.as_u64().context("no status")?, member(&got, "body")?))
    }

    /// Has Slack close its socket after a word of warning: whether the next one was open before.
    ///
    /// # Errors
    /// When there is no next one.
    pub fn refresh(&mut self) -> Result<bool> {
        self.say(&json!({"do": "refresh"}))?;
        Ok(member(&self.until("refreshed")?, "refreshed")? == json!(true))
    }

    fn say(&mut self, wanted: &Value) -> Result<()> {
        self.process.say(&wanted.to_string())
    }
}

fn member(said: &Value, name: &str) -> Result<Value> {
    said.get(name).cloned().with_context(|| format!("no {name} in {said}"))
}
