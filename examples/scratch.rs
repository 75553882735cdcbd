use std::time::*;
use weir::trickle::*;
#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::new(ServerConfig::default());
    for (n, m) in [
        ("s", "video/MP2T"),
        ("s-out", "video/MP2T"),
        ("s-control", "application/json"),
        ("s-events", "application/json"),
    ] {
        server.create(n, m);
    }
    let l = tokio::net::TcpListener::bind("127.0.0.1:8941").await.unwrap();
    let s2 = server.clone();
    tokio::spawn(async move { s2.serve(l, std::future::pending()).await });
    let c = Client::new(&Config::default()).unwrap();
    let base = format!("http://127.0.0.1:8941{}", std::env::args().nth(1).unwrap_or("/ai/trickle/".into()));
    let u = |n: &str| format!("{base}{n}");
    let runner = "http://127.0.0.1:8123";
    let r = reqwest::Client::new().post(format!("{runner}/live-video-to-video")).json(&serde_json::json!({"subscribe_url":u("s"),"publish_url":u("s-out"),"control_url":u("s-control"),"events_url":u("s-events"),"gateway_request_id":"abc","manifest_id":"m","stream_id":"x","params":{}})).send().await.unwrap();
    println!("{} {}", r.status(), r.text().await.unwrap());
    let mut p = Publisher::open(&c, &u("s"), "video/MP2T", Begin::Zero).await.unwrap();
    let mut sub = Subscriber::new(&c, &u("s-out"), Start::Seq(0)).unwrap();
    let mut ev = Subscriber::new(&c, &u("s-events"), Start::Seq(0)).unwrap();
    let out = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok(Some(mut s)) = sub.next().await {
            let mut n = 0;
            while let Ok(Some(b)) = s.chunk().await {
                n += b.len();
                all.extend_from_slice(&b);
            }
            println!("out seg {} {} bytes", s.seq(), n);
        }
        std::fs::write("/tmp/out.ts", &all).unwrap();
    });
    let evt = tokio::spawn(async move {
        while let Ok(Some(mut s)) = ev.next().await {
            if let Ok(Some(d)) = s.document(1 << 20).await {
                println!("event {}", String::from_utf8_lossy(&d));
            }
        }
    });
    for i in 0..5 {
        let Ok(bytes) = std::fs::read(format!("/tmp/ts/{i}.ts")) else { break };
        let mut w = p.begin().await.unwrap();
        let t = Instant::now();
        let n = bytes.len();
        for (k, ch) in bytes.chunks(n / 60 + 1).enumerate() {
            w.write(bytes::Bytes::copy_from_slice(ch)).await.unwrap();
            let due = Duration::from_millis(33 * k as u64);
            tokio::time::sleep(due.saturating_sub(t.elapsed())).await;
        }
        w.finish().await.unwrap();
    }
    p.close(true).await.unwrap();
    server.close("s-control");
    out.await.unwrap();
    evt.await.unwrap();
}
