//! Signing in and out. What a sign-in needs to come back is bound to a cookie of its own, counts once, and for ten minutes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::form::{cookie, own_path, set_cookie};
use super::html::Html;
use super::layout::{Page, message};
use super::session::{Token, TokenDigest, Use};
use super::{Posted, Web};
use crate::approval::{DecideError, Entry, Lacking, Reviewer};
use crate::policy::rule::StepUp;
use crate::run::now_ms;
use crate::signin::{Fields, Provider, ProviderError, Secrets, reviewer};

/// How long somebody may take to sign in at the provider.
pub(super) const LOGIN_TIME_MAX: Duration = Duration::from_mins(10);
/// Sign-ins under way at once; the oldest makes room.
pub(super) const LOGINS_MAX: usize = 4096;

/// Sign-ins under way.
#[derive(Default)]
pub(super) struct Logins(Mutex<Vec<Login>>);

/// One of them.
pub(super) struct Login {
    digest: TokenDigest,
    secrets: Secrets,
    back_to: String,
    /// What it has to prove, beyond who it is.
    needs: Option<StepUp>,
    began: Instant,
}

impl Logins {
    /// Begins one for the browser that gets this token as a cookie.
    pub(super) fn begin(
        &self,
        back_to: &str,
        needs: Option<StepUp>,
    ) -> Result<(Token, Secrets), getrandom::Error> {
        let (token, secrets) = (Token::generate()?, Secrets::generate()?);
        let kept = Secrets {
            state: secrets.state.clone(),
            nonce: secrets.nonce.clone(),
            verifier: secrets.verifier.clone(),
        };
        let login = Login {
            digest: token.digest(),
            secrets: kept,
            back_to: back_to.to_owned(),
            needs,
            began: Instant::now(),
        };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|login| login.began.elapsed() < LOGIN_TIME_MAX);
        if table.len() >= LOGINS_MAX {
            table.remove(0);
        }
        table.push(login);
        Ok((token, secrets))
    }

    /// The browser's sign-in, which is over with this, whatever comes of it.
    pub(super) fn take(&self, digest: &TokenDigest) -> Option<Login> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|login| login.began.elapsed() < LOGIN_TIME_MAX);
        let at = table.iter().position(|login| login.digest.is(digest))?;
        Some(table.remove(at))
    }
}

/// `POST /login`: to the provider. A form and not a link, for it begins something.
pub(super) async fn login(State(web): State<Arc<Web>>, headers: HeaderMap, body: Posted) -> Response {
    let Some(fields) = Fields::parse(&body) else { return message(StatusCode::BAD_REQUEST, "not a form") };
    // What the rule asks behind a request that they see.
    let needs = fields.find("approval").and_then(|id| {
        let signed = web.signed(&headers, Use::Person)?;
        web.visible(id, &signed)?.request.step_up.clone()
    });
    let begun = web.logins.begin(own_path(fields.get("back")), needs.clone());
    let Ok((token, secrets)) = begun else {
        return message(StatusCode::INTERNAL_SERVER_ERROR, "no randomness");
    };
    let address = match web.authorization(&secrets, needs.as_ref()).await {
        Ok(address) => address,
        Err(error) => {
            tracing::warn!(%error, "nobody can sign in to the approvals page");
            return message(StatusCode::BAD_GATEWAY, "the identity provider cannot be asked; try again");
        }
    };
    // A document that leads on, and no redirect: `form-action` holds for every redirect behind a form, and a provider
    // may lead on to another (CSP Level 3 section 6.4.2).
    let page = Page::new("Sign in").leading_to(&address).with(&Html::of(|html| {
        html.el("p", &[], |html| html.leaf("a", &[("href", &address)], "Go on to the identity provider"));
    }));
    let seconds = LOGIN_TIME_MAX.as_secs();
    with_cookies(
        page.into_response(),
        &[set_cookie(web.login_cookie(), &token.text(), web.secure(), Some(seconds))],
    )
}

/// `GET /callback`: back from the provider, with a code (OpenID Connect Core 1.0 section 3.1.2.5).
pub(super) async fn callback(
    State(web): State<Arc<Web>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let gone = set_cookie(web.login_cookie(), "", web.secure(), Some(0));
    let refused = |status, why: &str| with_cookies(message(status, why), std::slice::from_ref(&gone));
    let Some(fields) = Fields::parse(query.unwrap_or_default().as_bytes()) else {
        return refused(StatusCode::BAD_REQUEST, "not an answer of the identity provider");
    };
    let own = cookie(&headers, web.login_cookie()).and_then(Token::parse);
    let Some(login) = own.and_then(|token| web.logins.take(&token.digest())) else {
        return refused(StatusCode::BAD_REQUEST, "this sign-in is over, or another browser's; begin again");
    };
    if !bool::from(fields.get("state").as_bytes().ct_eq(login.secrets.state.as_bytes())) {
        tracing::warn!("a sign-in to the approvals page came back with another's state");
        return refused(StatusCode::BAD_REQUEST, "this is the answer to another sign-in; begin again");
    }
    let (who, age) = match redeemed(&web, &fields, &login.secrets).await {
        Ok(redeemed) => redeemed,
        Err(refusal) => return refused(refusal.0, refusal.1),
    };
    // A provider may take no notice of what it was asked for (Core 1.0 section 3.1.2.1, `acr_values`).
    if let Some(needs) = &login.needs
        && let Some(lacking) = who.proof.as_ref().and_then(|proof| proof.lacks(needs, now_ms()))
    {
        tracing::warn!(user = who.user, %needs, %lacking, "a sign-in to the approvals page is not what a rule asks for");
        return with_cookies(not_enough(needs, &lacking, &login.back_to), &[gone]);
    }
    tracing::info!(user = who.user, groups = ?who.groups, "signed in to the approvals page");
    // Whoever was signed in here before is not any more.
    if let Some(before) = web.session_token(&headers) {
        web.sessions.end(&before.digest());
    }
    let Ok(token) = web.sessions.begin(who, age) else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "no randomness");
    };
    let session = set_cookie(web.session_cookie(), &token.text(), web.secure(), None);
    with_cookies(see_other(&login.back_to), &[gone, session])
}

async fn redeemed(
    web: &Web,
    fields: &Fields,
    secrets: &Secrets,
) -> Result<(Reviewer, Duration), (StatusCode, &'static str)> {
    let failed = |error: ProviderError| {
        tracing::warn!(%error, "a sign-in to the approvals page failed");
        (StatusCode::FORBIDDEN, "the sign-in failed; the daemon's log says why")
    };
    if !web.provider.is_issuer(fields.find("iss")).await.map_err(failed)? {
        return Err((StatusCode::BAD_REQUEST, "this is the answer of another identity provider"));
    }
    if let Some(error) = fields.find("error") {
        let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
        tracing::warn!(error, "the identity provider signs nobody in");
        return Err((StatusCode::FORBIDDEN, "the identity provider did not sign you in"));
    }
    let Some(code) = fields.find("code") else {
        return Err((StatusCode::BAD_REQUEST, "not an answer of the identity provider"));
    };
    let identity = web.provider.redeem(code, &web.redirect_uri(), secrets).await.map_err(failed)?;
    let age = Provider::age(&identity, web.settings.step_up).map_err(failed)?;
    Ok((reviewer(identity), age))
}

/// `POST /logout`.
pub(super) async fn logout(State(web): State<Arc<Web>>, headers: HeaderMap, body: Posted) -> Response {
    let (signed, _) = match web.posted(&headers, &body) {
        Ok(posted) => posted,
        Err(refusal) => return *refusal,
    };
    web.sessions.end(&signed.digest);
    tracing::info!(user = signed.who.user, "signed out of the approvals page");
    let elsewhere = web.provider.end_of_session().await;
    let page = Page::new("Signed out").with(&Html::of(|html| {
        html.leaf("p", &[], "You are signed out here.");
        if let Some(elsewhere) = &elsewhere {
            html.el("p", &[], |html| {
                html.leaf("a", &[("href", elsewhere)], "Sign out at the identity provider, too");
            });
        }
        html.el("p", &[], |html| html.leaf("a", &[("href", "/")], "Sign in again"));
    }));
    with_cookies(page.into_response(), &[set_cookie(web.session_cookie(), "", web.secure(), Some(0))])
}

/// The page for somebody who is not signed in.
pub(super) fn sign_in(back_to: &str) -> Response {
    let page = Page::new("Sign in").with(&Html::of(|html| {
        html.leaf("p", &[], "What agents ask waits here for people to decide.");
        form(html, back_to);
    }));
    page.status(StatusCode::UNAUTHORIZED).into_response()
}

/// The page for somebody who has to prove once more who they are. What they wrote is lost: it is decided anew.
pub(super) fn step_up(back_to: &str) -> Response {
    let page = Page::new("Sign in again").notice("To decide, sign in once more; nothing was decided.");
    let page = page.with(&Html::of(|html| form(html, back_to)));
    page.status(StatusCode::FORBIDDEN).into_response()
}

/// The page for somebody whom the provider signed in, but not as a rule asks for. Whoever was signed in here still is.
fn not_enough(needs: &StepUp, lacking: &Lacking, back_to: &str) -> Response {
    let said = format!(
        "The identity provider signed you in, but not as the rule asks for ({needs}): {lacking}. Nothing was decided."
    );
    let page = Page::new("Sign in again").notice(said).with(&Html::of(|html| {
        html.el("p", &[], |html| html.leaf("a", &[("href", own_path(back_to))], "Back to the request"));
    }));
    page.status(StatusCode::FORBIDDEN).into_response()
}

/// The form for somebody who has to prove more of themselves before they approve this.
pub(super) fn for_approval(html: &mut Html, entry: &Entry, why: &DecideError) {
    let (id, back) = (entry.id.to_string(), format!("/approvals/{}", entry.id));
    let form = [("method", "post"), ("action", "/login"), ("id", "step-up")];
    html.el("form", &form, |html| {
        html.leaf("p", &[], why);
        html.open("input", &[("type", "hidden"), ("name", "back"), ("value", &back)]);
        html.open("input", &[("type", "hidden"), ("name", "approval"), ("value", &id)]);
        html.leaf("button", &[("type", "submit"), ("class", "primary")], "Sign in to approve");
    });
}

fn form(html: &mut Html, back_to: &str) {
    html.el("form", &[("method", "post"), ("action", "/login")], |html| {
        html.open("input", &[("type", "hidden"), ("name", "back"), ("value", own_path(back_to))]);
        html.leaf("button", &[("type", "submit"), ("class", "primary"), ("autofocus", "")], "Sign in");
    });
}

/// 303 (RFC 9110 section 15.4.4) to a place of this page.
pub(super) fn see_other(path: &str) -> Response {
    let location = HeaderValue::from_str(own_path(path)).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

fn with_cookies(mut response: Response, cookies: &[String]) -> Response {
    for cookie in cookies.iter().filter_map(|cookie| HeaderValue::from_str(cookie).ok()) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
