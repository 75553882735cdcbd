//! An engine that does as a test says: over a stream in this process, or as a child that is this test program again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use weir::link::{FromEngine, Outcome, Phase, Reader, SessionReport, ToEngine, Writer};
use weir::supervisor::EngineCommand;

/// What one life of the engine does.
#[derive(Clone, Debug)]
pub struct Life {
    /// Milliseconds until it is warm; `None` for never.
    pub load_ms: Option<u64>,
    /// Says that loading failed, and ends.
    pub load_error: Option<&'static str>,
    /// Dies after its first message.
    pub stillborn: bool,
    /// Sends beats.
    pub beats: bool,
    /// What the beats say.
    pub busy_ms: u64,
    /// Answers to starts.
    pub answer: Option<Outcome>,
    /// Dies when it is asked to start something.
    pub dies_at_start: bool,
    /// Ends sessions that are to stop.
    pub stops: bool,
    /// Ends when told to.
    pub obeys: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            load_ms: Some(0),
            load_error: None,
            stillborn: false,
            beats: true,
            busy_ms: 0,
            answer: Some(Outcome::Accepted),
            dies_at_start: false,
            stops: true,
            obeys: true,
        }
    }
}

#[derive(Debug)]
enum Order {
    Say(Box<FromEngine>),
    Die,
}

#[derive(Default)]
struct Shared {
    lives: usize,
    seen: Vec<(usize, ToEngine)>,
    orders: Option<mpsc::UnboundedSender<Order>>,
}

/// Controls the engine of a test and tells what it was told.
#[derive(Clone)]
pub struct Fake {
    plan: Vec<Life>,
    /// Sessions at a time.
    instances: usize,
    shared: Arc<Mutex<Shared>>,
}

impl Fake {
    /// Lives in turn; the last repeats.
    pub fn new(plan: Vec<Life>) -> Self {
        Self { plan, instances: 1, shared: Arc::default() }
    }

    /// As [`Self::new`], with room for so many sessions.
    pub fn with_room(instances: usize, plan: Vec<Life>) -> Self {
        Self { instances, ..Self::new(plan) }
    }

    /// To be handed to the supervisor.
    pub fn command(&self) -> EngineCommand {
        let fake = self.clone();
        EngineCommand::InProcess(Arc::new(move |stream| {
            let (reader, writer) = tokio::io::split(stream);
            let fake = fake.clone();
            tokio::spawn(async move { fake.live(reader, writer).await });
        }))
    }

    /// Lives so far.
    pub fn lives(&self) -> usize {
        self.shared.lock().unwrap().lives
    }

    /// Messages received, with the number of the life, counted from one.
    pub fn seen(&self) -> Vec<(usize, ToEngine)> {
        self.shared.lock().unwrap().seen.clone()
    }

    /// Makes the engine say something.
    pub fn say(&self, message: FromEngine) {
        let order = Order::Say(Box::new(message));
        self.shared.lock().unwrap().orders.as_ref().expect("an engine").send(order).expect("a living engine");
    }

    /// Makes the engine die.
    pub fn die(&self) {
        self.shared.lock().unwrap().orders.as_ref().expect("an engine").send(Order::Die).expect("a living engine");
    }

    /// One life over the given pair.
    pub async fn live(self, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) {
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let (number, life) = {
            let mut shared = self.shared.lock().unwrap();
            shared.lives += 1;
            shared.orders = Some(orders);
            (shared.lives, self.plan[(shared.lives - 1).min(self.plan.len() - 1)].clone())
        };
        let mut reader = Reader::<_, ToEngine>::new(reader);
        let mut writer = Writer::<_, FromEngine>::new(writer);
        let mut out = vec![FromEngine::Hello { pid: std::process::id() }];
        out.push(FromEngine::Phase(Phase::Loading { detail: "weights".into() }));
        if let Some(message) = life.load_error {
            out.push(FromEngine::Phase(Phase::Failed { message: message.into() }));
        }
        let warm = tokio::time::sleep(Duration::from_millis(life.load_ms.unwrap_or(3_600_000)));
        tokio::pin!(warm);
        let mut is_warm = false;
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        loop {
            for message in out.drain(..) {
                if writer.send(&message).await.is_err() {
                    return;
                }
            }
            if life.stillborn || life.load_error.is_some() {
                return;
            }
            tokio::select! {
                message = reader.next() => {
                    let Ok(Some(message)) = message else { return };
                    self.shared.lock().unwrap().seen.push((number, message.clone()));
                    match message {
                        ToEngine::Start { .. } if life.dies_at_start => return,
                        ToEngine::Start { id, session, request, resume, .. } => {
                            if let Some(resume) = resume {
                                eprintln!("resumed: {}: {}", resume.reason, resume.logs.join(" / "));
                            }
                            if let Some(outcome) = life.answer.clone() {
                                if outcome == Outcome::Accepted {
                                    out.push(report(session, "ONLINE", request.params.clone()));
                                }
                                out.insert(0, FromEngine::Reply { id, outcome });
                            }
                        }
                        ToEngine::Update { id, session, params, .. } => {
                            let outcome = match params.get("width").and_then(|width| width.as_u64()) {
                                Some(width) if width % 64 != 0 => Outcome::BadParams {
                                    field: "width".into(),
                                    reason: "Input should be a multiple of 64".into(),
                                },
                                _ => Outcome::Accepted,
                            };
                            let accepted = outcome == Outcome::Accepted;
                            out.push(FromEngine::Reply { id, outcome });
                            if accepted {
                                out.push(report(session.unwrap_or(1), "ONLINE", params));
                            }
                        }
                        ToEngine::Stop { session, reason } if life.stops => {
                            out.push(FromEngine::Ended { session, reason, fault: false });
                        }
                        ToEngine::Scrape { id, .. } => {
                            out.push(FromEngine::Metrics { id, text: format!("weir_fake_lives {number}\n") });
                        }
                        ToEngine::Describe { id } => {
                            out.push(FromEngine::Described { id, value: json!({"name": "noop"}) });
                        }
                        ToEngine::Shutdown { .. } if life.obeys => return,
                        _ => {}
                    }
                }
                order = ordered.recv() => match order {
                    Some(Order::Say(message)) => out.push(*message),
                    Some(Order::Die) | None => return,
                },
                () = warm.as_mut(), if !is_warm => {
                    is_warm = true;
                    out.push(FromEngine::Phase(Phase::Ready { load_ms: 1, instances: self.instances, provider: None }));
                }
                _ = beat.tick(), if life.beats => out.push(FromEngine::Beat { busy_ms: life.busy_ms }),
            }
        }
    }
}

/// What an engine says of a session.
pub fn report(session: u64, state: &str, params: Map<String, serde_json::Value>) -> FromEngine {
    FromEngine::Session(SessionReport {
        session,
        state: state.into(),
        status: json!({"type": "status", "state": state, "pipeline": "noop"}),
        params,
        control_seq: Some(7),
        model_share: None,
        max_fps: None,
        show_loading: None,
    })
}

/// The engine as a child: this program again, with a shell to move the link away from the standard output that the test
/// harness writes to. `life` is a word that [`super::processes::fake_engine_child`] knows.
pub fn child(life: &str) -> EngineCommand {
    let script = format!(
        "FAKE_ENGINE={life} exec \"$0\" --exact supervisor::processes::fake_engine_child --ignored --nocapture 3>&1 1>&2"
    );
    let program = std::env::current_exe().expect("this program");
    EngineCommand::Process {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into(), program.into_os_string()],
    }
}
