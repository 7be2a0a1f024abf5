//! The HTTP server: one request a connection, few connections at once, none for long.
//!
//! It answers probes and scrapers, so it needs no more; and whoever floods it or says nothing takes a place
//! for some seconds only, and neither memory nor file descriptors without bound.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections of a listener at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// A client has asked by then, or is let go: a probe or a scraper knows what it wants.
const ASK_TIME: Duration = Duration::from_secs(1);

/// A client has the answer by then, or is let go.
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// Where nothing can be accepted for now (no file descriptor is left), until the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What connections come from.
pub(super) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn accept(&self) -> io::Result<Self::Stream>;
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves `app` for ever.
pub(super) async fn serve(listener: impl Accept, app: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(_) => {
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(ASK_TIME)
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // A client that went away or spoke nonsense is its own business.
            let _ = timeout(CONNECTION_TIME, connection).await;
            drop(place);
        });
    }
}
