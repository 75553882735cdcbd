//! Docker's own HTTP interface, as far as an orchestrator uses it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

const SOCKET: &str = "/var/run/docker.sock";

/// What a container is created with.
pub struct Options {
    pub model_id: &'static str,
    pub command: &'static [&'static str],
    pub environment: &'static [&'static str],
    pub read_only: bool,
    pub restart: bool,
}

impl Options {
    /// As an orchestrator creates it.
    pub fn managed(model_id: &'static str) -> Self {
        Self { model_id, command: &[], environment: &[], read_only: false, restart: true }
    }
}

/// A container, gone with this value.
pub struct Container {
    id: String,
    pub address: SocketAddr,
    /// When it was told to start.
    pub began: Instant,
    models: PathBuf,
}

async fn call(method: Method, path: &str, body: Option<Value>) -> (u16, Vec<u8>) {
    let stream = UnixStream::connect(SOCKET).await.expect("a Docker engine");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let task = tokio::spawn(connection);
    let bytes = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1.41{path}"))
        .header("Host", "docker")
        .header("Content-Type", "application/json")
        .body(Full::new(bytes::Bytes::from(bytes)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    task.abort();
    (status, body)
}

async fn asked(method: Method, path: &str, body: Option<Value>) -> Value {
    let (status, answer) = call(method, path, body).await;
    assert!(status < 300, "{path}: {status} {}", String::from_utf8_lossy(&answer));
    serde_json::from_slice(&answer).unwrap_or_default()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Container {
    /// Creates and starts one, field by field as go-livepeer does.
    pub async fn start(options: &Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let image = std::env::var("WEIR_IMAGE").expect("WEIR_IMAGE names the image");
        let port = free_port();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let models = std::env::temp_dir().join(format!("weir-models-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&models).unwrap();
        let mut environment = vec!["PIPELINE=live-video-to-video".to_owned(), format!("MODEL_ID={}", options.model_id)];
        environment.extend(options.environment.iter().map(|&pair| pair.to_owned()));
        let policy =
            if options.restart { json!({"Name": "on-failure", "MaximumRetryCount": 3}) } else { json!({"Name": "no"}) };
        let mut body = json!({
            "Image": image,
            "Env": environment,
            "Volumes": {"/models": {}},
            "ExposedPorts": {"8000/tcp": {}},
            "Labels": {"creator": "ai-worker", "creator_id": "weir-test"},
            "HostConfig": {
                "Mounts": [{"Type": "bind", "Source": models, "Target": "/models"}],
                "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]},
                "RestartPolicy": policy,
                "ReadonlyRootfs": options.read_only,
            },
        });
        if !options.command.is_empty() {
            body["Cmd"] = json!(options.command);
        }
        let name = format!("live-video-to-video_{}_{port}", options.model_id.replace(['/', '_'], "-"));
        let created = asked(Method::POST, &format!("/containers/create?name={name}"), Some(body)).await;
        let id = created["Id"].as_str().unwrap().to_owned();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let container = Self { id, address, began: Instant::now(), models };
        asked(Method::POST, &format!("/containers/{}/start", container.id), None).await;
        container
    }

    fn path(&self, rest: &str) -> String {
        format!("/containers/{}{rest}", self.id)
    }

    pub async fn inspect(&self) -> Value {
        asked(Method::GET, &self.path("/json"), None).await
    }

    /// Where the container reaches this machine.
    pub async fn bridge(&self) -> std::net::IpAddr {
        let network = self.inspect().await["NetworkSettings"]["Networks"]["bridge"].clone();
        network["Gateway"].as_str().expect("a gateway").parse().unwrap()
    }

    /// Ends the container's first process as a crash would. Docker's own kill counts as wanted and is not restarted.
    pub async fn kill_first_process(&self) {
        let pid = self.inspect().await["State"]["Pid"].as_i64().expect("a process");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// As an orchestrator stops it: SIGTERM, and SIGKILL after 8 s.
    pub async fn stop(&self) {
        asked(Method::POST, &self.path("/stop?t=8"), None).await;
    }

    /// Waits for its end; returns the exit code.
    pub async fn wait(&self) -> i64 {
        let path = self.path("/wait");
        let ended = asked(Method::POST, &path, None);
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends by itself");
        ended["StatusCode"].as_i64().unwrap()
    }

    pub async fn logs(&self) -> String {
        let (_, bytes) = call(Method::GET, &self.path("/logs?stdout=1&stderr=1"), None).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs a program inside; returns its exit code.
    pub async fn exec(&self, command: &[&str]) -> i64 {
        let made = asked(Method::POST, &self.path("/exec"), Some(json!({"Cmd": command, "AttachStdout": true}))).await;
        let id = made["Id"].as_str().unwrap();
        let (status, _) = call(Method::POST, &format!("/exec/{id}/start"), Some(json!({"Detach": false}))).await;
        assert_eq!(status, 200);
        asked(Method::GET, &format!("/exec/{id}/json"), None).await["ExitCode"].as_i64().unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = weir::cli::rig::call::request(self.address, Method::GET, path, None).await.unwrap();
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    /// The first word that `/health` says.
    pub async fn first_health(&self) -> String {
        let began = Instant::now();
        loop {
            // Docker's proxy takes connections before the program does, and drops them.
            if let Ok(word) = crate::stream::health(self.address).await {
                return word;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no answer; its log: {}", self.logs().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until `/health` says `word`; returns that answer.
    pub async fn until_health(&self, word: &str, most: Duration) -> Value {
        let began = Instant::now();
        loop {
            let answer = weir::cli::rig::call::request(self.address, Method::GET, "/health", None).await;
            if let Ok((_, body)) = answer {
                let answer: Value = serde_json::from_slice(&body).unwrap();
                if answer["status"] == word {
                    return answer;
                }
            }
            assert!(began.elapsed() < most, "not {word} within {most:?}; its log: {}", self.logs().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn remove(self) {
        asked(Method::DELETE, &self.path("?force=1&v=1"), None).await;
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // After a failure nothing has removed it yet; removing it twice does no harm.
        let removed = std::process::Command::new("docker").args(["rm", "--force", "--volumes", &self.id]).output();
        drop(removed);
        let _ = std::fs::remove_dir_all(&self.models);
    }
}
