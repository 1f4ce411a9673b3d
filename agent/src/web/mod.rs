//! The approvals page: people sign in at their identity provider, see what waits for them, and decide it in a browser.
//!
//! Who may see and decide what is [`Approvals`]' own business; here is who they are, and what keeps others from speaking for
//! them. GET never changes anything; every change is a POST that carries the session's form token and comes from this page.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::approval::{Approvals, Reviewer};
use crate::chat::{self as chats, Chat};
use crate::config::web::Web as Settings;
use crate::control::server::KillRun;
use crate::credential::Credentials;
use crate::identity::Issuers;
use crate::policy::PolicySet;
use crate::policy::rule::StepUp;
use crate::run::Runs;
use crate::signin::{Ask, Fields, Provider, ProviderError, Secrets};
use crate::tls::page_side::{PageCertificate, PageCertificateError};

mod approval;
mod assets;
mod chat;
mod decide;
mod form;
mod guard;
mod html;
mod inbox;
mod layout;
mod live;
mod login;
mod peer;
mod policy;
mod recordings;
mod runs;
mod serve;
mod session;
mod sql;
#[cfg(test)]
mod tests;
mod timeline;

use form::{FORM_BYTES_MAX, cookie};
use guard::Posted;
use layout::message;
use live::Streams;
use login::Logins;
use session::{Present, Sessions, Token, TokenDigest, Use};

/// What the page gives access to.
pub struct Parts {
    /// `[web]`.
    pub settings: Settings,
    /// Every hold.
    pub approvals: Arc<Approvals>,
    /// Every run.
    pub runs: Arc<Runs>,
    /// Every policy.
    pub policies: Arc<PolicySet>,
    /// Where the client's secret is.
    pub credentials: Credentials,
    /// Verifies ID tokens.
    pub issuers: Arc<Issuers>,
    /// Group of the operators.
    pub operators: String,
    /// Where the recordings are.
    pub state_dir: PathBuf,
    /// Ends every session of a run; how many.
    pub kill_run: KillRun,
    /// The chats, where there are some.
    pub chat: Option<Arc<Chat>>,
}

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address.
    #[error(
        "cannot listen on {address} for the approvals page: {source}; set [web] listen in the configuration"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificate or key.
    #[error(transparent)]
    Certificate(#[from] PageCertificateError),
}

/// The page, bound to its address.
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<PageCertificate>>,
    web: Arc<Web>,
}

/// What every request sees.
struct Web {
    settings: Arc<Settings>,
    approvals: Arc<Approvals>,
    runs: Arc<Runs>,
    policies: Arc<PolicySet>,
    operators: String,
    state_dir: PathBuf,
    kill_run: KillRun,
    chat: Option<Arc<Chat>>,
    provider: Provider,
    sessions: Sessions,
    logins: Logins,
    streams: Streams,
    tails: Streams,
    readers: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

/// Somebody who is signed in.
struct Signed {
    who: Reviewer,
    csrf: String,
    digest: TokenDigest,
    operator: bool,
    /// How long ago they proved who they are.
    age: Duration,
}

impl Server {
    /// Binds the address and reads certificate and key.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub async fn bind(parts: Parts) -> Result<Self, WebError> {
        let address = parts.settings.listen;
        let files = parts.settings.tls.as_ref();
        let tls = files.map(|files| PageCertificate::read(&files.certificate, &files.key)).transpose()?;
        let tls = tls.map(Arc::new);
        let listener =
            TcpListener::bind(address).await.map_err(|source| WebError::Listen { address, source })?;
        Ok(Self { listener, tls, web: Arc::new(Web::new(parts)) })
    }

    /// Serves until dropped; its connections end with it.
    pub async fn serve(self) {
        let serving = serve::serve(self.listener, self.tls.clone(), self.web);
        match self.tls {
            None => serving.await,
            Some(certificate) => tokio::select! {
                () = serving => {}
                () = certificate.follow() => {}
            },
        }
    }
}

impl Web {
    fn new(parts: Parts) -> Self {
        let settings = Arc::new(parts.settings);
        Self {
            provider: Provider::new(settings.client.clone(), parts.credentials, parts.issuers),
            sessions: Sessions::new(settings.idle, settings.absolute),
            logins: Logins::default(),
            streams: Streams::new(live::STREAMS_MAX, live::STREAMS_PER_PERSON_MAX),
            tails: Streams::new(timeline::TAILS_MAX, timeline::TAILS_PER_PERSON_MAX),
            readers: Arc::new(Semaphore::new(recordings::READERS_MAX)),
            requests: Arc::new(Semaphore::new(recordings::REQUESTS_MAX)),
            approvals: parts.approvals,
            runs: parts.runs,
            policies: parts.policies,
            operators: parts.operators,
            state_dir: parts.state_dir,
            kill_run: parts.kill_run,
            chat: parts.chat,
            settings,
        }
    }

    /// Where the provider sends browsers back.
    fn redirect_uri(&self) -> String {
        format!("{}/callback", self.settings.url)
    }

    /// Where the browser goes to sign in, as it `needs` to for what somebody wants to approve.
    async fn authorization(
        &self,
        secrets: &Secrets,
        needs: Option<&StepUp>,
    ) -> Result<String, ProviderError> {
        let redirect_uri = self.redirect_uri();
        let lately = self.settings.step_up.into_iter().chain(needs.and_then(|needs| needs.max_age)).min();
        let acr = needs.map_or(&[][..], |needs| &needs.acr);
        let ask = Ask { redirect_uri: &redirect_uri, max_age: lately, acr };
        self.provider.authorization(secrets, &ask).await
    }

    fn secure(&self) -> bool {
        self.settings.is_secure()
    }

    /// `__Host-` asks for TLS, so that plain HTTP on loopback has another name.
    fn session_cookie(&self) -> &'static str {
        if self.secure() { "__Host-portcullis" } else { "portcullis" }
    }

    fn login_cookie(&self) -> &'static str {
        if self.secure() { "__Host-portcullis-login" } else { "portcullis-login" }
    }

    fn session_token(&self, headers: &HeaderMap) -> Option<Token> {
        cookie(headers, self.session_cookie()).and_then(Token::parse)
    }

    /// Who sends this.
    fn signed(&self, headers: &HeaderMap, use_: Use) -> Option<Signed> {
        let token = self.session_token(headers)?;
        let digest = token.digest();
        let Present { who, age } = self.sessions.find(&digest, use_)?;
        let operator = who.groups.contains(&self.operators);
        Some(Signed { who, csrf: token.csrf(), digest, operator, age })
    }

    /// The same of somebody who decides: they have proved lately enough who they are.
    fn decided(
        &self,
        headers: &HeaderMap,
        body: &Posted,
        back: &str,
    ) -> Result<(Signed, Fields), Box<Response>> {
        let (signed, fields) = self.posted(headers, body)?;
        match self.settings.step_up {
            Some(step_up) if signed.age > step_up => Err(Box::new(login::step_up(back))),
            Some(_) | None => Ok((signed, fields)),
        }
    }

    /// Who sends this form, and its fields; or what they are told instead.
    fn posted(&self, headers: &HeaderMap, body: &Posted) -> Result<(Signed, Fields), Box<Response>> {
        let refused = |status, why: &str| Err(Box::new(message(status, why)));
        let Some(signed) = self.signed(headers, Use::Person) else {
            return Err(Box::new(login::sign_in("/")));
        };
        let Some(fields) = Fields::parse(body) else { return refused(StatusCode::BAD_REQUEST, "not a form") };
        if !bool::from(fields.get("csrf").as_bytes().ct_eq(signed.csrf.as_bytes())) {
            tracing::warn!(user = signed.who.user, "a form for the approvals page without its token");
            return refused(StatusCode::FORBIDDEN, "this form is not of your session; load the page again");
        }
        Ok((signed, fields))
    }
}

/// Every route. What is not here is 404, also with the header fields of every answer.
fn router(web: Arc<Web>) -> Router {
    Router::new()
        .route("/", get(inbox::page))
        .route("/approvals/{id}", get(approval::page))
        .route("/approvals/{id}/decide", post(decide::decide))
        .route("/approvals/{id}/revoke", post(decide::revoke))
        .route("/approvals/{id}/review", post(decide::review))
        .route("/live/inbox", get(inbox::part))
        .route("/live/approvals/{id}", get(approval::part))
        .route("/runs", get(runs::page))
        .route("/runs/{id}/withdraw", post(runs::withdraw))
        .route("/policy", get(policy::page))
        .route("/sessions", get(recordings::list))
        .route("/sessions/{id}", get(timeline::page))
        .route("/sessions/{id}/tail", get(timeline::tail))
        .route("/events", get(live::events))
        .route("/login", post(login::login))
        .route("/callback", get(login::callback))
        .route("/logout", post(login::logout))
        .route("/chat/links", get(chat::own))
        .route("/chat/links/end", post(chat::end))
        .route("/chat/link/{code}", get(chat::link))
        .route("/chat/link/{code}/confirm", post(chat::confirm))
        .route(chat::SLACK, post(chat::slack).layer(DefaultBodyLimit::max(chats::BODY_BYTES_MAX)))
        .route(chat::WEBHOOK, post(chat::webhook).layer(DefaultBodyLimit::max(chats::BODY_BYTES_MAX)))
        .route("/assets/page.css", get(assets::style))
        .route("/assets/page.js", get(assets::script))
        .fallback(async || message(StatusCode::NOT_FOUND, "there is no such page"))
        .method_not_allowed_fallback(async || message(StatusCode::METHOD_NOT_ALLOWED, "not in this way"))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&web), guard::check))
        .with_state(web)
}
