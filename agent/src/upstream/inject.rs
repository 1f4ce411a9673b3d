//! Puts the real credential into a request's head, and drops what the agent sent in its place.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::sigv4;
use crate::flow::Side;
use crate::policy::rule::Injection;
use crate::record::asked::base64;
use crate::secret::Secret;

/// Why a credential cannot be put into a request. The text never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// It has bytes that a header field or a query cannot carry.
    #[error("the credential has characters that cannot stand in a request; is it one line of plain text?")]
    Characters,
    /// The new target is no URI.
    #[error("the request's target cannot take the credential")]
    Target,
    /// Basic authentication without a user.
    #[error("inject = \"basic\" needs `user`, or a credential of the form USER:PASSWORD")]
    NoUser,
    /// It cannot be signed again.
    #[error(transparent)]
    SigV4(#[from] sigv4::SignError),
}

impl InjectError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Characters | Self::NoUser => Side::Portcullis,
            Self::Target => Side::Client,
            Self::SigV4(error) => error.side(),
        }
    }
}

/// Whether the exact body must be known before the credential can be put in.
#[must_use]
pub fn needs_body(how: &Injection, parts: &Parts) -> bool {
    match how {
        Injection::Bearer | Injection::Basic | Injection::Header(_) | Injection::Query(_) => false,
        Injection::SigV4 => sigv4::needs_body(parts),
    }
}

/// Whether what is put in depends on the body.
#[must_use]
pub fn signed(how: &Injection) -> bool {
    match how {
        Injection::Bearer | Injection::Basic | Injection::Header(_) | Injection::Query(_) => false,
        Injection::SigV4 => true,
    }
}

/// Puts the credential where `how` says. `user` is for basic authentication; `body` is the SHA-256 of the exact body, when
/// it is known.
///
/// # Errors
/// See [`InjectError`]; the request must not be sent then.
pub fn inject(
    parts: &mut Parts,
    how: &Injection,
    user: Option<&str>,
    secret: &Secret,
    body: Option<&[u8; 32]>,
    now: SystemTime,
) -> Result<(), InjectError> {
    match how {
        Injection::Bearer => {
            let value = [b"Bearer ", secret.expose()].concat();
            set(parts, AUTHORIZATION, &value)?;
            parts.headers.remove(PROXY_AUTHORIZATION);
        }
        Injection::Basic => {
            let pair = match user {
                Some(user) => [user.as_bytes(), b":", secret.expose()].concat(),
                None if secret.expose().contains(&b':') => secret.expose().to_vec(),
                None => return Err(InjectError::NoUser),
            };
            let pair = zeroize::Zeroizing::new(pair);
            set(parts, AUTHORIZATION, format!("Basic {}", base64(&pair)).as_bytes())?;
            parts.headers.remove(PROXY_AUTHORIZATION);
        }
        Injection::Header(name) => {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InjectError::Characters)?;
            set(parts, name, secret.expose())?;
        }
        Injection::Query(name) => query(parts, name, secret)?,
        Injection::SigV4 => sigv4::sign(parts, secret, body, now)?,
    }
    Ok(())
}

fn set(parts: &mut Parts, name: HeaderName, value: &[u8]) -> Result<(), InjectError> {
    let mut value = HeaderValue::from_bytes(value).map_err(|_| InjectError::Characters)?;
    value.set_sensitive(true);
    parts.headers.insert(name, value);
    Ok(())
}

/// All but the unreserved characters (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Every parameter of that name goes, however it is spelt; the others stay byte for byte.
fn query(parts: &mut Parts, name: &str, secret: &Secret) -> Result<(), InjectError> {
    let value = std::str::from_utf8(secret.expose()).map_err(|_| InjectError::Characters)?;
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let other = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().replace('+', " ");
        !pair.is_empty() && percent_decode_str(&key).decode_utf8_lossy() != name
    };
    let mut pairs: Vec<String> = query.split('&').filter(other).map(str::to_owned).collect();
    let encoded = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    pairs.push(format!("{}={}", encoded(name), encoded(value)));
    let target = format!("{path}?{}", pairs.join("&"));
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(target.parse().map_err(|_| InjectError::Target)?);
    parts.uri = http::Uri::from_parts(uri).map_err(|_| InjectError::Target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn injected(uri: &str, how: &Injection, user: Option<&str>, secret: &str) -> Result<Parts, InjectError> {
        let request = Request::builder()
            .uri(uri)
            .header("authorization", "Bearer agent")
            .header("x-api-key", "agent")
            .header("x-api-key", "agent too")
            .header("cookie", "sid=1");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        inject(&mut parts, how, user, &Secret::new(secret.as_bytes().to_vec()), None, SystemTime::now())?;
        Ok(parts)
    }

    #[test]
    fn the_credential_takes_the_place_of_the_agent_s() {
        let bearer = injected("/", &Injection::Bearer, None, "real").unwrap();
        assert_eq!(bearer.headers[AUTHORIZATION], "Bearer real");
        assert!(bearer.headers[AUTHORIZATION].is_sensitive());
        assert_eq!(bearer.headers["cookie"], "sid=1");
        let basic = injected("/", &Injection::Basic, Some("Aladdin"), "open sesame").unwrap();
        // RFC 7617 section 2.
        assert_eq!(basic.headers[AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let header = injected("/", &Injection::Header("x-api-key".to_owned()), None, "real").unwrap();
        assert_eq!(header.headers.get_all("x-api-key").iter().collect::<Vec<_>>(), ["real"]);
    }

    #[test]
    fn a_query_parameter_is_replaced_in_every_spelling() {
        let how = Injection::Query("api_key".to_owned());
        let parts = injected("/v1?a=1&api_key=x&%61pi_key=y&b=%20&&api_key", &how, None, "re&al").unwrap();
        assert_eq!(parts.uri, "/v1?a=1&b=%20&api_key=re%26al");
        assert_eq!(injected("https://h/v1", &how, None, "s").unwrap().uri, "https://h/v1?api_key=s");
    }

    #[test]
    fn what_cannot_be_carried_is_an_error_without_the_secret() {
        let error = injected("/", &Injection::Bearer, None, "two\nlines").unwrap_err().to_string();
        assert!(!error.contains("two"), "{error}");
        assert!(matches!(injected("/", &Injection::Basic, None, "x"), Err(InjectError::NoUser)));
    }
}
