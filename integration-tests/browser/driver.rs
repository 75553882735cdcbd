//! A Chromium without a screen, driven by the WebDriver protocol (W3C), and the runner that it talks to.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A time limit that no sound test reaches.
pub const LONG: Duration = Duration::from_secs(60);

/// A process that ends with this value, and with it whatever it started in a group of its own.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = nix::sys::signal::killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `weir serve`.
pub struct Runner {
    _child: Ours,
    /// Where it listens.
    pub port: u16,
}

impl Runner {
    /// Starts a runner of `pipeline` and waits for its port.
    pub fn start(pipeline: &str) -> Self {
        Self::with(pipeline, &[])
    }

    /// As [`Self::start`], with flags of `weir serve`.
    pub fn with(pipeline: &str, flags: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["serve", "--host=127.0.0.1", "--port=0", &format!("--model-id={pipeline}")]).args(flags);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let child = Ours(child);
        let port =
            lines.find_map(|line| line.ok()?.rsplit_once("Listening on http://127.0.0.1:")?.1.trim().parse().ok());
        // The rest of the log is read away, so that the runner never waits for it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { _child: child, port: port.expect("a port") }
    }
}

/// A running `weir demo`.
pub struct Demo {
    _child: Ours,
    /// Its page.
    pub url: String,
}

impl Demo {
    /// Starts a demo with these flags and waits for its page.
    pub fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["demo", "--port=0"]).args(flags).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let child = Ours(child);
        let page = |line: String| Some(line.strip_prefix("Open ")?.split_whitespace().next()?.to_owned());
        let url = lines.find_map(|line| page(line.ok()?)).expect("its page");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { _child: child, url }
    }
}

/// A browser with one window.
pub struct Browser {
    _driver: Ours,
    http: reqwest::Client,
    session: String,
}

impl Browser {
    /// Starts `chromedriver` and Chromium with a camera that shows a test picture.
    pub async fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("chromedriver");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let driver = Ours(child);
        let port = |line: String| {
            line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok()
        };
        let port = lines.find_map(|line| port(line.ok()?)).expect("chromedriver's port");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let tls = weir::tls::client_config(&weir::tls::TlsPolicy::Skip).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
        let base = format!("http://127.0.0.1:{port}/session");
        let mut options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
            "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-first-run",
            "--autoplay-policy=no-user-gesture-required", "--mute-audio",
        ]});
        // Something nicer than the browser's own test picture, for pictures of the page.
        if let Some(film) = std::env::var("WEIR_CAMERA").ok().filter(|film| !film.is_empty()) {
            let flag = json!(format!("--use-file-for-fake-video-capture={film}"));
            options["args"].as_array_mut().unwrap().push(flag);
        }
        let wish = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "timeouts": {"script": 60_000},
        }}});
        let answer: Value = http.post(&base).json(&wish).send().await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {answer}"));
        Self { _driver: driver, session: format!("{base}/{id}"), http }
    }

    async fn order(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/{path}", self.session)).json(&body).send().await.unwrap();
        let (status, answer): (_, Value) = (answer.status(), answer.json().await.unwrap());
        assert!(status.is_success(), "{path}: {}", answer["value"]["message"]);
        answer["value"].clone()
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.order("url", json!({ "url": url })).await;
    }

    /// Runs the body of an asynchronous function in the page. Gives what it returns.
    pub async fn run(&self, script: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];\
             (async () => {{ {script} }})().then((value) => done({{ value }}), (error) => done({{ error: String(error?.stack ?? error) }}));"
        );
        let answer = self.order("execute/async", json!({ "script": script, "args": [] })).await;
        assert!(answer.get("error").is_none(), "{}", answer["error"]);
        answer["value"].clone()
    }

    /// Runs it until it gives something true.
    pub async fn until(&self, what: &str, script: &str) -> Value {
        let began = Instant::now();
        loop {
            let value = self.run(script).await;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            assert!(began.elapsed() < LONG, "{what}: not in time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Presses a key and lets it go, wherever the page's focus is.
    pub async fn press(&self, key: char) {
        let keys = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.order("actions", json!({"actions": [{"type": "key", "id": "keys", "actions": keys}]})).await;
    }

    /// Shows pages as to somebody who asked for dark ones, or for light ones.
    pub async fn dark(&self, on: bool) {
        let scheme = json!([{"name": "prefers-color-scheme", "value": if on { "dark" } else { "light" }}]);
        let order = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": scheme}});
        self.order("goog/cdp/execute", order).await;
    }

    /// What axe-core finds wrong with the page as it is, for people who use a keyboard or a screen reader, or see little.
    ///
    /// # Panics
    /// `WEIR_AXE` does not name its script; `scripts/browser` does so.
    pub async fn audit(&self) -> Vec<String> {
        let path = std::env::var("WEIR_AXE").expect("WEIR_AXE, which scripts/browser sets");
        let script = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let run = "const { violations } = await axe.run(document, { resultTypes: ['violations'] });\
                   return violations.map(({ id, help, nodes }) =>\
                     `${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 160)).join(' | ')}`)";
        let found = self.run(&format!("if (!window.axe) {{ {script}\n }} {run}")).await;
        found.as_array().unwrap().iter().map(|each| each.as_str().unwrap().to_owned()).collect()
    }

    /// Sets the size of the window in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        self.order("window/rect", json!({"width": width, "height": height})).await;
    }

    /// A picture of the window as PNG in base64.
    pub async fn screenshot(&self) -> String {
        let answer = self.http.get(format!("{}/screenshot", self.session)).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["value"].as_str().unwrap().to_owned()
    }

    /// Closes the browser.
    pub async fn close(self) {
        let _ = self.http.delete(&self.session).send().await;
    }
}
