//! What machines that watch the service request: whether it is ready, metrics, and the state of its shards, once or as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{header, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::Extension;
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{interval, Interval, MissedTickBehavior};

use super::gate::{HttpState, Proof, Refused};
use super::metrics;
use super::places::{Admitted, Streaming, Visitor};
use crate::access::roles::TokenRole;
use crate::access::tokens::TokenDigest;
use crate::service::overview::Overview;
use crate::service::status_fields::StatusAsJson;
use crate::service::Service;

/// How often a stream shows the shards.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// `GET /readyz`: whether nodes may use the service now. Single shards do not count.
pub async fn ready(State(HttpState { service, stopping, .. }): State<HttpState>) -> Response {
    let why_not = match *stopping.borrow() {
        true => Some("this service is stopping".to_owned()),
        false => service.why_not_ready(),
    };
    match why_not {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// `GET /metrics`, of every shard that the token may observe.
pub async fn metrics(
    State(HttpState { service, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Extension(proof): Extension<Proof>,
) -> Result<Response, Refused> {
    let _place = visitor.ask()?;
    let overview = overview(&service, proof.token.as_ref()).await;
    Ok(match metrics::text(overview) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    })
}

/// `GET /shards`: the status of every shard that the token may observe.
pub async fn statuses(
    State(HttpState { service, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Extension(proof): Extension<Proof>,
) -> Result<Response, Refused> {
    let _place = visitor.ask()?;
    let statuses = service.statuses(may_see(&service, proof.token.as_ref()));
    Ok(as_json(&statuses.iter().map(StatusAsJson).collect::<Vec<_>>()))
}

/// `GET /api/shards`: the service, its cluster, and every shard that the token may observe, with its nodes and copies.
pub async fn shards(
    State(HttpState { service, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Extension(proof): Extension<Proof>,
) -> Result<Response, Refused> {
    let _place = visitor.ask()?;
    Ok(as_json(&overview(&service, proof.token.as_ref()).await))
}

/// `GET /api/shards/{shard}/history`: how far its log was behind within the last ten minutes.
pub async fn history(
    State(HttpState { service, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let _place = visitor.ask()?;
    service.shard(&name).await?;
    Ok(as_json(&service.history(&name)))
}

/// `GET /api/events`: what `GET /api/shards` answers, as an event of the type `shards` every second. The stream ends when the token is
/// removed or the service stops.
pub async fn events(
    State(HttpState { service, stopping, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Extension(proof): Extension<Proof>,
) -> Result<Response, Refused> {
    let place = visitor.stream()?;
    let mut ticks = interval(SHOW_EVERY);
    // A client that takes nothing for a while gets no more than it missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = Watching { service, token: proof.token, stopping, ticks, _place: place };
    let stream = Sse::new(shown(watching)).keep_alive(KeepAlive::new());
    Ok(([(header::CACHE_CONTROL, "no-store")], stream).into_response())
}

/// What a stream needs while it lasts.
struct Watching {
    service: Arc<Service>,
    token: Option<TokenDigest>,
    stopping: watch::Receiver<bool>,
    ticks: Interval,
    /// Until the stream ends.
    _place: Admitted<Streaming>,
}

fn shown(watching: Watching) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(watching, |mut watching| async move {
        tokio::select! {
            biased;
            () = stops(&mut watching.stopping) => return None,
            _ = watching.ticks.tick() => {}
        }
        if !is_still_known(&watching.service, watching.token.as_ref()) {
            return None;
        }
        let overview = overview(&watching.service, watching.token.as_ref()).await;
        // Nothing of it can fail to be JSON, which has no line ends of its own.
        let json = serde_json::to_string(&overview).ok()?;
        Some((Ok(Event::default().event("shards").data(json)), watching))
    })
}

/// Waits until the service stops.
async fn stops(stopping: &mut watch::Receiver<bool>) {
    // An error says that it has stopped.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Whether the token may still observe any shard.
fn is_still_known(service: &Service, token: Option<&TokenDigest>) -> bool {
    let known = service.tokens().zip(token);
    known.is_none_or(|(tokens, token)| tokens.roles_for_any(token).allow(TokenRole::Observe))
}

async fn overview(service: &Service, token: Option<&TokenDigest>) -> Overview {
    service.overview(may_see(service, token)).await
}

/// Whether a token may observe a shard. Without tokens, all may.
fn may_see<'a>(service: &Service, token: Option<&'a TokenDigest>) -> impl Fn(&str) -> bool + use<'a> {
    let shown_to = service.tokens().zip(token);
    move |shard| shown_to.as_ref().is_none_or(|(tokens, token)| tokens.roles(shard, token).allow(TokenRole::Observe))
}

fn as_json(what: &impl Serialize) -> Response {
    match serde_json::to_vec(what) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
