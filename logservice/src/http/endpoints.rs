//! What can be requested of the HTTP port, and who may request it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{header, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put, MethodRouter};
use axum::{Extension, Router};

use super::gate::{admit, Gate, HttpState, Proof, Refused};
use super::places::Visitor;
use super::upload::put_snapshot;
use crate::access::roles::{Access, TokenRole};
use crate::connections::limits::Limits;
use crate::service::status_fields::StatusAsJson;
use crate::service::Service;

/// A path that can be requested.
struct Endpoint {
    path: &'static str,
    /// Who may request it.
    access: Access,
    answer: fn() -> MethodRouter<HttpState>,
}

/// All endpoints. The router is made from these and nothing else, so there is none without a role.
const ENDPOINTS: [Endpoint; 3] = [
    Endpoint { path: "/healthz", access: Access::Anyone, answer: || get(|| async { "ok\n" }) },
    Endpoint { path: "/shards", access: Access::Needs(TokenRole::Observe), answer: || get(shards) },
    Endpoint { path: "/shards/{shard}/snapshot", access: Access::Needs(TokenRole::Node), answer: || put(put_snapshot) },
];

/// Answers the requests to the port, see [`crate::http`].
pub fn router(service: Arc<Service>, limits: Arc<Limits>) -> Router {
    let state = HttpState { service, limits };
    let add = |router: Router<HttpState>, Endpoint { path, access, answer }: Endpoint| {
        let gate = Gate { state: state.clone(), path, access };
        router.route(path, answer().route_layer(middleware::from_fn_with_state(gate, admit)))
    };
    ENDPOINTS.into_iter().fold(Router::new(), add).with_state(state)
}

/// `GET /shards`: the status of every shard that the token may observe.
async fn shards(
    State(HttpState { service, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Extension(proof): Extension<Proof>,
) -> Result<Response, Refused> {
    let _place = visitor.ask()?;
    let shown_to = service.tokens().zip(proof.token);
    let may_see = |shard: &str| {
        shown_to.as_ref().is_none_or(|(tokens, token)| tokens.roles(shard, token).allow(TokenRole::Observe))
    };
    let statuses = service.statuses(may_see);
    Ok(match serde_json::to_vec(&statuses.iter().map(StatusAsJson).collect::<Vec<_>>()) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}
