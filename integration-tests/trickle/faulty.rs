//! A server that does what a test tells it to, on bare sockets.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One request, and the connection that it came on. Dropping it closes the connection.
pub struct Exchange {
    pub method: String,
    /// What stands behind the channel: a number, `next`, or nothing.
    pub part: String,
    /// How often the same was asked before.
    pub nth: usize,
    pub head: String,
    io: BufReader<TcpStream>,
}

impl Exchange {
    /// Sends bytes as they are.
    pub async fn raw(&mut self, text: &str) {
        // The client may be gone, which is its right.
        let _ = self.io.get_mut().write_all(text.as_bytes()).await;
    }

    /// Answers and closes the connection.
    pub async fn answer(mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        self.raw(&format!("{text}\r\n{body}")).await;
    }

    /// Answers a GET with a segment.
    pub async fn segment(self, seq: u64, body: &str) {
        self.answer(200, &[("Lp-Trickle-Seq", &seq.to_string())], body).await;
    }

    /// One chunk of a streamed body; `None` at its clean end or when the connection breaks.
    pub async fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        self.io.read_line(&mut line).await.ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        self.io.read_exact(&mut chunk).await.ok()?;
        (length > 0).then(|| String::from_utf8(chunk[..length].to_vec()).unwrap())
    }

    /// The whole of a streamed body.
    pub async fn body(&mut self) -> String {
        let mut body = String::new();
        while let Some(chunk) = self.chunk().await {
            body += &chunk;
        }
        body
    }

    /// Keeps the connection open until the client closes it, without an answer.
    pub async fn hang(mut self) {
        let mut scrap = [0; 1024];
        while self.io.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
    }

    /// Keeps the connection open without reading from it.
    pub async fn freeze(self) {
        std::future::pending::<()>().await;
    }

    pub fn seq(&self) -> u64 {
        self.part.parse().unwrap()
    }
}

/// A served script.
pub struct Faulty {
    pub url: String,
    log: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Faulty {
    /// Serves every request, one a connection, with `script`.
    pub async fn new<F>(script: impl Fn(Exchange) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ch", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        let task = tokio::spawn(async move {
            let mut exchanges = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log) = (script.clone(), written.clone());
                exchanges.spawn(async move {
                    if let Some(exchange) = receive(stream, &log).await {
                        script(exchange).await;
                    }
                });
            }
        });
        Self { url, log, task }
    }

    /// Method and number of every request so far, as `GET 4`.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The numbers asked for with a method.
    pub fn asked(&self, method: &str) -> Vec<String> {
        let of = |line: &String| line.strip_prefix(method).map(|part| part.trim().to_owned());
        self.log().iter().filter_map(of).collect()
    }
}

async fn receive(stream: TcpStream, log: &Mutex<Vec<String>>) -> Option<Exchange> {
    let mut io = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if io.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?);
    let part = path.strip_prefix("/ch").unwrap().trim_matches('/').to_owned();
    let mut log = log.lock().unwrap();
    let line = format!("{method} {part}").trim().to_owned();
    let nth = log.iter().filter(|earlier| **earlier == line).count();
    log.push(line);
    Some(Exchange { method, part, nth, head: head.clone(), io })
}
