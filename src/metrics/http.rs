//! Answers who asks for metrics. Nothing that a client does may harm the daemon: their number, and the time that
//! each may take, are bounded.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

/// No more clients at a time; others wait.
const CLIENTS: usize = 8;

/// A client that takes longer is cut off.
const TIME: Duration = Duration::from_secs(30);

/// And one that takes longer to say what it wants.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// As Prometheus wants it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Takes the address. To be called before the daemon gives up its rights.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What answers.
#[derive(Clone)]
pub struct Exporter {
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    room: Arc<Semaphore>,
}

impl Exporter {
    /// Answers with these metrics, which are asked for outside the event loop.
    pub fn new(metrics: impl Fn() -> String + Send + Sync + 'static) -> Exporter {
        Exporter { metrics: Arc::new(metrics), room: Arc::new(Semaphore::new(CLIENTS)) }
    }

    /// Answers for ever; to be run in a tokio runtime with time and I/O.
    pub async fn serve(self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("no metrics: {error}"),
        };
        loop {
            // It is never closed.
            let Ok(place) = self.room.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: it must neither end nor spin.
                    tracing::warn!("can't accept a client for metrics: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let exporter = self.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| exporter.answer(request));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIME)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                match tokio::time::timeout(TIME, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!("a client for metrics was cut off: {error}"),
                    Err(_) => tracing::debug!("a client for metrics was cut off: too slow"),
                }
                drop(place);
            });
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, text) = if !matches!(*request.method(), Method::GET | Method::HEAD) {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
        } else {
            match request.uri().path() {
                "/metrics" => {
                    let metrics = self.metrics.clone();
                    match tokio::task::spawn_blocking(move || metrics()).await {
                        Ok(text) => (StatusCode::OK, text),
                        // A panic, which is in the log.
                        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "see the log\n".to_owned()),
                    }
                }
                "/" => (StatusCode::OK, "cachefs: the metrics are at /metrics\n".to_owned()),
                _ => (StatusCode::NOT_FOUND, "the metrics are at /metrics\n".to_owned()),
            }
        };
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TEXT));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            answer.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        }
        Ok(answer)
    }
}
