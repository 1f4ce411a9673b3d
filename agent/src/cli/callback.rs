//! The loopback port that a browser comes back to after a sign-in (RFC 8252 section 7.3). Anybody on this host can speak to it, so
//! that only an answer with the sign-in's own `state` is looked at.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::login::LOOPBACK;

/// How long a browser may take for its request's head, and for reading the answer.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Connections at once.
const CONNECTIONS_MAX: usize = 16;

const DONE: &str = "<!doctype html><meta charset=utf-8><title>Portcullis</title><p>You are signed in. Close this window and go back to the terminal.";
const FAILED: &str = "<!doctype html><meta charset=utf-8><title>Portcullis</title><p>The sign-in failed; the terminal says why.";
const ANOTHER: &str = "<!doctype html><meta charset=utf-8><title>Portcullis</title><p>This is not the answer to the sign-in that is under way.";

/// The port, listening.
pub(super) struct Callback {
    listener: TcpListener,
    port: u16,
}

/// What is to be told to who came to the port.
pub(super) enum Answered<T> {
    /// This was it; nobody else is waited for.
    Done(T),
    /// It was not; somebody else may come.
    Another,
}

/// What the page says.
#[derive(Clone, Copy)]
enum Said {
    Done,
    Failed,
    Another,
}

/// A browser that brought an answer and waits for what is said of it.
type Came = (String, oneshot::Sender<Said>);

impl Callback {
    /// Listens on a port that the kernel picks.
    pub(super) fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((LOOPBACK, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// Its number.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits for who comes with the `state` of this address and gives their query to `judge`. `None` when nobody came in time.
    pub(super) fn wait<T, E>(
        self,
        authorization: &str,
        longest: Duration,
        mut judge: impl FnMut(&str) -> Answered<Result<T, E>>,
    ) -> io::Result<Option<Result<T, E>>> {
        let state = authorization.parse::<Uri>().ok().and_then(|uri| state_of(uri.query()?));
        let state = state.ok_or_else(|| io::Error::other("the provider's address has no state"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let (sender, mut came) = mpsc::channel(1);
            let mut connections = JoinSet::new();
            let waiting = async {
                loop {
                    tokio::select! {
                        accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                            let served = serve(accepted?.0, self.port, state.clone(), sender.clone());
                            connections.spawn(served);
                        }
                        Some(_over) = connections.join_next() => {}
                        Some((query, said)) = came.recv() => {
                            // On this thread: nothing else is to be done meanwhile.
                            let (page, judged) = match judge(&query) {
                                Answered::Done(Ok(done)) => (Said::Done, Some(Ok(done))),
                                Answered::Done(Err(error)) => (Said::Failed, Some(Err(error))),
                                Answered::Another => (Said::Another, None),
                            };
                            // A browser that left needs no page.
                            let _left = said.send(page);
                            if judged.is_some() {
                                return Ok::<_, io::Error>(judged);
                            }
                        }
                    }
                }
            };
            let Ok(judged) = timeout(longest, waiting).await else { return Ok(None) };
            let rest = async { while connections.join_next().await.is_some() {} };
            drop(timeout(LAST_WORDS_TIME_MAX, rest).await);
            judged
        })
    }
}

async fn serve(tcp: tokio::net::TcpStream, port: u16, state: String, sender: mpsc::Sender<Came>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, sender) = (state.clone(), sender.clone());
        async move {
            let said = match answer_in(&request, port, &state) {
                Some(query) => {
                    let (say, said) = oneshot::channel();
                    match sender.send((query, say)).await {
                        Ok(()) => said.await.unwrap_or(Said::Failed),
                        Err(_) => Said::Failed,
                    }
                }
                None => Said::Another,
            };
            Ok::<_, Infallible>(page(said))
        }
    });
    // A browser's connection that breaks is the browser's matter.
    drop(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(tcp), service)
            .await,
    );
}

/// The query of a request that is the provider's answer: to this port by its address (a page elsewhere may have another name for it),
/// with this state.
fn answer_in<B>(request: &Request<B>, port: u16, state: &str) -> Option<String> {
    let host = request.headers().get(HOST)?.to_str().ok()?;
    let query = request.uri().query()?;
    let is_it = request.method() == Method::GET
        && host == format!("{LOOPBACK}:{port}")
        && request.uri().path() == "/callback"
        && state_of(query).as_deref() == Some(state);
    is_it.then(|| query.to_owned())
}

fn state_of(query: &str) -> Option<String> {
    let mut states = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "state");
    let (_, state) = states.next()?;
    states.next().is_none().then(|| state.into_owned())
}

fn page(said: Said) -> Response<String> {
    let (status, text) = match said {
        Said::Done => (StatusCode::OK, DONE),
        Said::Failed => (StatusCode::FORBIDDEN, FAILED),
        Said::Another => (StatusCode::BAD_REQUEST, ANOTHER),
    };
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn get(port: u16, target: &str, host: &str) -> String {
        let mut tcp = TcpStream::connect((LOOPBACK, port)).unwrap();
        write!(tcp, "GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn only_the_answer_to_this_sign_in_is_taken() {
        let callback = Callback::open().unwrap();
        let port = callback.port();
        let browser = std::thread::spawn(move || {
            let own = format!("127.0.0.1:{port}");
            for (target, host) in [
                ("/callback?state=other&code=c", own.as_str()),
                ("/callback?code=c", &own),
                ("/callback?state=s&state=s", &own),
                ("/?state=s&code=c", &own),
                ("/callback?state=s&code=c", "evil.example"),
                ("/callback", &own),
            ] {
                let answer = get(port, target, host);
                assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
            }
            let unsure = get(port, "/callback?state=s&code=unsure", &own);
            assert!(unsure.starts_with("HTTP/1.1 400"), "{unsure}");
            get(port, "/callback?code=c&state=s&iss=x", &own)
        });
        let done = callback.wait("https://idp.example/auth?a=b&state=s", Duration::from_secs(20), |query| {
            if query.contains("unsure") {
                Answered::Another
            } else {
                Answered::Done(Ok::<_, ()>(query.to_owned()))
            }
        });
        assert_eq!(done.unwrap(), Some(Ok("code=c&state=s&iss=x".to_owned())));
        let answer = browser.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("default-src 'none'"), "{answer}");
    }

    #[test]
    fn nobody_is_waited_for_in_vain() {
        let nobody = Callback::open()
            .unwrap()
            .wait("https://a/?state=s", Duration::from_millis(20), |_| Answered::Done(Ok::<(), ()>(())));
        assert_eq!(nobody.unwrap(), None);
        let stateless = Callback::open()
            .unwrap()
            .wait("https://a/", Duration::ZERO, |_| Answered::Done(Ok::<(), ()>(())));
        assert!(stateless.is_err());
    }
}
