//! `cachefs report`: the page says what the daemon says, shows it at any size, asks nothing of the network, and
//! no name that a file can have gets out of its place in it.

mod common;
#[path = "pruning/ground.rs"]
#[allow(dead_code, reason = "the tests of pruning use more of it")]
mod ground;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use common::{Finished, Mount, Run, ends_with_its_starter, needs, needs_root};
use serde_json::Value;

/// As wide as a telephone, a laptop and a large screen.
const SIZES: [(u32, u32); 3] = [(400, 900), (1280, 900), (2560, 1440)];

/// What a person may be led astray by, or a page.
const HOSTILE: [&[u8]; 8] = [
    b"</script><script>document.title='out'<%2fscript>",
    b"\"><img src=x onerror=\"document.title='out'\">",
    b"' onmouseover='document.title=1' x='",
    b"<!--<script>",
    b"{{script}}${1}\\u003c&lt;",
    b"not \xff\xfe utf-8",
    b"two\nlines\x1b[31m\x7f",
    "from \u{202e}right to left\u{2028}".as_bytes(),
];

/// Tells of a page, as an HTML parser that is not a browser's has it.
const PARSE: &str = r#"
import html.parser, json, sys
VOID = {"meta", "input", "img", "link", "br"}
class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.data, self.text, self.addresses, self.handlers, self.scripts = [], "", "", [], [], 0
    def handle_starttag(self, tag, attributes):
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))
    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()
    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, (tag, self.getpos())
    def handle_data(self, text):
        if self.open and self.open[-1] == ("script", "data"):
            self.data += text
        elif not self.open or self.open[-1][0] not in ("script", "style"):
            self.text += text
page = Page()
page.feed(open(sys.argv[1], encoding="utf-8", newline="").read())
page.close()
assert page.open == [], page.open
json.dump({"data": json.loads(page.data), "text": page.text, "addresses": page.addresses,
           "handlers": page.handlers, "scripts": page.scripts}, sys.stdout)
"#;

/// Looks at the page when it has been drawn, and says what is wrong with it.
const LOOK: &str = r#"<script>
addEventListener("load", () => {
  const wrong = [];
  const page = document.documentElement;
  if (page.scrollWidth > innerWidth) wrong.push(`it is ${page.scrollWidth} wide on ${innerWidth}`);
  const tiles = [...document.querySelectorAll(".tile")];
  const boxes = tiles.map((tile) => tile.getBoundingClientRect());
  const map = document.getElementById("map").getBoundingClientRect();
  boxes.forEach((box, at) => {
    const name = tiles[at].getAttribute("aria-label");
    if (box.right > map.right + 1 || box.bottom > map.bottom + 1) wrong.push(`${name} is not in the map`);
    if (boxes.some((other, number) => number > at && box.left + 1 < other.right && other.left + 1 < box.right
        && box.top + 1 < other.bottom && other.top + 1 < box.bottom)) wrong.push(`${name} is below another`);
    const inner = tiles[at].querySelector(".inner");
    if (inner && inner.getBoundingClientRect().bottom > box.bottom + 1) wrong.push(`${name} is cut`);
  });
  const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  if (tiles.length > 1) {
    document.querySelector(".tile[tabindex='0']").focus();
    const seen = new Set();
    for (const name of ["ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"]) {
      key(name);
      seen.add(document.activeElement);
    }
    if (seen.size < 2) wrong.push("arrow keys lead nowhere");
    if (!document.getElementById("said").textContent.includes("last used")) wrong.push("nothing is said");
  }
  const slider = document.getElementById("to");
  const at = (value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    const going = document.querySelectorAll(".going").length;
    return [going, document.getElementById("takes").textContent, document.getElementById("command").textContent];
  };
  const said = [0, 50, 100].map(at);
  parent.postMessage(JSON.stringify({ wrong, width: innerWidth, tiles: tiles.length, said }), "*");
});
</script>"#;

/// A job that uses a mount, until it is dropped.
struct Job(Child);

impl Job {
    fn start(mount: &Mount, words: &[&str]) -> Job {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        ends_with_its_starter(&mut command, libc::SIGKILL);
        let job = Job(command.spawn().unwrap());
        ground::wait_until(mount, "used", || mount.status()["handles"] != 0);
        job
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn report(mount: &Mount, file: &Path) -> Finished {
    mount.cachefs(["report"]).arg(file).arg(mount.path()).succeeds()
}

fn parsed(page: &Path) -> Value {
    let said = Run::new("/usr/bin/python3").args(["-c", PARSE]).arg(page).succeeds();
    serde_json::from_str(&said.stdout).unwrap()
}

/// Opens a page in a browser that has no network, in a window of that size; what the page was then.
fn opened(page: &Path, (width, height): (u32, u32), words: &[&str]) -> Finished {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("requests");
    let run = Run::new("unshare").args(["--net"]).arg(needs("chromium"));
    let run = run
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--hide-scrollbars", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
        .arg(format!("--log-net-log={}", log.display()))
        .arg(format!("--window-size={width},{height}"))
        .args(words)
        .arg(format!("file://{}", page.display()));
    let said = run.env("HOME", home.path()).timeout(Duration::from_secs(60)).succeeds();
    // What a page does wrong, or was kept from doing; the browser has pages of its own.
    let complaints = said.stderr.lines().filter(|line| line.contains("CONSOLE"));
    let complaints: Vec<&str> =
        complaints.filter(|line| !line.contains("source: chrome:")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    assert!(log.contains("constants"), "no log of requests: {log}");
    let asked = log
        .lines()
        .find(|line| line.contains("\"url\":\"http") && line.contains("initiator\":\"file"));
    assert_eq!(asked, None, "the page asked for something");
    said
}

/// What [`LOOK`] found, in a frame of that size: a window can't be as narrow as a telephone.
fn looked_at(page: &Path, (width, height): (u32, u32)) -> Value {
    let text = fs::read_to_string(page).unwrap();
    let copy = page.with_extension("looked.html");
    fs::write(&copy, text.replace("</body>", &format!("{LOOK}</body>"))).unwrap();
    let frame = page.with_extension("frame.html");
    let name = copy.file_name().unwrap().to_str().unwrap();
    let text = format!(
        "<script>onmessage = (event) => {{ document.body.dataset.look = event.data; }};</script>\
         <iframe src=\"{name}\" style=\"border:0;width:{width}px;height:{height}px\"></iframe>"
    );
    fs::write(&frame, text).unwrap();
    let said = opened(&frame, (width + 100, height + 200), &["--dump-dom"]);
    let (_, after) = said.stdout.split_once("data-look=\"").unwrap_or_else(|| panic!("{said}"));
    let (found, _) = after.split_once('"').unwrap();
    let found = found.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    serde_json::from_str(&found.replace("&amp;", "&")).unwrap_or_else(|e| panic!("{e}: {found}"))
}

/// The page looks as it should at each size, and is told by a prune what it shows.
#[track_caller]
fn looks_good(page: &Path) -> Value {
    let mut last = Value::Null;
    for size in SIZES {
        let found = looked_at(page, size);
        assert_eq!(found["wrong"], serde_json::json!([]), "{size:?}: {found:#}");
        assert_eq!(found["width"], size.0);
        last = found;
    }
    last
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let page = place.path().join("report.html");
    (place, page)
}

#[test]
fn a_page_tells_of_ten_units() {
    needs_root();
    let mount = Mount::new();
    for number in 0..10 {
        ground::unit(mount.store(), &format!("unit{number}"), number * 24 * 13);
    }
    ground::read(&mount, &ground::path("unit9"));
    let script = "cd \"$0/pip\"; exec 3<http-v2/a/b/c/d/e/unit8; exec sleep 1000";
    let job = Job::start(&mount, &["sh", "-c", script, mount.path().to_str().unwrap()]);
    let (_place, page) = directory();
    report(&mount, &page).says("10 units");
    let told = parsed(&page);
    let text = told["text"].as_str().unwrap();
    // What is no script's is there without one.
    for words in ["In good health", "http-v2/a/b/c/d/e/unit3", "passthrough", "sleep 1000"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let tool = &told["data"]["tools"][0];
    assert_eq!((&tool["name"], &tool["units"]), (&"pip".into(), &"10".into()));
    assert_eq!(tool["tiles"].as_array().unwrap().len(), 10);
    // Each step takes what a prune to that size would.
    let steps = told["data"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 101);
    for step in [1, 30, 50, 77, 100] {
        let (step, word) = (&steps[step], steps[step]["word"].as_str().unwrap());
        let dry = ground::prune(&mount, &["--dry-run", "--max-size", word]);
        assert_eq!(dry["units"].as_array().unwrap().len() as u64, step["units"], "{word}: {dry:#}");
        let frees = dry["freed_now"].as_u64().unwrap() + dry["freed_later"].as_u64().unwrap();
        assert_eq!(step["bytes"], frees, "{word}");
    }
    let found = looks_good(&page);
    assert_eq!(found["tiles"], 10);
    assert_eq!(found["said"][0][1], "Nothing would go.");
    assert_eq!(found["said"][2][0], 10);
    assert!(found["said"][1][2].as_str().unwrap().starts_with("cachefs prune --max-size "));
    drop(job);
}

#[test]
fn a_page_of_twenty_thousand_units_is_small() {
    needs_root();
    let mount = Mount::new();
    let at = mount.store().join("pip/http-v2/a/b/c/d/e");
    fs::create_dir_all(&at).unwrap();
    let old = SystemTime::now() - Duration::from_secs(100 * 24 * 3600);
    for number in 0..20_000_u64 {
        // Some are large, without being written.
        let file = fs::File::create(at.join(format!("unit{number:05}"))).unwrap();
        let size = if number.is_multiple_of(50) { (number + 1) << 5 } else { 100 + number % 90 };
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).unwrap();
        if number.is_multiple_of(3) {
            file.set_times(fs::FileTimes::new().set_accessed(old)).unwrap();
        }
    }
    let (_place, page) = directory();
    report(&mount, &page).says("20000 units");
    let length = fs::metadata(&page).unwrap().len();
    assert!(length < 250_000, "{length} bytes");
    let told = parsed(&page);
    let tool = &told["data"]["tools"][0];
    assert_eq!(tool["units"], "20,000");
    let others = &tool["others"];
    assert_eq!(others["name"], "19,640 smaller ones");
    let tiles = tool["tiles"].as_array().unwrap();
    let shown: u64 = tiles.iter().map(|tile| tile["bytes"].as_u64().unwrap()).sum();
    assert_eq!(shown + others["bytes"].as_u64().unwrap(), tool["bytes"].as_u64().unwrap());
    let step = &told["data"]["steps"][40];
    let dry = ground::prune(&mount, &["--dry-run", "--max-size", step["word"].as_str().unwrap()]);
    assert_eq!(dry["units"].as_array().unwrap().len() as u64, step["units"]);
    let found = looks_good(&page);
    assert_eq!(found["tiles"], 361);
}

#[test]
fn names_stay_names() {
    needs_root();
    let mount = Mount::builder().options(["--layout", "generic:1"]).mount();
    for name in HOSTILE {
        let name: Vec<u8> =
            name.iter().map(|&byte| if byte == b'/' { b'|' } else { byte }).collect();
        fs::create_dir(mount.store().join(OsStr::from_bytes(&name))).unwrap();
        fs::write(mount.store().join(OsStr::from_bytes(&name)).join("file"), [1; 20_000]).unwrap();
    }
    // So that the end of a tag can be in a name: the path has a slash.
    let odd = mount.store().join("<");
    fs::create_dir_all(odd.join("script>")).unwrap();
    // And one who uses it is called so.
    let named = mount.beside("programs").join("<img src=x>");
    common::copy_program(&needs("sleep"), &named);
    let script = "exec 3<\"$0\"; exec \"$1\" 1000";
    let first = mount.path().join("<!--<script>").join("file");
    let job = Job::start(&mount, &["sh", "-c", script, path(&first), path(&named)]);
    let (_place, page) = directory();
    report(&mount, &page);
    let told = parsed(&page);
    assert_eq!(told["addresses"], serde_json::json!([]));
    assert_eq!(told["handlers"], serde_json::json!([]));
    assert_eq!(told["scripts"], 2);
    let tiles = told["data"]["tools"][0]["tiles"].as_array().unwrap();
    let names: Vec<&str> = tiles.iter().map(|tile| tile["name"].as_str().unwrap()).collect();
    assert!(names.len() > HOSTILE.len() && names.contains(&"<!--<script>"), "{names:?}");
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("<!--<script>") && text.contains("two\u{fffd}lines"), "{text}");
    assert!(text.contains("not \u{fffd}") && text.contains("{{script}}${1}"), "{text}");
    let found = looks_good(&page);
    assert_eq!(found["tiles"].as_u64().unwrap() as usize, names.len());
    let said = opened(&page, SIZES[1], &["--dump-dom"]);
    said.says("- cachefs report</title>").does_not_say("<img ");
    drop(job);
}

#[test]
fn an_empty_store_has_a_page_too() {
    needs_root();
    let mount = Mount::new();
    let (place, page) = directory();
    report(&mount, &page).says("0 units");
    looks_good(&page);
    opened(&page, SIZES[1], &["--dump-dom"]).says("Nothing yet.");
    let picture = |name: &str, words: &[&str]| {
        let picture = place.path().join(name);
        let shot = format!("--screenshot={}", picture.display());
        opened(&page, SIZES[0], &[&[shot.as_str()], words].concat());
        fs::read(picture).unwrap()
    };
    let dark = picture("dark.png", &["--blink-settings=preferredColorScheme=0"]);
    assert!(dark != picture("light.png", &[]), "it is as light where people like it dark");
}

/// What was asked is taken down once a minute, so that this takes as long.
#[test]
fn hits_over_time_are_those_that_there_were() {
    needs_root();
    let mount = Mount::new();
    for number in 0..7 {
        ground::unit(mount.store(), &format!("unit{number}"), 1);
        ground::read(&mount, &ground::path(&format!("unit{number}")));
    }
    for number in 0..3 {
        Run::new("cat").arg(mount.path().join(format!("absent{number}"))).exits_with(1);
    }
    let (_place, page) = directory();
    report(&mount, &page);
    let told = parsed(&page);
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("A hit is a file that was opened and was there"), "{text}");
    let since = mount.status()["since"].as_str().unwrap()[..19].replace('T', " ");
    assert!(text.contains(&format!("All counts began with the mount, {since} UTC.")), "{text}");

    let chart = || {
        report(&mount, &page);
        let text = fs::read_to_string(&page).unwrap();
        let (_, after) = text.split_once("aria-label=\"Hits and misses over time, from ")?;
        Some((after.split_once('"').unwrap().0.to_owned(), text))
    };
    let begun = Instant::now();
    let (said, text) = loop {
        if let Some(found) = chart() {
            break found;
        }
        assert!(begun.elapsed() < Duration::from_secs(100), "nothing was taken down");
        sleep(Duration::from_secs(1));
    };
    let status = mount.status();
    let (hits, misses) = (status["hits"].as_u64().unwrap(), status["misses"].as_u64().unwrap());
    assert!(hits == 7 && misses >= 3, "{hits} hits, {misses} misses");
    assert!(said.ends_with(&format!(" to now: {hits} hits, {misses} misses")), "{said}");
    // As a table, too, and on every screen.
    let (_, table) = text.split_once("The same as a table").unwrap();
    let (table, _) = table.split_once("</table>").unwrap();
    assert!(table.contains("<td class=\"n\">7</td>"), "{table}");
    looks_good(&page);
}

#[test]
fn pages_are_for_whoever_asked() {
    needs_root();
    let mount = Mount::new();
    ground::unit(mount.store(), "a", 1);
    let (place, page) = directory();
    fs::write(&page, "before").unwrap();
    fs::set_permissions(&page, fs::Permissions::from_mode(0o644)).unwrap();
    report(&mount, &page);
    let mode = fs::metadata(&page).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nothing of what it took to write it is left.
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    // In the mount itself, by a name alone.
    let run = mount.cachefs(["report", "report.html"]).arg(mount.path()).directory(mount.path());
    run.succeeds();
    assert!(fs::read_to_string(mount.store().join("report.html")).unwrap().contains("</html>"));

    let refused = |file: &Path| mount.cachefs(["report"]).arg(file).arg(mount.path()).exits_with(1);
    std::os::unix::fs::symlink(&page, place.path().join("link")).unwrap();
    for file in [place.path(), &place.path().join("link"), Path::new("/dev/null")] {
        refused(file).says("is no regular file");
    }
    refused(&place.path().join("absent/report.html")).says("can't write").says("name another");
    // Names are nobody else's business.
    let other = mount.beside("other");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o777)).unwrap();
    let program = other.join("cachefs");
    fs::copy(common::binary(), &program).unwrap();
    let run = Run::new(program).arg("report").arg(other.join("page.html")).arg(mount.path());
    run.user(1000).exits_with(1).says("not permitted for user 1000");
    assert!(!other.join("page.html").exists());
}
