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
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    downloads: AtomicUsize,
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
        let counts = Arc::new(Counts::default());
        let over = Arc::new(AtomicBool::new(false));
        let (counter, stop) = (Arc::clone(&counts), Arc::clone(&over));
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
        Self { address, counts, over, thread: Some(thread) }
    }

    /// What `--index-url` wants.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/simple", self.address)
    }

    /// How many requests of all kinds have come so far.
    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many times a package has been asked for so far.
    pub(crate) fn downloads(&self) -> usize {
        self.counts.downloads.load(Ordering::SeqCst)
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

fn serve(stream: TcpStream, wheelhouse: &Path, counts: &Counts) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(request) = lines.next().transpose()? else { return Ok(()) };
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    counts.requests.fetch_add(1, Ordering::SeqCst);
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let answer = match path.trim_matches('/').split_once('/') {
        Some(("simple", project)) => page(wheelhouse, project).map(|page| ("text/html", page)),
        Some(("files", file)) if !file.contains('/') => {
            counts.downloads.fetch_add(1, Ordering::SeqCst);
            fs::read(wheelhouse.join(file)).ok().map(|bytes| ("application/octet-stream", bytes))
        }
        _ => None,
    };
    let (status, (kind, body)) =
        answer.map_or(("404 Not Found", ("text/plain", Vec::new())), |answer| ("200 OK", answer));
    let mut stream = stream;
    // Fresh for decades, by a date that is the same in every run: what tools keep of it can be compared.
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Date: Wed, 01 Jan 2025 00:00:00 GMT\r\nETag: \"{path}\"\r\n\
         Cache-Control: max-age=2000000000\r\nConnection: close\r\n\r\n",
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
