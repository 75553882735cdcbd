//! Faults that were found once and are not to come back, each under the name of what went wrong.

use std::time::Instant;

use serde_json::json;

use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, seconds, until};

/// The reader of the control channel did not end with its stream, so every end that did not come from the gateway took
/// the whole time that an end may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_although_its_control_channel_does_not() {
    let runner = Runner::idle("noop", &[("engine-stop", "20s")]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.run(&runner, "noop", None).await;
    stream.feed(&Clip { seconds: 2, ..Clip::default() }.segments()[0], seconds(0.5)).await;
    let began = Instant::now();
    assert!(stream.delete(""));
    runner.health("IDLE", LONG).await;
    assert!(began.elapsed() < seconds(5.0), "{:?}", began.elapsed());
    assert!(stream.exists("-control"), "that one is not ours to delete");
    runner.no_panic();
}

/// The contract's words for a change of size had a field's name before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_size_is_refused_in_the_words_of_the_contract() {
    let runner = Runner::idle("noop", &[]).await;
    let orchestrator = Orchestrator::new().await;
    let stream = orchestrator.run(&runner, "noop", None).await;
    let words = "Error updating params: Cannot change output resolution mid-stream (Current resolution: (512, 512) requested \
                 resolution: (768, 512)). Output resolution (e.g. upscalers) can only be configured when starting a new stream.";
    let answer = runner.params(json!({"width": 768})).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, words));
    stream.close().await;
    until("the end", LONG, || stream.events.ended().then_some(())).await;
}
