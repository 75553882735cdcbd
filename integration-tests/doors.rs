//! What a whole runner does with addresses that it is sent to, and with pictures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

fn png(size: u32, color: [u8; 3]) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(size, size, image::Rgb(color)).write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// The colour in the middle of a picture file, and its size.
fn middle(file: &[u8]) -> ([u8; 3], u32, u32) {
    let picture = image::load_from_memory(file).unwrap().into_rgb8();
    let (width, height) = picture.dimensions();
    (picture.get_pixel(width / 2, height / 2).0, width, height)
}

fn near(one: [u8; 3], other: [u8; 3]) -> bool {
    one.iter().zip(other).all(|(a, b)| a.abs_diff(b) <= 4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_go_through_the_pipeline_without_a_stream() {
    let runner = Runner::idle("invert", &[]).await;
    let encode = |file: &[u8]| STANDARD.encode(file);
    let params = json!({"width": 384, "height": 448});
    let body = json!({"images": [encode(&png(100, [10, 20, 30])), encode(&png(300, [200, 100, 0]))], "params": params});
    let answer = runner.post("/image", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let images = answer.json()["images"].as_array().unwrap().clone();
    for (image, expected) in images.iter().zip([[245, 235, 225], [55, 155, 255]]) {
        let file = STANDARD.decode(image["image"].as_str().unwrap()).unwrap();
        let (color, width, height) = middle(&file);
        assert!(near(color, expected), "{color:?} for {expected:?}");
        assert_eq!((width, height, &image["width"]), (384, 448, &json!(384)));
        assert!(image["model_ms"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(images.len(), 2);

    // A file gives a file, and events come one by one.
    let head = "Content-Type: image/png\r\nX-Params: {\"width\": 384, \"height\": 384}\r\n";
    let (head, file) = runner.raw("POST", "/image", head, &png(64, [0, 0, 0])).await;
    assert!(head.contains(" 200 ") && head.contains("content-type: image/png"), "{head}");
    assert!(head.contains("x-metadata: {\"count\":1"), "{head}");
    assert!(near(middle(&file).0, [255, 255, 255]));
    let text = body.to_string();
    let head = "Content-Type: application/json\r\nAccept: text/event-stream\r\n";
    let (head, events) = runner.raw("POST", "/image", head, text.as_bytes()).await;
    let events = String::from_utf8_lossy(&events).into_owned();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(events.contains("\"progress\":0.5") && events.contains("\"progress\":1.0"), "{head}");
    assert!(events.contains("data: [DONE]"), "the last event");

    for (body, part) in [
        (json!({"image": "%%%"}), "base64"),
        (json!({"image": encode(b"GIF89a")}), "PNG or JPEG"),
        (json!({"image": encode(&png(64, [0; 3])), "params": {"width": 500, "height": 384}}), "width"),
        (json!({"image": encode(&png(64, [0; 3])), "format": "bmp"}), "png or jpeg"),
    ] {
        let answer = runner.post("/image", &body).await;
        assert_eq!((answer.status, answer.body.contains(part)), (400, true), "{answer:?}");
    }
    assert_eq!(runner.word().await, "IDLE");

    // Where its graph runs is told; what has no graph says nothing.
    let health = runner.get("/health").await.json();
    assert_eq!(health, json!({"status": "IDLE", "provider": "cpu"}));

    // A stream that runs has the slot.
    let orchestrator = Orchestrator::new().await;
    let stream = orchestrator.run(&runner, "invert", Some(json!({"width": 384, "height": 384}))).await;
    let answer = runner.post("/image", &json!({"image": encode(&png(64, [0; 3]))})).await;
    assert_eq!((answer.status, answer.body.contains("Pipeline is still in use")), (503, true), "{answer:?}");
    let began = std::time::Instant::now();
    while runner.get("/api/status").await.json()["weir"]["provider"] != "cpu" {
        assert!(began.elapsed() < LONG, "the status of a stream that began does not say where its graph runs");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}
