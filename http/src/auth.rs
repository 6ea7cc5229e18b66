//! Which requests are allowed: host, origin, token, role.
//!
//! Must always hold: a token is compared in constant time, as a hash; a request is refused before
//! its body is read. Must not know: what a request does.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use forebay_api::TokenRole;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    backend::TOKEN_HASH_LEN,
    problem::{Code, Problem},
    state::Server,
};

/// Begins the text of every token, so that scanners for leaked secrets can find one.
pub const TOKEN_PREFIX: &str = "fbt_";
/// Paths that need no token.
const OPEN: [&str; 2] = ["/v1/health", "/v1/openapi.json"];
/// The author of changes without a named token.
const NAMELESS: &str = "http";

/// The hash of a token's text. Its 256 random bits need no slow hash.
#[must_use]
pub fn token_hash(text: &str) -> [u8; TOKEN_HASH_LEN] {
    Sha256::digest(text.as_bytes()).into()
}

/// The text of a token, from random bytes.
#[must_use]
pub fn token_text(random: &[u8; TOKEN_HASH_LEN]) -> String {
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{TOKEN_PREFIX}{hex}")
}

/// The sender of a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The name of its token.
    pub(crate) name: String,
    role: TokenRole,
}

/// Refuses requests from foreign sites and without a valid token.
pub(crate) async fn check(
    State(server): State<Arc<Server>>,
    mut request: Request,
    next: Next,
) -> Response {
    match server.admit(request.headers(), request.uri().authority(), request.uri().path()) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Server {
    /// The caller of a request; `None` for an open path.
    fn admit(
        &self,
        headers: &HeaderMap,
        target: Option<&Authority>,
        path: &str,
    ) -> Result<Option<Caller>, Problem> {
        let host = self.host(headers, target)?;
        check_origin(headers, &host)?;
        if OPEN.contains(&path) {
            return Ok(None);
        }
        if !self.options.needs_token {
            return Ok(Some(Caller { name: NAMELESS.to_owned(), role: TokenRole::Admin }));
        }
        let caller = bearer(headers).and_then(|text| self.caller(text));
        caller.map(Some).ok_or_else(|| {
            let text = "send `Authorization: Bearer TOKEN` with a valid token; `forebay token \
                        create` makes one";
            Problem::new(Code::Unauthorized, text)
        })
    }

    /// The host that the request is for. An unknown name is refused: it may be the name of a
    /// foreign site that now resolves to this machine (DNS rebinding). A numeric address is safe.
    fn host(&self, headers: &HeaderMap, target: Option<&Authority>) -> Result<Authority, Problem> {
        let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = match (target, header) {
            (Some(target), _) => Some(target.clone()),
            (None, Some(host)) => host.parse::<Authority>().ok(),
            (None, None) => None,
        };
        let Some(host) = host else {
            return Err(Problem::bad_input("the request has no valid Host"));
        };
        let name = host.host();
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let is_known = name.eq_ignore_ascii_case("localhost")
            || self.options.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_address || is_known {
            return Ok(host);
        }
        let text = format!("`{name}` is no host of this server; allow it with --host {name}");
        Err(Problem::new(Code::Forbidden, text))
    }

    /// The caller with this token. Looks at all tokens, so that the time tells nothing.
    fn caller(&self, text: &str) -> Option<Caller> {
        let hash = token_hash(text);
        let mut found = None;
        for local in &self.options.local_tokens {
            if bool::from(local.hash.ct_eq(&hash)) {
                found = Some(Caller { name: NAMELESS.to_owned(), role: local.role });
            }
        }
        self.backend.each_token(&mut |name, role, stored| {
            if bool::from(stored.ct_eq(&hash)) {
                found = Some(Caller { name: name.to_owned(), role });
            }
        });
        found
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A browser sends `Origin` with a request of another site, which must not use this server.
fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let ours = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match ours {
        Some((_, authority)) if authority.eq_ignore_ascii_case(host.as_str()) => Ok(()),
        _ => Err(Problem::new(Code::Forbidden, "requests of other sites are refused")),
    }
}

/// A caller that may read.
pub(crate) struct Reader;

/// A caller that may change entries.
pub(crate) struct Writer;

/// A caller that may change the rules.
pub(crate) struct Admin(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        allowed(parts, TokenRole::Read).map(|_| Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Writer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        allowed(parts, TokenRole::Write).map(|_| Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        allowed(parts, TokenRole::Admin).map(Self)
    }
}

fn allowed(parts: &Parts, needed: TokenRole) -> Result<Caller, Problem> {
    let Some(caller) = parts.extensions.get::<Caller>() else {
        return Err(Problem::new(Code::Unauthorized, "the request has no token"));
    };
    if caller.role < needed {
        let text = format!("this needs a token with the role {needed}, yours is {}", caller.role);
        return Err(Problem::new(Code::Forbidden, text));
    }
    Ok(caller.clone())
}

/// The answer to unknown paths and methods.
pub(crate) fn not_found(path: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no `{path}`; see /v1/openapi.json"))
}

/// Gives answers of the framework (unknown methods, unreadable paths) the form of a problem, and
/// every answer the headers that keep browsers from guessing and storing.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let is_ours = response.headers().contains_key(header::CONTENT_TYPE);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED && !is_ours {
        let allow = response.headers_mut().remove(header::ALLOW);
        let text = format!("`{path}` has no such method");
        response = Problem::new(Code::MethodNotAllowed, text).into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    let fixed = |text| header::HeaderValue::from_static(text);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(fixed("no-store"));
    response
}
