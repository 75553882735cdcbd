//! A real Chromium at a real runner: WHIP, WHEP, `/offer`, and the page.
//!
//! `scripts/browser` sees to Chromium and its driver and runs these.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod driver;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driver::{Browser, Demo, Runner};
use weir::frame::{PixelFormat, Size};
use weir::media::{FileReader, MediaItem};

/// In the page: a source whose left half is red and whose right half is green, above a row of bars that spell the time; and
/// eyes that read both from a video.
const TOOLS: &str = r##"
const SIZE = 384, BITS = 16, BAR = SIZE / BITS;
const canvas = () => {
  const made = document.createElement("canvas");
  [made.width, made.height] = [SIZE, SIZE];
  return made;
};
const film = () => {
  const shown = canvas(), pen = shown.getContext("2d");
  const draw = () => {
    pen.fillStyle = "#c00000"; pen.fillRect(0, 0, SIZE / 2, SIZE);
    pen.fillStyle = "#00c000"; pen.fillRect(SIZE / 2, 0, SIZE / 2, SIZE);
    const now = Math.floor(performance.now()) & 0xFFFF;
    for (let bit = 0; bit < BITS; bit++) {
      pen.fillStyle = now >> bit & 1 ? "#fff" : "#000";
      pen.fillRect(bit * BAR, SIZE - 48, BAR, 48);
    }
  };
  draw();
  setInterval(draw, 33);
  return shown.captureStream(30);
};
const look = (video) => {
  const seen = canvas(), pen = seen.getContext("2d", { willReadFrequently: true });
  pen.drawImage(video, 0, 0, SIZE, SIZE);
  const at = (x, y) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3);
  let time = 0;
  const inverted = at(SIZE / 4, SIZE / 3)[0] < 128;
  for (let bit = 0; bit < BITS; bit++) {
    const light = at(bit * BAR + BAR / 2, SIZE - 24)[1] > 128;
    if (light !== inverted) time |= 1 << bit;
  }
  return { left: at(SIZE / 4, SIZE / 3), right: at(SIZE * 3 / 4, SIZE / 3), late: (Math.floor(performance.now()) - time) & 0xFFFF };
};
const shown = () => { const video = document.createElement("video"); video.muted = true; video.autoplay = true; document.body.append(video); return video; };
const gathered = (pc) => new Promise((done) => { pc.onicegatheringstatechange = () => pc.iceGatheringState === "complete" && done(); setTimeout(done, 2000); });
const near = ([r, g, b], [R, G, B]) => [r - R, g - G, b - B].every((off) => Math.abs(off) < 70);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
// Looks until the picture is `left` and `right`; then for two seconds at how late it is.
const judge = async (video, left, right) => {
  const until = performance.now() + 40000;
  let seen;
  for (;;) {
    seen = video.videoWidth ? look(video) : null;
    if (seen && near(seen.left, left) && near(seen.right, right)) break;
    if (performance.now() > until) throw new Error("seen last: " + JSON.stringify(seen));
    await sleep(50);
  }
  const late = [];
  for (let count = 0; count < 60; count++) { await sleep(33); late.push(look(video).late); }
  late.sort((a, b) => a - b);
  return { ...seen, p50: late[30], p95: late[57] };
};
const RED = [192, 0, 0], GREEN = [0, 192, 0], CYAN = [63, 255, 255], PINK = [255, 63, 255];
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and its driver: scripts/browser"]
async fn a_browser_films_by_whip_and_watches_by_whep() {
    let runner = Runner::start("invert");
    let browser = Browser::start().await;
    browser.open(&format!("http://localhost:{}/app", runner.port)).await;
    for codec in ["H264", "VP8"] {
        let script = format!(
            r#"{TOOLS}
            const post = async (path, sdp) => {{
              for (;;) {{
                const response = await fetch(path, {{ method: "POST", headers: {{ "Content-Type": "application/sdp" }}, body: sdp }});
                if ([409, 503].includes(response.status)) {{ await sleep(200); continue; }}
                if (response.status !== 201) throw new Error(await response.text());
                return {{ place: response.headers.get("location"), answer: {{ type: "answer", sdp: await response.text() }} }};
              }}
            }};
            const size = encodeURIComponent(JSON.stringify({{ width: SIZE, height: SIZE }}));
            const camera = new RTCPeerConnection();
            const track = camera.addTransceiver(film().getVideoTracks()[0], {{ direction: "sendonly" }});
            const codecs = RTCRtpReceiver.getCapabilities("video").codecs.filter((each) => each.mimeType === "video/{codec}");
            if (!codecs.length) return {{ skipped: true }};
            track.setCodecPreferences(codecs);
            await camera.setLocalDescription();
            await gathered(camera);
            const sent = await post("whip/cam?params=" + size, camera.localDescription.sdp);
            await camera.setRemoteDescription(sent.answer);
            const viewer = new RTCPeerConnection(), video = shown();
            viewer.ontrack = ({{ track, receiver }}) => {{ receiver.jitterBufferTarget = 0; video.srcObject = new MediaStream([track]); }};
            viewer.addTransceiver("video", {{ direction: "recvonly" }});
            await viewer.setLocalDescription();
            // Without waiting: the addresses follow by PATCH.
            const seen = await post("whep/cam", viewer.localDescription.sdp);
            viewer.onicecandidate = ({{ candidate }}) => candidate && fetch(seen.place, {{
              method: "PATCH", headers: {{ "Content-Type": "application/trickle-ice-sdpfrag" }}, body: "a=" + candidate.candidate + "\r\n" }});
            await viewer.setRemoteDescription(seen.answer);
            const result = await judge(video, CYAN, PINK);
            for (const each of [...(await camera.getStats()).values()]) if (each.type === "codec") result.codec = each.mimeType;
            for (const {{ place }} of [seen, sent]) result.left_by = (await fetch(place, {{ method: "DELETE" }})).status;
            camera.close(); viewer.close(); video.remove();
            return result;"#
        );
        let result = browser.run(&script).await;
        assert_eq!(result["codec"], format!("video/{codec}"), "{result}");
        assert_eq!(result["left_by"], 200);
        println!(
            "WHIP with {codec}, WHEP with H.264: glass to glass p50 {} ms, p95 {} ms",
            result["p50"], result["p95"]
        );
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and its driver: scripts/browser"]
async fn an_offer_comes_back_transformed_and_the_page_turns_it() {
    let runner = Runner::start("invert");
    let browser = Browser::start().await;
    let page = format!("http://localhost:{}/app", runner.port);
    browser.open(&page).await;
    let script = format!(
        r#"{TOOLS}
        const pc = new RTCPeerConnection(), video = shown(), control = pc.createDataChannel("control");
        pc.ontrack = ({{ track, receiver }}) => {{ receiver.jitterBufferTarget = 0; video.srcObject = new MediaStream([track]); }};
        pc.addTrack(film().getVideoTracks()[0]);
        await pc.setLocalDescription();
        await gathered(pc);
        const size = {{ width: SIZE, height: SIZE }};
        const response = await fetch("offer", {{ method: "POST", headers: {{ "Content-Type": "application/json" }},
          body: JSON.stringify({{ offer: pc.localDescription, params: size }}) }});
        if (!response.ok) throw new Error(await response.text());
        const place = response.headers.get("location");
        await pc.setRemoteDescription(await response.json());
        const result = await judge(video, CYAN, PINK);
        const replied = new Promise((done) => {{ control.onmessage = ({{ data }}) => done(JSON.parse(data)); }});
        control.send(JSON.stringify({{ type: "update_params", params: {{ ...size, strength: 0 }}, request_id: 5 }}));
        result.reply = await replied;
        result.plain = (await judge(video, RED, GREEN)).left;
        await fetch(place, {{ method: "DELETE" }});
        pc.close(); video.remove();
        return result;"#
    );
    let result = browser.run(&script).await;
    assert_eq!((&result["reply"]["success"], &result["reply"]["request_id"]), (&true.into(), &5.into()), "{result}");
    println!("/offer: glass to glass p50 {} ms, p95 {} ms", result["p50"], result["p95"]);

    // The page: the browser's test camera in, the result beside it, a slider that turns it.
    let health = "return (await (await fetch('health')).json()).status === 'IDLE'";
    browser.until("a free runner", health).await;
    browser.open(&page).await;
    browser.until("the slider", "return !!document.getElementById('param-strength')").await;
    // By the keyboard alone.
    for tabs in 0.. {
        if browser.run("return document.activeElement?.id").await == "start" {
            break;
        }
        assert!(tabs < 40, "the button is not reached");
        browser.press('\u{E004}').await;
    }
    browser.press('\u{E007}').await;
    // The mean colours of both pictures; inverted, each pair makes white.
    let means = r#"
        const mean = (id) => {
          const video = document.getElementById(id);
          if (!video.videoWidth) return null;
          const small = document.createElement("canvas");
          [small.width, small.height] = [8, 8];
          const pen = small.getContext("2d");
          // The test camera's corner is plain; the rest moves.
          const side = Math.min(video.videoWidth, video.videoHeight);
          pen.drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, 8, 8);
          const data = pen.getImageData(0, 0, 8, 8).data, sum = [0, 0, 0];
          for (let at = 0; at < data.length; at += 4) for (const c of [0, 1, 2]) sum[c] += data[at + c] / 64;
          return sum;
        };
        const [a, b] = [mean("source"), mean("result")];
        if (!a || !b) return null;
    "#;
    let inverted = format!("{means} return a.every((each, at) => Math.abs(255 - each - b[at]) < 30) && {{ a, b }}");
    let seen = browser.until("the inverted camera", &inverted).await;
    println!("/app: source {}, result {}", seen["a"], seen["b"]);
    browser.until("the figures", "return Number(document.getElementById('model').textContent) > 0").await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    if let Some(path) = std::env::var("WEIR_SCREENSHOT").ok().filter(|path| !path.is_empty()) {
        std::fs::write(&path, browser.screenshot().await).unwrap();
        browser.resize(390, 840).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        std::fs::write(format!("{path}-phone"), browser.screenshot().await).unwrap();
        browser.resize(1280, 900).await;
    }
    browser.run("document.getElementById('raw').open = true").await;
    audited(&browser, "the page with a camera").await;
    browser
        .run(
            "const slider = document.getElementById('param-strength'); slider.value = 0;\
             slider.dispatchEvent(new Event('input', { bubbles: true }));",
        )
        .await;
    let plain = format!("{means} return a.every((each, at) => Math.abs(each - b[at]) < 30)");
    browser.until("the plain camera", &plain).await;
    browser.until("the answer", "return document.getElementById('answer').textContent === 'In force.'").await;

    // A mistake in the editor is told with its line, and nothing is sent.
    let mistake = "const box = document.getElementById('json'); box.value = '{\\n  \"strength\": 0.5,\\n  oops\\n}';\
                   box.dispatchEvent(new Event('input', { bubbles: true }));\
                   return document.getElementById('json-error').textContent";
    let told = browser.run(mistake).await;
    assert!(told.as_str().unwrap().starts_with("Line 3"), "{told}");

    // The picture alone, for OBS, beside the page that films.
    let link = browser.run("return document.getElementById('view-link').value").await;
    let framed = format!(
        "const frame = document.createElement('iframe'); frame.src = {link}; document.body.append(frame); frame.id = 'framed'"
    );
    browser.run(&framed).await;
    let playing = "const video = document.getElementById('framed').contentDocument?.querySelector('video');\
                   return !!video && video.videoWidth > 0 && video.currentTime > 0";
    browser.until("the view", playing).await;
    browser.run("document.getElementById('stop').click()").await;
    browser.until("a free runner", health).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and its driver: scripts/browser"]
async fn the_page_shows_what_a_stream_says_and_no_more_than_it_can_hold() {
    let runner = Runner::start("delay");
    let browser = Browser::start().await;
    browser.open(&format!("http://localhost:{}/app", runner.port)).await;
    browser.until("the controls", "return !!document.getElementById('param-say_every')").await;
    assert_eq!(browser.run("return document.getElementById('said').hidden").await, true);
    browser
        .run(&format!(
            "{HANDS} $('param-say_every').value = 1; for (const cost of ['param-frame_ms', 'param-load_ms']) if ($(cost)) $(cost).value = 0;\
             $('start').click()"
        ))
        .await;
    // More than are kept have been said; what is shown are the newest, in order.
    let shown = "const texts = [...document.querySelectorAll('#texts p')].map((each) => each.textContent);\
                 const count = parseInt(document.getElementById('said-note').textContent);";
    let many = format!("{shown} return count > 80 && texts.length === 50 && texts");
    let texts = browser.until("many texts", &many).await;
    let numbers: Vec<u64> = texts
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[0] > 1, "{numbers:?}");
    // Whoever reads may hold them; what comes meanwhile waits, the newest of it.
    let last = "[...document.querySelectorAll('#texts p')].at(-1)?.textContent";
    let held = browser.run(&format!("document.getElementById('hush').click(); return {last}")).await;
    let waiting = "return / 50 wait;/.test(document.getElementById('said-note').textContent)";
    browser.until("texts that wait", waiting).await;
    assert_eq!(browser.run(&format!("return {last}")).await, held);
    audited(&browser, "the page with texts").await;
    browser.run("document.getElementById('hush').click()").await;
    browser.until("later texts", &format!("return {last} !== {held}")).await;
    // What a text says is shown as it is and runs nothing; one that is long is cut.
    let forged = "const make = RTCPeerConnection.prototype.createDataChannel;\
                  window.channels = [];\
                  RTCPeerConnection.prototype.createDataChannel = function (name) {\
                    const made = make.call(this, name); if (name === 'data') window.channels.push(made); return made; };\
                  document.getElementById('stop').click();\
                  document.getElementById('param-say_every').value = 0;";
    browser.run(forged).await;
    let health = "return (await (await fetch('health')).json()).status === 'IDLE'";
    browser.until("a free runner", health).await;
    browser.run("document.getElementById('start').click()").await;
    browser.until("the channel", "return window.channels[0]?.readyState === 'open'").await;
    assert_eq!(browser.run("return document.getElementById('said').hidden").await, true, "nothing was said yet");
    let say = "for (const data of ['<img src=x onerror=1>', 'x'.repeat(70000), 5])\
               window.channels[0].dispatchEvent(new MessageEvent('message', { data: JSON.stringify({ type: 'text', data }) }));\
               window.channels[0].dispatchEvent(new MessageEvent('message', { data: 'no JSON' }))";
    browser.run(say).await;
    let cut = "const all = document.querySelectorAll('#texts p');\
               return all.length === 2 && !document.querySelector('#texts img')\
                 && all[0].textContent === '<img src=x onerror=1>' && all[1].textContent.length < 2100\
                 && all[1].textContent.endsWith('(70000 characters)')";
    browser.until("the texts as they are", cut).await;
    browser.run("document.getElementById('forget').click()").await;
    assert_eq!(browser.run("return document.getElementById('texts').childElementCount").await, 0);
    browser.run("document.getElementById('stop').click()").await;
    browser.until("a free runner", health).await;
    browser.close().await;
}

/// Nothing is wrong with the page as it is, light or dark.
async fn audited(browser: &Browser, what: &str) {
    for dark in [false, true] {
        browser.dark(dark).await;
        assert_eq!(browser.audit().await, [""; 0], "{what}, {}", if dark { "dark" } else { "light" });
    }
    browser.dark(false).await;
}

/// In a page: clicks, sets, and colours.
const HANDS: &str = r##"
const $ = (id) => document.getElementById(id);
// As a hand does it: moved, and a moment later let go of.
const set = (id, value) => {
  $(id).value = value;
  $(id).dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => $(id)?.dispatchEvent(new Event("change", { bubbles: true })), 150);
};
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
// The mean colour of a picture.
const mean = (shown) => {
  const width = shown?.videoWidth ?? shown?.naturalWidth;
  if (!width) return null;
  const height = shown.videoHeight ?? shown.naturalHeight;
  const small = document.createElement("canvas");
  [small.width, small.height] = [8, 8];
  const pen = small.getContext("2d"), side = Math.min(width, height);
  pen.drawImage(shown, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 8, 8);
  const data = pen.getImageData(0, 0, 8, 8).data, sum = [0, 0, 0];
  for (let at = 0; at < data.length; at += 4) for (const c of [0, 1, 2]) sum[c] += data[at + c] / 64;
  return sum;
};
"##;

/// The camera behind a plane of one grey: `value` is what is seen where `blend_factor` is 1.
const PLANE: &str = r#"{
    "1": {"class_type": "LoadImage", "inputs": {"image": "camera.png"}},
    "2": {"class_type": "SolidMask", "inputs": {"value": 0.25, "width": 512, "height": 512}},
    "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
    "4": {"class_type": "ImageBlend", "_meta": {"title": "Mix"},
          "inputs": {"image1": ["1", 0], "image2": ["3", 0], "blend_factor": 1.0, "blend_mode": "normal"}},
    "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
}"#;

/// Script that is true once the picture `id` is one grey, within the noise of a codec.
fn grey(id: &str, value: u32) -> String {
    format!("{HANDS} const seen = mean($('{id}')); return !!seen && seen.every((each) => Math.abs(each - {value}) < 8)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and its driver: scripts/browser"]
async fn the_page_loads_another_pipeline_turns_a_workflow_and_records() {
    let folder = tempfile::tempdir().unwrap();
    let (workflows, kept) = (folder.path().join("workflows"), folder.path().join("recordings"));
    std::fs::create_dir(&workflows).unwrap();
    std::fs::write(workflows.join("plane.json"), PLANE).unwrap();
    std::fs::write(workflows.join("broken.json"), r#"{"1": {"class_type": "NoSuchNode", "inputs": {}}}"#).unwrap();
    let flags = [
        "--switch=true".to_owned(),
        format!("--workflows={}", workflows.display()),
        format!("--record-path={}", kept.display()),
        "--media-segment-seconds=1".to_owned(),
    ];
    let runner = Runner::with("noop", &flags);
    let browser = Browser::start().await;
    let page = format!("http://localhost:{}/app", runner.port);
    browser.open(&page).await;

    // Another pipeline, by keyboard-reachable controls: the page's own controls become those of that one.
    browser.until("the choice", &format!("{HANDS} return !$('switch').hidden && $('pipeline').value === 'noop'")).await;
    browser.run(&format!("{HANDS} set('pipeline', 'comfyui'); $('load').click()")).await;
    let loaded = "return document.title === 'Weir: comfyui' && document.getElementById('progress').hidden";
    browser.until("the pipeline", loaded).await;

    // A workflow of the runner's folder; the one that cannot run cannot be chosen.
    let offered = format!(
        "{HANDS} const all = Object.fromEntries([...$('shelf').options].map((each) => [each.value, each.disabled]));\
         return all.plane === false && all.broken === true"
    );
    browser.until("the workflows", &offered).await;
    browser.run(&format!("{HANDS} set('shelf', 'plane')")).await;
    browser.until("the sliders", "return !!document.getElementById('param-2.value')").await;
    let range = browser
        .run("const box = document.getElementById('param-4.blend_factor'); return [box.type, box.min, box.max]")
        .await;
    assert_eq!(range, serde_json::json!(["range", "0", "1"]));
    let modes = "return document.getElementById('param-4.blend_mode').tagName";
    assert_eq!(browser.run(modes).await, "SELECT");
    browser.run("document.getElementById('start').click()").await;
    browser.until("the plane", &grey("result", 64)).await;

    // A slider of a widget, on the next frames, sent as what it is and nothing else.
    let spy = "const send = RTCDataChannel.prototype.send; window.sent = [];\
               RTCDataChannel.prototype.send = function (text) { window.sent.push(JSON.parse(text)); return send.call(this, text); }";
    browser.run(spy).await;
    browser.run(&format!("{HANDS} set('param-2.value', 0.75)")).await;
    browser.until("the slider", &grey("result", 191)).await;
    // It stays when the slider is let go of.
    tokio::time::sleep(Duration::from_millis(700)).await;
    browser.until("the slider, let go of", &grey("result", 191)).await;
    browser.until("the answer", "return document.getElementById('answer').textContent === 'In force.'").await;
    let sent = browser.run("return window.sent.map((each) => each.params)").await;
    let sent = sent.as_array().unwrap();
    assert!(sent.iter().any(|params| params["2"] == serde_json::json!({"value": 0.75})), "{sent:?}");
    assert!(sent.iter().all(|params| params.get("prompt").is_none()), "{sent:?}");

    // What the runner is to keep: begun, listed, ended, downloaded through the page's own calls, played.
    browser.run("document.getElementById('record').click()").await;
    let pressed = "return document.getElementById('record').getAttribute('aria-pressed') === 'true'";
    browser.until("the recording", pressed).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // No other pipeline while a stream runs.
    assert_eq!(browser.run("return document.getElementById('load').disabled").await, true);
    browser.run("document.getElementById('record').click()").await;
    let whole = "return document.getElementById('record-note').textContent === 'The recording is whole.'";
    browser.until("the end of the recording", whole).await;
    let download = r##"
        let caught = null, made = null;
        const create = URL.createObjectURL;
        URL.createObjectURL = (blob) => { made = blob; return create.call(URL, blob); };
        const click = HTMLAnchorElement.prototype.click;
        HTMLAnchorElement.prototype.click = function () { caught = this; };
        [...document.querySelectorAll("#record-list button")].find((each) => each.textContent === "Download").click();
        for (let tries = 0; !caught && tries < 400; tries++) await new Promise((done) => setTimeout(done, 50));
        [HTMLAnchorElement.prototype.click, URL.createObjectURL] = [click, create];
        const bytes = new Uint8Array(await made.arrayBuffer());
        let text = "";
        for (const byte of bytes) text += String.fromCharCode(byte);
        return [caught.download, btoa(text)];
    "##;
    let file = browser.run(download).await;
    assert!(file[0].as_str().unwrap().ends_with(".mp4"), "{}", file[0]);
    let path = folder.path().join("downloaded.mp4");
    std::fs::write(&path, STANDARD.decode(file[1].as_str().unwrap()).unwrap()).unwrap();
    let reader = FileReader::open(path.to_str().unwrap(), None, PixelFormat::Rgb24).unwrap();
    assert_eq!(reader.info().size, Some(Size::new(512, 512)));
    let mut pictures = 0;
    for item in reader {
        if let MediaItem::Video(frame) = item.unwrap() {
            pictures += 1;
            let middle = frame.data[frame.data.len() / 2];
            assert!((i32::from(middle) - 191).abs() < 10, "picture {pictures} is of {middle}");
        }
    }
    println!("/app: a recording of {pictures} pictures");
    assert!(pictures > 20, "{pictures}");
    browser.run(&format!("{HANDS} [...document.querySelectorAll('#record-list button')].find((each) => each.textContent === 'Delete').click()")).await;
    browser.until("an empty list", "return document.querySelectorAll('#record-list li').length === 0").await;

    // A preset brings the widgets back; everything that can be used has a name, and a phone needs no sideways scroll.
    browser
        .run(&format!("{HANDS} window.prompt = () => 'bright'; $('preset-save').click(); set('param-2.value', 0.5)"))
        .await;
    browser.until("the slider", &grey("result", 128)).await;
    browser.run(&format!("{HANDS} set('preset', 'bright')")).await;
    browser.until("the preset", &grey("result", 191)).await;
    audited(&browser, "the page with a workflow").await;
    let nameless = "return [...document.querySelectorAll('button, input, select, textarea, video, progress')].filter((each) =>\
                    each.checkVisibility() && !each.labels?.length && !each.textContent.trim() && !each.ariaLabel).map((each) => each.id)";
    assert_eq!(browser.run(nameless).await, serde_json::json!([]));
    browser.resize(390, 840).await;
    let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(browser.run(wide).await, 0);
    audited(&browser, "the page on a phone").await;
    browser.resize(1280, 900).await;
    browser.run("document.getElementById('stop').click()").await;
    browser.open(&format!("{page}?view=whep")).await;
    browser.until("the picture alone", "return !!document.querySelector('body.view video')").await;
    audited(&browser, "the picture alone").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and its driver: scripts/browser"]
async fn the_demo_shows_a_control_for_each_widget_of_a_workflow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plane.json");
    std::fs::write(&path, PLANE).unwrap();
    let demo = Demo::start(&["--workflow", path.to_str().unwrap()]);
    let browser = Browser::start().await;
    browser.open(&demo.url).await;
    browser.until("the controls", "return !!document.getElementById('param-2.value')").await;
    let kinds = browser
        .run(
            "return ['2.value', '4.blend_factor', '4.blend_mode'].map((name) => {\
             const box = document.getElementById('param-' + name); return [box.type, box.min ?? null, box.max ?? null]; })",
        )
        .await;
    let wanted = serde_json::json!([["range", "0", "1"], ["range", "0", "1"], ["select-one", null, null]]);
    assert_eq!(kinds, wanted);
    audited(&browser, "the demo's page").await;
    let output = browser.run("return [...document.querySelectorAll('.pictures img')].map((each) => each.id)").await;
    println!("the demo's pictures: {output}");
    let shown = output.as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    // JPEG on the page, so with the noise of two codecs.
    let plane = |low: u32, high: u32| {
        format!(
            "{HANDS} const seen = mean($('{shown}')); return !!seen && seen.every((each) => each > {low} && each < {high})"
        )
    };
    let (dim, bright) = (plane(54, 80), plane(170, 202));
    browser.until("the plane", &dim).await;
    let spy = "const own = window.fetch; window.posted = [];\
               window.fetch = (path, options) => { if (options?.body) window.posted.push([String(path), options.body]); return own(path, options); }";
    browser.run(spy).await;
    browser.run(&format!("{HANDS} set('param-2.value', 0.75)")).await;
    browser.until("the slider", &bright).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    browser.until("the slider, let go of", &bright).await;
    let posted = browser.run("return window.posted").await;
    assert!(posted[0][0] == "params" && posted[0][1].as_str().unwrap().contains("\"2.value\":0.75"), "{posted}");
    // A drop-down: multiplied by the plane the camera is not a plane any more.
    browser.run(&format!("{HANDS} set('param-4.blend_mode', 'multiply')")).await;
    browser.until("the answer", "return document.getElementById('answer').textContent === 'In force.'").await;
    let moved = format!("{HANDS} const seen = mean($('{shown}')); return !!seen && seen.some((each) => each < 160)");
    browser.until("the other way to mix", &moved).await;
    browser.close().await;
}
