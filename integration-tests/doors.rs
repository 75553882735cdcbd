//! What a whole runner does with addresses that it is sent to.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{LONG, Orchestrator, Runner, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_not_opened_where_none_may_be() {
    let runner = Runner::idle("noop", &[("trickle-allow", "public,10.0.0.0/8")]).await;
    let orchestrator = Orchestrator::new().await;
    let stream = orchestrator.stream().await;
    // Written out: refused at the door, in every spelling and every field.
    let port = orchestrator.address().port();
    for host in ["127.0.0.1", "[::1]", "0x7f.1", "169.254.169.254", "[::ffff:127.0.0.1]"] {
        for field in ["subscribe_url", "publish_url", "control_url", "events_url"] {
            let mut order = stream.request("noop", None);
            for url in ["subscribe_url", "publish_url", "control_url", "events_url"] {
                order[url] = "http://10.0.0.1/ai/trickle/x".into();
            }
            order[field] = format!("http://{host}:{port}/ai/trickle/{}", stream.manifest).into();
            let answer = runner.post("/live-video-to-video", &order).await;
            let said = answer.body.contains(field) && answer.body.contains("trickle.allow");
            assert_eq!((answer.status, said), (400, true), "{host} {field}: {answer:?}");
        }
    }
    assert_eq!(runner.word().await, "IDLE");
    // By a name: refused when it is resolved, and the stream ends.
    let mut order = stream.request("noop", Some(json!({"width": 384, "height": 384})));
    for url in ["subscribe_url", "publish_url", "control_url", "events_url"] {
        order[url] = order[url].as_str().unwrap().replace("127.0.0.1", "localhost").into();
    }
    runner.order(&order).await;
    runner.health("IDLE", LONG).await;
    let log = runner.log();
    assert!(log.contains("localhost is not among the addresses"), "{log}");
    assert!(stream.output.segments().is_empty() && stream.documents().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_leads_nowhere() {
    let runner = Runner::idle("noop", &[("trickle-max-failures", "2")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (here, there) = (listener.local_addr().unwrap(), trap.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let answer = format!("HTTP/1.1 302 x\r\nlocation: http://{there}/x\r\ncontent-length: 0\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    let order = json!({
        "subscribe_url": format!("http://{here}/in"), "publish_url": format!("http://{here}/out"),
        "control_url": "", "events_url": "", "model_id": "noop",
    });
    runner.order(&order).await;
    runner.health("IDLE", LONG).await;
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), trap.accept()).await.is_err());
    until("the log", LONG, || runner.log().contains("302").then_some(())).await;
}
