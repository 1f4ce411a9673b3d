//! What every page has around it.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::Signed;
use super::html::Html;

/// A page, to be filled.
pub(super) struct Page {
    title: String,
    status: StatusCode,
    leads_to: Option<String>,
    signed: Option<Around>,
    notice: Option<String>,
    body: Html,
}

struct Around {
    user: String,
    csrf: String,
    operator: bool,
}

impl Page {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            status: StatusCode::OK,
            leads_to: None,
            signed: None,
            notice: None,
            body: Html::new(),
        }
    }

    /// For somebody who is signed in: with a way to the other pages, and out.
    pub(super) fn of(mut self, signed: &Signed) -> Self {
        self.signed = Some(Around {
            user: signed.who.user.clone(),
            csrf: signed.csrf.clone(),
            operator: signed.operator,
        });
        self
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The browser goes on to this address by itself.
    pub(super) fn leading_to(mut self, address: &str) -> Self {
        self.leads_to = Some(address.to_owned());
        self
    }

    /// Said above everything else.
    pub(super) fn notice(mut self, text: impl Into<String>) -> Self {
        self.notice = Some(text.into());
        self
    }

    pub(super) fn with(mut self, body: &Html) -> Self {
        self.body.piece(body);
        self
    }

    fn head(&self, html: &mut Html) {
        html.el("head", &[], |html| {
            html.open("meta", &[("charset", "utf-8")]);
            html.open("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            if let Some(address) = &self.leads_to {
                html.open("meta", &[("http-equiv", "refresh"), ("content", &format!("0;url={address}"))]);
            }
            html.leaf("title", &[], format_args!("{} · Portcullis", self.title));
            html.open("link", &[("rel", "stylesheet"), ("href", "/assets/page.css")]);
            html.el("script", &[("src", "/assets/page.js"), ("defer", "")], |_| {});
        });
    }

    fn top(&self, html: &mut Html) {
        html.el("header", &[], |html| {
            html.leaf("a", &[("href", "/"), ("class", "brand")], "Portcullis");
            let Some(signed) = &self.signed else { return };
            html.el("nav", &[], |html| {
                html.leaf("a", &[("href", "/")], "Inbox");
                if signed.operator {
                    for (path, name) in [("/runs", "Runs"), ("/policy", "Policy"), ("/sessions", "Sessions")]
                    {
                        html.leaf("a", &[("href", path)], name);
                    }
                }
            });
            html.el("form", &[("method", "post"), ("action", "/logout"), ("class", "who")], |html| {
                html.leaf("span", &[], &signed.user);
                html.open("input", &[("type", "hidden"), ("name", "csrf"), ("value", &signed.csrf)]);
                html.leaf("button", &[("type", "submit")], "Sign out");
            });
        });
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let html = Html::of(|html| {
            html.el("html", &[("lang", "en")], |html| {
                self.head(html);
                html.el("body", &[], |html| {
                    self.top(html);
                    html.el("main", &[], |html| {
                        html.leaf("h1", &[], &self.title);
                        if let Some(notice) = &self.notice {
                            html.leaf("p", &[("class", "notice"), ("role", "alert")], notice);
                        }
                        html.piece(&self.body);
                    });
                });
            });
        });
        respond(self.status, html.document())
    }
}

/// One sentence.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let page = Page::new(title).status(status).notice(text);
    page.with(&Html::of(|html| html.el("p", &[], |html| html.leaf("a", &[("href", "/")], "To the inbox"))))
        .into_response()
}

/// A part of a page, for the script.
pub(super) fn fragment(html: Html) -> Response {
    respond(StatusCode::OK, html.fragment())
}

fn respond(status: StatusCode, text: String) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    (status, [(CONTENT_TYPE, kind)], text).into_response()
}
