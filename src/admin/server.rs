//! The HTTP server: one request a connection, few connections at once, none for long.
//!
//! It answers probes and scrapers, so it needs no more; and whoever floods it or says nothing takes a place
//! only until somebody else wants it, and neither memory nor file descriptors without bound.

use std::collections::VecDeque;

use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// A client has asked by then, or is let go: a probe or a scraper knows what it wants.
const ASK_TIME: Duration = Duration::from_secs(1);

/// A client has the answer by then, or is let go.
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// Where nothing can be accepted for now (no file descriptor is left), until the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

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

/// A connection that is open, or was.
struct Open {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

/// Connections in the order they came.
#[derive(Default)]
struct Places(VecDeque<Open>);

impl Places {
    /// Makes room for one: the oldest that has not asked goes, or else the oldest.
    fn make_room(&mut self) {
        self.0.retain(|open| !open.task.is_finished());
        while self.0.len() >= HTTP_CONNECTIONS_MAX {
            // Only a flag: it orders nothing else.
            let is_silent = |open: &Open| !open.has_asked.load(Ordering::Relaxed);
            let place = self.0.iter().position(is_silent).unwrap_or(0);
            if let Some(open) = self.0.remove(place) {
                open.task.abort();
            }
        }
    }
}

/// Serves `app` for ever.
pub(super) async fn serve(listener: impl Accept, app: Router) {
    let mut places = Places::default();
    loop {
        let Ok(stream) = listener.accept().await else {
            // A place given up is a descriptor that is free again.
            places.make_room();
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        places.make_room();
        let has_asked = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(answer(stream, app.clone(), Arc::clone(&has_asked)));
        places.0.push_back(Open { task: task.abort_handle(), has_asked });
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: Router,
    has_asked: Arc<AtomicBool>,
) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_TIME)
        .keep_alive(false)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away or spoke nonsense is its own business.
    let _ = timeout(CONNECTION_TIME, connection).await;
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn who_comes_last_takes_the_place_of_the_oldest_that_said_nothing_or_of_the_oldest() {
        runtime().block_on(async {
            let mut places = Places::default();
            let open = |has_asked| {
                let has_asked = Arc::new(AtomicBool::new(has_asked));
                Open { task: tokio::spawn(pending::<()>()).abort_handle(), has_asked }
            };
            (1..HTTP_CONNECTIONS_MAX).for_each(|number| places.0.push_back(open(number != 7)));
            let (oldest, silent) = (places.0[0].task.clone(), places.0[6].task.clone());
            places.make_room();
            assert_eq!(places.0.len(), HTTP_CONNECTIONS_MAX - 1, "there is room");
            for gone in [silent, oldest] {
                places.0.push_back(open(true));
                assert!(!gone.is_finished());
                places.make_room();
                for _ in 0..HTTP_CONNECTIONS_MAX {
                    tokio::task::yield_now().await;
                }
                assert_eq!((places.0.len(), gone.is_finished()), (HTTP_CONNECTIONS_MAX - 1, true));
            }
        });
    }

    #[test]
    fn a_head_that_is_longer_than_it_may_be_is_refused() {
        for (bytes, status) in [(HTTP_HEAD_BYTES_MAX, "404"), (HTTP_HEAD_BYTES_MAX + 1, "431")] {
            let answered = runtime().block_on(async {
                let (mut client, server) = UnixStream::pair().expect("a pair");
                server.set_nonblocking(true).expect("set");
                let (begin, end) = ("GET / HTTP/1.1\r\nhost: x\r\nfill: ", "\r\n\r\n");
                let fill = "x".repeat(bytes - begin.len() - end.len());
                client
                    .write_all(format!("{begin}{fill}{end}").as_bytes())
                    .expect("it fits the socket");
                let server = tokio::net::UnixStream::from_std(server).expect("registered");
                answer(server, Router::new(), Arc::default()).await;
                let mut text = String::new();
                // What of the head was not read resets the connection, behind the answer.
                let _ = client.read_to_string(&mut text);
                text
            });
            assert_eq!(answered.split(' ').nth(1), Some(status), "{bytes} bytes: {answered}");
        }
    }
}
