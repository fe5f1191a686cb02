//! What the HTTP port answers: seeds come in here, and a machine can ask how the service is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Query, RawPathParams, Request, State};
use axum::http::{header, HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put, MethodRouter};
use axum::{Extension, Router};
use bytes::Bytes;
use durability_protocol::{is_valid_replid, Code, Known, Refusal};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::guesses::{credential, too_many_guesses};
use crate::http_places::{TooMany, Visitor};
use crate::limits::{Limits, Patience};
use crate::pass::{self, Pass};
use crate::resp::commands::{self, Access};
use crate::roles::{Role, Roles};
use crate::service::Service;
use crate::shard::Shard;
use crate::snapshots::{Draft, SnapshotError};
use crate::tokens::TokenDigest;

/// Chunks of a body on their way from the socket to the disk.
const CHUNKS_IN_FLIGHT: usize = 8;

/// What answers need.
#[derive(Clone)]
struct Shared {
    service: Arc<Service>,
    limits: Arc<Limits>,
}

/// What can be asked of a path.
struct Endpoint {
    path: &'static str,
    /// Who may ask for it.
    access: Access,
    answer: fn() -> MethodRouter<Shared>,
}

/// All of them. The router is made of these and nothing else, so there is none without a role.
const ENDPOINTS: [Endpoint; 3] = [
    Endpoint { path: "/healthz", access: Access::Anyone, answer: || get(|| async { "ok\n" }) },
    Endpoint { path: "/shards", access: Access::Needs(Role::Observe), answer: || get(shards) },
    Endpoint { path: "/shards/{shard}/snapshot", access: Access::Needs(Role::Node), answer: || put(put_snapshot) },
];

/// What is asked of the port, see [`crate::http_port`].
pub fn router(service: Arc<Service>, limits: Arc<Limits>) -> Router {
    let shared = Shared { service, limits };
    let add = |router: Router<Shared>, Endpoint { path, access, answer }: Endpoint| {
        let gate = Gate { shared: shared.clone(), path, access };
        router.route(path, answer().route_layer(middleware::from_fn_with_state(gate, admit)))
    };
    ENDPOINTS.into_iter().fold(Router::new(), add).with_state(shared)
}

/// What stands before an endpoint.
#[derive(Clone)]
struct Gate {
    shared: Shared,
    path: &'static str,
    access: Access,
}

/// What was shown by one who is admitted: the token, and what it opens if the request names a shard. `None` where none is needed.
#[derive(Debug, Clone, Default)]
struct Admitted {
    token: Option<TokenDigest>,
    pass: Option<Pass>,
}

/// Lets a request through if its token may do what it asks for, on the shard that it names if it does.
async fn admit(
    State(gate): State<Gate>,
    Extension(visitor): Extension<Arc<Visitor>>,
    parameters: RawPathParams,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let Gate { shared: Shared { service, limits }, path, access } = gate;
    let mut admitted = Admitted::default();
    if let (Access::Needs(role), Some(watch), Some(tokens)) = (access, service.watch_tokens(), service.tokens()) {
        let token = bearer(request.headers());
        let shard = parameters.iter().find(|(name, _)| *name == "shard").map(|(_, shard)| shard.to_owned());
        let credential = credential(shard.as_deref().unwrap_or_default(), token);
        if let Err(wait) = service.guesses().may_try(visitor.network(), &credential) {
            return Err(refuse_token(&limits, too_many_guesses(wait)).await);
        }
        let digest = tokens.digest(token);
        let pass = shard.as_deref().and_then(|shard| Pass::new(watch, Some(shard), token));
        let roles = match &shard {
            Some(shard) => pass.as_ref().map_or(Roles::default(), |pass| pass.roles(shard)),
            None => tokens.roles_for_any(&digest),
        };
        service.guesses().note(visitor.network(), &credential, !roles.is_empty());
        if roles.is_empty() {
            let refusal = Refusal::new(Code::NoAuth, "send the shard's token as Authorization: Bearer");
            return Err(refuse_token(&limits, refusal).await);
        }
        if !roles.allow(role) {
            let what = format!("{} {path}", request.method());
            return Err(commands::no_permission(&what, role, roles).into());
        }
        admitted = Admitted { token: Some(digest), pass };
    }
    request.extensions_mut().insert(admitted);
    Ok(next.run(request).await)
}

/// Why a request is not done, as an HTTP answer.
enum Refused {
    Refusal(Refusal),
    TooMany,
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
            Code::Fenced | Code::Gap | Code::OtherLog | Code::Leased | Code::OldEngine => StatusCode::CONFLICT,
            Code::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Code::LogFailed | Code::NoMasterLink => StatusCode::SERVICE_UNAVAILABLE,
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

/// Whoever tries tokens has to wait for each answer.
async fn refuse_token(limits: &Limits, refusal: Refusal) -> Refused {
    tokio::time::sleep(limits.patience.failed_login_delay).await;
    refusal.into()
}

/// `GET /shards`: the status of every shard that the token may observe.
async fn shards(
    State(Shared { service, .. }): State<Shared>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Extension(admitted): Extension<Admitted>,
) -> Result<Response, Refused> {
    let _place = visitor.ask()?;
    let shown_to = service.tokens().zip(admitted.token);
    let may_see =
        |shard: &str| shown_to.as_ref().is_none_or(|(tokens, token)| tokens.roles(shard, token).allow(Role::Observe));
    let statuses = service.statuses(may_see);
    Ok(match serde_json::to_vec(&statuses) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

/// Where a seed stands.
#[derive(Debug, Deserialize)]
struct Seed {
    epoch: u64,
    offset: u64,
    replid: String,
    /// The id of the log that it is meant for; none if any will do.
    log: Option<String>,
}

/// `PUT /shards/{shard}/snapshot?epoch=E&offset=N&replid=R[&log=ID]`: the leader's whole data set as an RDB.
async fn put_snapshot(
    State(shared): State<Shared>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Path(name): Path<String>,
    Query(seed): Query<Seed>,
    Extension(Admitted { mut pass, .. }): Extension<Admitted>,
    body: Body,
) -> Result<&'static str, Refused> {
    let Shared { service, limits } = shared;
    if !is_valid_replid(&seed.replid) {
        return Err(Refusal::new(Code::Err, "replid must have 40 lower-case hexadecimal digits").into());
    }
    if i64::try_from(seed.offset).is_err() {
        return Err(Refusal::new(Code::Err, "offset out of range").into());
    }
    let shard = service.shard(&name).await?;
    if let Some(log) = &seed.log {
        shard.judge_known(&Known::new(log.as_str()))?;
    }
    shard.check_seed(seed.epoch, &seed.replid, seed.offset)?;
    let mut place = visitor.upload(&name)?;
    let draft = tokio::select! {
        draft = receive(shard.clone(), &seed, body, &limits.patience) => draft?,
        () = place.displaced() => return Err(Refused::Displaced),
        refusal = shard.notifier().dropped() => return Err(refusal.into()),
        () = withdrawn(&mut pass) => return Err(pass::withdrawn().into()),
    };
    // In a task of its own: a client that goes away now must not leave it half done.
    let installed = tokio::spawn(async move {
        let installed = shard.install_seed(seed.epoch, &seed.replid, draft).await;
        // Not waited for: an object store may be slow, and the leader's clients wait for the seed.
        tokio::spawn(async move { shard.remove_all_other_snapshots().await });
        installed
    })
    .await;
    installed.map_err(|error| Refusal::new(Code::LogFailed, error.to_string()))??;
    Ok("ok\n")
}

/// Waits until the token is there no more, or has another role; for ever where none is needed.
async fn withdrawn(pass: &mut Option<Pass>) {
    match pass {
        Some(pass) => pass.withdrawn().await,
        None => std::future::pending().await,
    }
}

/// Whether what is waited for comes fast enough. Time in which nobody waits for it does not count.
struct Pace {
    least_bytes: u64,
    within: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(patience: &Patience) -> Self {
        Pace { least_bytes: patience.upload_bytes, within: patience.http_stalled, waited: Duration::ZERO, bytes: 0 }
    }

    /// After `waited` came `bytes`. Answers whether that will do.
    fn note(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.within {
            return true;
        }
        let is_enough = self.bytes >= self.least_bytes;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_enough
    }

    fn least(&self) -> String {
        format!("{} bytes came in {} s", self.least_bytes, self.within.as_secs_f32())
    }
}

/// Streams a body into a snapshot. When it breaks off, stands still or drips, what was written is removed.
async fn receive(shard: Arc<Shard>, seed: &Seed, body: Body, patience: &Patience) -> Result<Draft, Refused> {
    let (chunks, mut incoming) = mpsc::channel::<Bytes>(CHUNKS_IN_FLIGHT);
    let offset = seed.offset;
    let writing = tokio::task::spawn_blocking(move || {
        let mut draft = shard.snapshots().draft(&shard.store().manifest(), offset)?;
        while let Some(chunk) = incoming.blocking_recv() {
            draft.write(&chunk)?;
        }
        draft.finish()?;
        Ok::<_, SnapshotError>(draft)
    });
    let mut body = body.into_data_stream();
    let mut bytes: u64 = 0;
    let mut broken = None;
    let mut pace = Pace::new(patience);
    loop {
        let waiting = Instant::now();
        let Ok(chunk) = tokio::time::timeout(patience.http_stalled, body.next()).await else {
            let seconds = patience.http_stalled.as_secs_f32();
            broken = Some(format!("the upload stood still for {seconds} s after {bytes} bytes"));
            break;
        };
        let Some(chunk) = chunk else { break };
        let came = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if !pace.note(waiting.elapsed(), came) {
            broken = Some(format!("the upload is too slow: after {bytes} bytes less than {}", pace.least()));
            break;
        }
        match chunk {
            Ok(chunk) => {
                bytes += chunk.len() as u64;
                if chunks.send(chunk).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                broken = Some(format!("the upload broke off after {bytes} bytes: {error}"));
                break;
            }
        }
    }
    drop(chunks);
    let written = writing.await.map_err(|error| Refusal::new(Code::Err, error.to_string()))?;
    if bytes == 0 {
        broken.get_or_insert_with(|| "the body is empty".to_owned());
    }
    match (written, broken) {
        (Ok(draft), None) => Ok(draft),
        (Ok(_), Some(reason)) => Err(Refusal::new(Code::Err, reason).into()),
        (Err(error), _) if error.is_no_space() => Err(Refusal::new(Code::NoSpace, error.to_string()).into()),
        (Err(error), _) => Err(Refusal::new(Code::Err, error.to_string()).into()),
    }
}
