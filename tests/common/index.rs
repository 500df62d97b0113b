//! A package index on this machine's loopback, that counts what is asked of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::tools_directory;

/// Serves the wheelhouse that `tests/setup` fetched, until it is dropped.
pub(crate) struct Index {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where `tests/setup` put the packages that tests install.
#[track_caller]
pub(crate) fn wheelhouse() -> PathBuf {
    let path = tools_directory().join("wheelhouse");
    assert!(path.is_dir(), "this test needs {}: run tests/setup", path.display());
    path
}

impl Index {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let wheelhouse = wheelhouse();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (counter, stop) = (Arc::clone(&requests), Arc::clone(&over));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (counter, wheelhouse) = (Arc::clone(&counter), wheelhouse.clone());
                // A client that goes away in the middle of an answer has what it wanted.
                thread::spawn(move || {
                    stream.and_then(|stream| serve(stream, &wheelhouse, &counter))
                });
            }
        });
        Self { address, requests, over, thread: Some(thread) }
    }

    /// What `--index-url` wants.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/simple", self.address)
    }

    /// How many requests have come so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread, so that it sees that it's over.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(stream: TcpStream, wheelhouse: &Path, counter: &AtomicUsize) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(request) = lines.next().transpose()? else { return Ok(()) };
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    counter.fetch_add(1, Ordering::SeqCst);
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let answer = match path.trim_matches('/').split_once('/') {
        Some(("simple", project)) => page(wheelhouse, project).map(|page| ("text/html", page)),
        Some(("files", file)) if !file.contains('/') => {
            fs::read(wheelhouse.join(file)).ok().map(|bytes| ("application/octet-stream", bytes))
        }
        _ => None,
    };
    let (status, (kind, body)) =
        answer.map_or(("404 Not Found", ("text/plain", Vec::new())), |answer| ("200 OK", answer));
    let mut stream = stream;
    // No date and no length of life that could tell one run's cache from another's.
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nETag: \"{path}\"\r\n\
         Cache-Control: max-age=31536000\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
}

/// The list of a project's files.
fn page(wheelhouse: &Path, project: &str) -> Option<Vec<u8>> {
    let normal = |name: &str| name.replace(['_', '.'], "-").to_lowercase();
    let files: BTreeSet<String> = fs::read_dir(wheelhouse)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|file| file.split_once('-').is_some_and(|(name, _)| normal(name) == project))
        .collect();
    let links = files.iter().map(|file| format!("<a href=\"/files/{file}\">{file}</a>\n"));
    (!files.is_empty()).then(|| links.collect::<String>().into_bytes())
}
