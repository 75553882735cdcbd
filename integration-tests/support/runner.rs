//! A real `weir serve` process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{LONG, until};

/// Words that no log of a sound runner holds.
const PANIC: [&str; 3] = ["panicked at", "RUST_BACKTRACE", "stack backtrace"];

/// A running `weir serve`; killed when dropped.
pub struct Runner {
    child: Child,
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// As text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// What a runner uses, supervisor and engine together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Threads.
    pub threads: usize,
    /// Open descriptors.
    pub fds: usize,
    /// Resident KiB.
    pub rss: usize,
}

impl Runner {
    /// Starts a runner of `pipeline` with some settings more, and waits until it is idle.
    pub async fn idle(pipeline: &str, settings: &[(&str, &str)]) -> Self {
        let runner = Self::start(pipeline, settings).await;
        runner.health("IDLE", LONG).await;
        runner
    }

    /// Starts a runner, and waits for its port.
    pub async fn start(pipeline: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["serve", "--host=127.0.0.1", "--port=0"]);
        command.arg(format!("--model-id={pipeline}"));
        command.args(settings.iter().map(|(name, value)| format!("--{name}={value}")));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("WEIR_") || ["PIPELINE", "MODEL_ID", "HOST", "PORT", "MODEL_DIR"].contains(&&*name) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        // Ends with the pipe, which the runner and its engine hold.
        std::thread::spawn(move || {
            lines.lines().map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line))
        });
        let mut runner = Self { child, port: 0, log };
        let port = until("the port", LONG, || {
            let log = runner.log.lock().unwrap();
            let line = log.iter().find(|line| line.contains("Listening on http://127.0.0.1:"))?;
            line.rsplit(':').next()?.trim().parse().ok()
        });
        runner.port = port.await;
        runner
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the supervisor.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// The engine, if there is one.
    pub fn engine(&self) -> Option<Pid> {
        let ours = self.child.id() as i32;
        let all = procfs::process::all_processes().unwrap();
        let engine = all.flatten().find(|process| {
            process.stat().is_ok_and(|stat| stat.ppid == ours && stat.state != 'Z')
                && process.cmdline().is_ok_and(|line| line.iter().any(|word| word == "engine"))
        });
        engine.map(|process| Pid::from_raw(process.pid))
    }

    /// Sends a signal to the engine.
    pub fn signal_engine(&self, signal: Signal) -> Pid {
        let engine = self.engine().expect("an engine");
        kill(engine, signal).unwrap();
        engine
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One exchange with other headers than [`Self::request`] sends, each with its end of line: the answer's head and body.
    pub async fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: runner\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(LONG, socket.read_to_end(&mut answer)).await.expect("in time").unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        (
            String::from_utf8_lossy(&answer[..end]).to_lowercase().replace("http/1.", "HTTP/1."),
            answer[end + 4..].to_vec(),
        )
    }

    /// One exchange with the API.
    pub async fn request(&self, method: &str, path: &str, body: Option<&[u8]>) -> Answer {
        let talk = async {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let length = body.map_or(String::new(), |body| {
                format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
            });
            let head = format!("{method} {path} HTTP/1.1\r\nHost: runner\r\nConnection: close\r\n{length}\r\n");
            socket.write_all(head.as_bytes()).await?;
            // A server that refuses a body may close before it has read it.
            let _ = socket.write_all(body.unwrap_or_default()).await;
            let mut answer = Vec::new();
            match socket.read_to_end(&mut answer).await {
                Err(error) if answer.is_empty() => Err(error),
                _ => Ok(answer),
            }
        };
        let answer = tokio::time::timeout(LONG, talk).await.expect("an answer in time").expect("an answer");
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Answer { status, body: body.to_owned() }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None).await
    }

    /// `POST path` with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, Some(body.to_string().as_bytes())).await
    }

    /// Orders a stream, which must be accepted.
    pub async fn order(&self, request: &Value) {
        let answer = self.post("/live-video-to-video", request).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, self.log());
        assert!(answer.json().is_object());
    }

    /// The word of `/health`.
    pub async fn word(&self) -> String {
        self.get("/health").await.json()["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until `/health` says `word`.
    pub async fn health(&self, word: &str, limit: Duration) {
        let began = Instant::now();
        loop {
            let now = self.word().await;
            if now == word {
                return;
            }
            assert!(began.elapsed() < limit, "health is {now}, not {word}, after {limit:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// New parameters by `/api/params`.
    pub async fn params(&self, params: Value) -> Answer {
        self.post("/api/params", &params).await
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// What the processes use now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { threads: 0, fds: 0, rss: 0 };
        for pid in [Some(self.pid()), self.engine()].into_iter().flatten() {
            let process = Process::new(pid.as_raw()).unwrap();
            let status = process.status().unwrap();
            usage.threads += status.threads as usize;
            usage.rss += status.vmrss.unwrap_or(0) as usize;
            usage.fds += process.fd_count().unwrap();
        }
        usage
    }

    /// Sends a signal to the supervisor and waits for its end.
    pub async fn end(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        kill(self.pid(), signal).unwrap();
        let child = &mut self.child;
        until("the end of the process", limit, || child.try_wait().unwrap()).await
    }

    /// Fails if anything panicked.
    pub fn no_panic(&self) {
        let log = self.log();
        for word in PANIC {
            assert!(!log.contains(word), "{log}");
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Both are no-ops on a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            let tail = log.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
            eprintln!("The runner's log:\n{tail}");
        }
    }
}

/// The start request as an orchestrator sends it.
pub fn start_request(base: &str, manifest: &str, model: &str, params: Option<Value>) -> Value {
    let mut request = json!({
        "subscribe_url": format!("{base}{manifest}"),
        "publish_url": format!("{base}{manifest}-out"),
        "control_url": format!("{base}{manifest}-control"),
        "events_url": format!("{base}{manifest}-events"),
        "model_id": model,
        "gateway_request_id": "9c1f03ab",
        "manifest_id": manifest,
        "stream_id": "",
    });
    if let Some(params) = params {
        request["params"] = params;
    }
    request
}
