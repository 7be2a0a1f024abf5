//! The routes, the same over TCP and the unix socket.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::Router;
use axum::extract::State as Of;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;

use super::prometheus;
use super::state::{SCHEMA_VERSION, State};

type Shared = Arc<Mutex<State>>;

/// What can be asked for.
const ROUTES: [&str; 7] =
    ["/metrics", "/health", "/ready", "/shards", "/sessions", "/streams", "/producers"];

pub(super) fn app(state: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/shards", get(async |Of(state): Of<Shared>| Json(with(&state, State::shards))))
        .route("/sessions", get(async |Of(state): Of<Shared>| Json(with(&state, State::sessions))))
        .route("/streams", get(async |Of(state): Of<Shared>| Json(with(&state, State::streams))))
        .route(
            "/producers",
            get(async |Of(state): Of<Shared>| Json(with(&state, State::producers))),
        )
        .fallback(nothing)
        .with_state(state)
}

fn with<T>(state: &Shared, read: impl FnOnce(&State) -> T) -> T {
    read(&state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// OpenMetrics for whoever asks for it, as Prometheus does, and its older sister for everybody else.
async fn metrics(Of(state): Of<Shared>, headers: HeaderMap) -> impl IntoResponse {
    const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
    let accepts = headers.get_all(header::ACCEPT);
    let open = accepts.iter().any(|value| {
        value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text"))
    });
    let text = prometheus::text(&state);
    let (kind, text) = if open { (OPEN, text) } else { (CLASSIC, prometheus::classic(&text)) };
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn nothing() -> impl IntoResponse {
    let body =
        json!({ "schema_version": SCHEMA_VERSION, "error": "no such route", "routes": ROUTES });
    (StatusCode::NOT_FOUND, Json(body))
}

async fn health(Of(state): Of<Shared>) -> impl IntoResponse {
    answer(&with(&state, State::unhealthy), "healthy")
}

async fn ready(Of(state): Of<Shared>) -> impl IntoResponse {
    answer(&with(&state, State::not_ready), "ready")
}

fn answer(reasons: &[String], word: &str) -> impl IntoResponse + use<> {
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "schema_version": SCHEMA_VERSION,
        word: reasons.is_empty(),
        "reasons": reasons,
    });
    (status, Json(body))
}
