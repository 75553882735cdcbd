//! Real processes: the engine as a child of the supervisor, and the supervisor as a child of the test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Running, config, exchange, order, until};
use super::fake::{Fake, Life, child};

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("a signal");
}

fn alive(pid: u32) -> bool {
    // A zombie is dead: the third field of its state says so.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Children of `parent` that play the engine.
fn engines(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let mut pids: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    // Tests run on threads of their own, and each has its own list of children.
    if let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) {
        for task in tasks.flatten() {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter(|&pid| alive(pid)).collect()
}

/// Not a test: the engine, when [`child`] starts this program as one. The link is at descriptor 3, because the harness
/// writes to standard output.
#[test]
#[ignore = "played by other tests"]
pub fn fake_engine_child() {
    let Ok(word) = std::env::var("FAKE_ENGINE") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        eprintln!("engine of pid {} says {word}", std::process::id());
        let output = tokio::fs::OpenOptions::new().write(true).open("/proc/self/fd/3").await.unwrap();
        let life = Life { obeys: word != "stubborn", ..Life::default() };
        Fake::new(vec![life]).live(tokio::io::stdin(), output).await;
    });
    // The reader of standard input may still wait on its thread.
    std::process::exit(if word == "stubborn" { 1 } else { 0 });
}

/// Not a test: a supervisor with a child, when a test starts this program as one.
#[test]
#[ignore = "played by other tests"]
pub fn supervisor_child() {
    if std::env::var("FAKE_SUPERVISOR").is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let shutdown = async {
            end.recv().await;
        };
        let run = weir::supervisor::run(config(), serde_json::json!({}), child("obedient"), shutdown, |address| {
            eprintln!("bound to {address}");
        });
        run.await.unwrap();
    });
    std::process::exit(0);
}

/// A process under test: what it says is kept, and what is left of it is killed.
struct Guard {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guard {
    /// Starts `command` and waits until a line of its standard error has `mark`; gives what follows it.
    fn start(mut command: Command, mark: &str) -> (Self, String) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let guard = Self { child, lines: lines.clone() };
        // It ends with the pipe.
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line))
        });
        let begin = Instant::now();
        loop {
            if let Some(rest) = guard.said(mark) {
                return (guard, rest);
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "it never said {mark:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What follows `mark` in the first line that has it.
    fn said(&self, mark: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().find_map(|line| Some(line.split_once(mark)?.1.trim().to_owned()))
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; panics after `limit`.
    fn ends_within(&mut self, limit: Duration) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < limit, "it still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn supervisor() -> (Guard, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "supervisor::processes::supervisor_child", "--ignored", "--nocapture"])
        .env("FAKE_SUPERVISOR", "1");
    let (guard, address) = Guard::start(command, "bound to ");
    (guard, address.parse().unwrap())
}

async fn becomes(address: SocketAddr, word: &str) {
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    until(word, async || exchange(address, request).await.json()["status"] == word).await;
}

#[tokio::test]
async fn a_killed_child_is_replaced_and_its_last_words_are_kept() {
    let (guard, address) = supervisor();
    becomes(address, "IDLE").await;
    let first = engines(guard.id());
    assert_eq!(first.len(), 1);
    let body = order().to_string();
    let request = format!(
        "POST /live-video-to-video HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(exchange(address, request.as_bytes()).await.status, 200);
    signal(first[0], Signal::SIGKILL);
    until("the next engine", async || engines(guard.id()).iter().any(|pid| !first.contains(pid))).await;
    becomes(address, "OK").await;
    until("the last words", async || guard.said("resumed: ").is_some()).await;
    let resumed = guard.said("resumed: ").unwrap();
    assert!(resumed.contains("signal: 9 (SIGKILL)"), "{resumed}");
    assert!(resumed.contains(&format!("engine of pid {} says obedient", first[0])), "{resumed}");
    let metrics = exchange(address, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.body;
    assert!(metrics.contains("weir_supervisor_engine_failures_total{cause=\"exit\"} 1\n"), "{metrics}");
    assert!(metrics.contains("weir_supervisor_sessions_resumed_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_stopped_child_counts_as_hanging() {
    let (guard, address) = supervisor();
    becomes(address, "IDLE").await;
    let first = engines(guard.id());
    signal(first[0], Signal::SIGSTOP);
    until("the next engine", async || engines(guard.id()).iter().any(|pid| !first.contains(pid))).await;
    becomes(address, "IDLE").await;
    assert!(!alive(first[0]));
}

#[tokio::test]
async fn term_ends_supervisor_and_child_with_zero() {
    let (mut guard, address) = supervisor();
    becomes(address, "IDLE").await;
    let children = engines(guard.id());
    signal(guard.id(), Signal::SIGTERM);
    assert_eq!(guard.ends_within(Duration::from_secs(2)), Some(0));
    assert!(children.iter().all(|&pid| !alive(pid)));
}

#[tokio::test]
async fn a_child_does_not_outlive_a_killed_supervisor() {
    let (mut guard, address) = supervisor();
    becomes(address, "IDLE").await;
    let children = engines(guard.id());
    assert_eq!(children.len(), 1);
    signal(guard.id(), Signal::SIGKILL);
    guard.ends_within(Duration::from_secs(2));
    until("the child's end", async || !alive(children[0])).await;
}

#[tokio::test]
async fn the_reason_names_the_signal() {
    // Stubborn: does not end when told to, so that it is killed at the end of the time.
    let server = Running::new(config(), child("stubborn")).await;
    server.becomes("IDLE").await;
    let took = server.stop().await;
    assert!(took >= Duration::from_millis(900) && took < Duration::from_millis(1_900), "{took:?}");
}

#[test]
fn a_wrong_setting_ends_with_64_before_a_port_is_open() {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["serve", "--port", "x", "--capacity", "0"])
        .env_clear()
        .env("PIPELINE", "text-to-image")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.lines().count(), 3, "{text}");
    for expected in ["flag --port: ", "flag --capacity: ", "variable PIPELINE: "] {
        assert!(text.contains(expected), "{text}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(["serve", "--nonsense"]).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn the_program_answers_soon_and_ends_when_told() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["serve", "--host", "127.0.0.1", "--port", "0"]).env_clear();
    let begin = Instant::now();
    let (mut guard, address) = Guard::start(command, "Listening on http://");
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("content-type: application/json"), "{answer}");
    // Generous: the machine may be busy with other tests.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    signal(guard.id(), Signal::SIGTERM);
    assert_eq!(guard.ends_within(Duration::from_secs(5)), Some(0));
}

#[test]
fn config_prints_what_is_in_force() {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["config", "--port", "9000"])
        .env_clear()
        .env("AUTH_TOKEN", "very-secret")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("# flag --port\nport = 9000\n"), "{text}");
    assert!(!text.contains("very-secret"), "{text}");
}
