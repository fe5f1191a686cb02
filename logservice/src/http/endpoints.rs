//! What can be requested of the HTTP port, and who may request it.

use std::sync::Arc;

use axum::middleware;
use axum::routing::{get, put, MethodRouter};
use axum::Router;
use tokio::sync::watch;

use super::gate::{admit, Gate, HttpState};
use super::monitoring;
use super::page;
use super::upload::put_snapshot;
use crate::access::roles::{Access, TokenRole};
use crate::connections::limits::Limits;
use crate::service::Service;

/// A path that can be requested.
struct Endpoint {
    path: &'static str,
    /// Who may request it.
    access: Access,
    answer: fn() -> MethodRouter<HttpState>,
}

/// All endpoints. The router is made from these and nothing else, so there is none without a role.
const ENDPOINTS: [Endpoint; 9] = [
    Endpoint { path: "/", access: Access::Anyone, answer: || get(page::page) },
    Endpoint { path: "/healthz", access: Access::Anyone, answer: || get(|| async { "ok\n" }) },
    Endpoint { path: "/readyz", access: Access::Anyone, answer: || get(monitoring::ready) },
    Endpoint { path: "/metrics", access: Access::Needs(TokenRole::Observe), answer: || get(monitoring::metrics) },
    Endpoint { path: "/shards", access: Access::Needs(TokenRole::Observe), answer: || get(monitoring::statuses) },
    Endpoint { path: "/api/shards", access: Access::Needs(TokenRole::Observe), answer: || get(monitoring::shards) },
    Endpoint {
        path: "/api/shards/{shard}/history",
        access: Access::Needs(TokenRole::Observe),
        answer: || get(monitoring::history),
    },
    Endpoint { path: "/api/events", access: Access::Needs(TokenRole::Observe), answer: || get(monitoring::events) },
    Endpoint { path: "/shards/{shard}/snapshot", access: Access::Needs(TokenRole::Node), answer: || put(put_snapshot) },
];

/// Answers the requests to the port, see [`crate::http`], until `stopping`.
pub fn router(service: Arc<Service>, limits: Arc<Limits>, stopping: watch::Receiver<bool>) -> Router {
    let state = HttpState { service, limits, stopping };
    let add = |router: Router<HttpState>, Endpoint { path, access, answer }: Endpoint| {
        let gate = Gate { state: state.clone(), path, access };
        router.route(path, answer().route_layer(middleware::from_fn_with_state(gate, admit)))
    };
    ENDPOINTS.into_iter().fold(Router::new(), add).with_state(state)
}
