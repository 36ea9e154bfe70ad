//! A real `pserve` on a free port in a folder of its own, stopped and removed on drop; and a client that sends bytes
//! as they are, so that malformed requests can be sent too.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before a test gives up. Long, since machines are slow at times: no test waits for it
/// when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct TestServer {
    dir: TempDir,
    child: Child,
    address: SocketAddr,
    log: Arc<Log>,
}

/// What the server has written to standard output and standard error.
#[derive(Default)]
pub struct Log {
    text: Mutex<String>,
    grown: Condvar,
}

/// A server before its start.
pub struct Builder {
    dir: TempDir,
    ini: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|problem| panic!("{problem}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Builder {
    pub fn plugin(self, name: &str, source: &str) -> Self {
        std::fs::write(self.dir.path().join("plugins").join(name), source).unwrap();
        self
    }

    /// More INI text; `[network]` and `[paths]` are there already.
    pub fn ini(mut self, text: &str) -> Self {
        self.ini.push_str(text);
        self.ini.push('\n');
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn start(self) -> TestServer {
        let Self { dir, ini, arguments, environment } = self;
        std::fs::write(dir.path().join("pserve.ini"), ini).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pserve"))
            .current_dir(dir.path())
            .args(arguments)
            .env_remove("VIRTUAL_ENV")
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take().unwrap());
        log.follow(child.stderr.take().unwrap());
        let Some(line) = log.wait_until(|text| address_in(text).is_some()) else {
            let _ = child.kill();
            panic!("the server did not start:\n{}", log.text());
        };
        let address = address_in(&line).unwrap();
        TestServer { dir, child, address, log }
    }
}

/// The last address that the server said it serves.
fn address_in(text: &str) -> Option<SocketAddr> {
    let (_, rest) = text.rsplit_once(" serves http")?;
    let (line, _) = rest.trim_start_matches('s').strip_prefix("://")?.split_once('\n')?;
    // In JSON the message ends before the line does.
    let address = line.split('"').next()?;
    address.trim().parse().ok()
}

impl Log {
    pub fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut text = log.text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                log.grown.notify_all();
            }
        });
    }

    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    pub fn wait_until(&self, is_there: impl Fn(&str) -> bool) -> Option<String> {
        let text = self.text.lock().unwrap();
        let (text, timeout) = self.grown.wait_timeout_while(text, PATIENCE, |text| !is_there(text)).unwrap();
        (!timeout.timed_out()).then(|| text.clone())
    }
}

impl TestServer {
    pub fn build() -> Builder {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        let ini = "[network]\nbindto=127.0.0.1\nport=0\n[paths]\nplugins=plugins\npidfile=pserve.pid\n".to_owned();
        Builder { dir, ini, arguments: Vec::new(), environment: Vec::new() }
    }

    pub fn with_plugin(name: &str, source: &str) -> Self {
        Self::build().plugin(name, source).start()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write_plugin(&self, name: &str, source: &str) {
        std::fs::write(self.path("plugins").join(name), source).unwrap();
    }

    pub fn read_ini(&self) -> String {
        std::fs::read_to_string(self.path("pserve.ini")).unwrap()
    }

    pub fn write_ini(&self, text: &str) {
        std::fs::write(self.path("pserve.ini"), text).unwrap();
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until the log has the text, `count` times.
    pub fn wait_for_log(&self, needle: &str, count: usize) {
        let found = self.log.wait_until(|text| text.matches(needle).count() >= count);
        assert!(found.is_some(), "no {needle:?} in the log:\n{}", self.log());
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Reply {
        self.request("POST", path, &[("Content-Type", content_type)], body)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        send(self.address, method, path, headers, body).unwrap_or_else(|problem| panic!("{problem}\n{}", self.log()))
    }

    /// Sends bytes as they are and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The processes that serve, oldest first: the children of the one that is signalled.
    pub fn workers(&self) -> Vec<Pid> {
        let supervisor = self.child.id();
        let text =
            std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
        let mut pids: Vec<i32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        pids.sort_unstable();
        pids.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// The only worker.
    pub fn worker(&self) -> Pid {
        let workers = self.workers();
        assert_eq!(workers.len(), 1, "{}", self.log());
        workers[0]
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come to be");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request on a connection of its own.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Reply> {
    let mut stream = connect(address)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| std::io::Error::other(format!("no answer: {}", String::from_utf8_lossy(&answer))))
}

pub fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some(Reply { status, headers, body: answer[end + 4..].to_vec() })
}

/// Runs the program to its end: status, standard output, standard error.
pub fn run_to_end(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pserve"))
        .current_dir(dir)
        .args(arguments)
        .env_remove("VIRTUAL_ENV")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
