//! Admits requests to the HTTP port by their tokens, and refuses the others.

use std::sync::Arc;

use axum::extract::{RawPathParams, Request, State};
use axum::http::{header, HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::Extension;
use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use super::places::{TooMany, Visitor};
use crate::access::guesses::{too_many_guesses, Credential};
use crate::access::login::Login;
use crate::access::roles::{no_permission, Access, TokenRoles};
use crate::access::tokens::TokenDigest;
use crate::connections::limits::Limits;
use crate::service::Service;

/// What answering a request takes.
#[derive(Clone)]
pub struct HttpState {
    /// The shards.
    pub service: Arc<Service>,
    /// What a client may do.
    pub limits: Arc<Limits>,
    /// Whether the service stops.
    pub stopping: watch::Receiver<bool>,
}

/// What a request has to pass before its endpoint answers it.
#[derive(Clone)]
pub struct Gate {
    /// What answering takes.
    pub state: HttpState,
    /// The endpoint's path, for messages.
    pub path: &'static str,
    /// Who may send such a request.
    pub access: Access,
}

/// What an admitted request has proved. Both are `None` where no token is needed.
#[derive(Debug, Clone, Default)]
pub struct Proof {
    /// The token that it came with.
    pub token: Option<TokenDigest>,
    /// The login to the shard that it names, if it names one.
    pub login: Option<Login>,
}

/// Lets a request through if its token allows it, on the shard that it names if it names one.
pub async fn admit(
    State(gate): State<Gate>,
    Extension(visitor): Extension<Arc<Visitor>>,
    parameters: RawPathParams,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let Gate { state: HttpState { service, limits, .. }, path, access } = gate;
    let mut proof = Proof::default();
    if let (Access::Needs(role), Some(watch), Some(tokens)) = (access, service.watch_tokens(), service.tokens()) {
        let token = bearer(request.headers());
        let shard = parameters.iter().find(|(name, _)| *name == "shard").map(|(_, shard)| shard.to_owned());
        let credential = Credential::new(shard.as_deref().unwrap_or_default(), token);
        if let Err(wait) = service.guesses().may_try(visitor.network(), &credential) {
            return Err(refuse_token(&limits, too_many_guesses(wait)).await);
        }
        let digest = tokens.digest(token);
        let login = shard.as_deref().and_then(|shard| Login::new(watch, Some(shard), token));
        let roles = match &shard {
            Some(shard) => login.as_ref().map_or(TokenRoles::default(), |login| login.roles(shard)),
            None => tokens.roles_for_any(&digest),
        };
        service.guesses().note(visitor.network(), &credential, !roles.is_empty());
        if roles.is_empty() {
            let refusal = Refusal::new(Code::NoAuth, "send the shard's token as Authorization: Bearer");
            return Err(refuse_token(&limits, refusal).await);
        }
        if !roles.allow(role) {
            let what = format!("{} {path}", request.method());
            return Err(no_permission(&what, role, roles).into());
        }
        proof = Proof { token: Some(digest), login };
    }
    request.extensions_mut().insert(proof);
    Ok(next.run(request).await)
}

/// Why a request is refused, as an HTTP answer.
pub enum Refused {
    /// For a reason that both ports have.
    Refusal(Refusal),
    /// There are as many requests as there may be.
    TooMany,
    /// Another upload for the same shard took its place.
    Displaced,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Refused::Refusal(refusal)
    }
}

impl From<TooMany> for Refused {
    fn from(_: TooMany) -> Self {
        Refused::TooMany
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let refusal = match self {
            Refused::Refusal(refusal) => refusal,
            Refused::TooMany => {
                const TEXT: &str = "too many requests at a time, see --max-http-connections; send it again later\n";
                return (StatusCode::SERVICE_UNAVAILABLE, TEXT).into_response();
            }
            Refused::Displaced => {
                return (StatusCode::CONFLICT, "another upload for this shard has begun\n").into_response()
            }
        };
        let status = match refusal.code {
            Code::Fenced | Code::Gap | Code::OtherLog | Code::Leased | Code::OldEngine | Code::NoGrant => {
                StatusCode::CONFLICT
            }
            Code::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Code::LogFailed | Code::NoMasterLink => StatusCode::SERVICE_UNAVAILABLE,
            Code::NotLeader => StatusCode::MISDIRECTED_REQUEST,
            Code::NoShard => StatusCode::NOT_FOUND,
            Code::NoAuth => StatusCode::UNAUTHORIZED,
            Code::NoPerm => StatusCode::FORBIDDEN,
            Code::Err => StatusCode::BAD_REQUEST,
        };
        (status, format!("{refusal}\n")).into_response()
    }
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => token.trim_ascii(),
        _ => &[],
    }
}

/// Delays each answer to a wrong token, so that guessing takes long.
async fn refuse_token(limits: &Limits, refusal: Refusal) -> Refused {
    tokio::time::sleep(limits.patience.failed_login_delay).await;
    refusal.into()
}
