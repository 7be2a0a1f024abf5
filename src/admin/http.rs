//! The routes, the same over TCP and the unix socket.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::Router;
use axum::extract::State as Of;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;

use super::prometheus;
use super::state::{SCHEMA_VERSION, State};

type Shared = Arc<Mutex<State>>;

pub(super) fn app(state: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/shards", get(async |Of(state): Of<Shared>| Json(with(&state, State::shards))))
        .route("/sessions", get(async |Of(state): Of<Shared>| Json(with(&state, State::sessions))))
        .route("/streams", get(async |Of(state): Of<Shared>| Json(with(&state, State::streams))))
        .with_state(state)
}

fn with<T>(state: &Shared, read: impl FnOnce(&State) -> T) -> T {
    read(&state.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn metrics(Of(state): Of<Shared>) -> impl IntoResponse {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], prometheus::text(&state))
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
