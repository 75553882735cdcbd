//! Registration as a capability of an orchestrator (BYOC).
//!
//! The capability is registered when the pipeline is warm and taken back at the end, or when the engine is given up. An
//! orchestrator forgets its capabilities when it restarts, and throws one out that could not be reached, without a word;
//! so the registration is repeated while no stream runs. While one runs it is not, because it would reset the
//! orchestrator's count of streams. [`Register`] decides; [`keep`] does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};

use super::http;
use crate::health::Word;
use crate::supervisor::Byoc;
use crate::supervisor::hub::Hub;

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Time for one exchange with the orchestrator.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Time for the last one, at the end of the process.
pub(in crate::supervisor) const FAREWELL: Duration = Duration::from_millis(1_000);
/// First and longest wait after a failure.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Bytes of an answer that are looked at.
const MOST_ANSWER: usize = 512;

/// What the orchestrator's answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// Done.
    Done,
    /// It says no, and will until something is changed; why.
    Refused(String),
    /// It could not be asked, or could not answer; why.
    Failed(String),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing before the next look.
    Wait,
    /// Register, or register again.
    Register,
    /// Take the capability back.
    Unregister,
}

/// When to register. Pure: time and state come in.
#[derive(Debug)]
struct Register {
    refresh: Duration,
    /// The orchestrator knows us, or may.
    known: bool,
    next: Option<Instant>,
    wait: Duration,
    /// The failure that was told last.
    told: Option<String>,
}

impl Register {
    fn new(refresh: Duration) -> Self {
        Self { refresh, known: false, next: None, wait: WAITS[0], told: None }
    }

    fn step(&self, word: Word, now: Instant) -> Step {
        let due = self.next.is_none_or(|next| now >= next);
        match word {
            Word::Idle if due => Step::Register,
            Word::Error if self.known && due => Step::Unregister,
            _ => Step::Wait,
        }
    }

    /// Takes in what became of `step`. Gives what is new and worth a line.
    fn did(&mut self, step: Step, answer: &Answer, now: Instant) -> Option<String> {
        // A register that failed may have arrived all the same.
        self.known = match (step, answer) {
            (Step::Register, Answer::Done | Answer::Failed(_)) => true,
            (Step::Unregister, Answer::Done | Answer::Refused(_)) => false,
            _ => self.known,
        };
        let (next, told) = match answer {
            Answer::Done => {
                self.wait = WAITS[0];
                (self.refresh, None)
            }
            Answer::Refused(why) => (WAITS[1], Some(why.clone())),
            Answer::Failed(why) => {
                let wait = self.wait;
                self.wait = (wait * 2).min(WAITS[1]);
                (wait, Some(why.clone()))
            }
        };
        self.next = Some(now + next);
        let new = told != self.told;
        self.told = told;
        if new { self.told.clone() } else { None }
    }
}

/// What is sent, and where to.
struct Announcement {
    http: reqwest::Client,
    orchestrator: String,
    secret: HeaderValue,
    name: String,
    body: Value,
}

impl Announcement {
    /// `None` when nothing is to be registered.
    fn new(hub: &Hub, bound: SocketAddr) -> Result<Option<Self>, String> {
        let Byoc { orchestrator, secret, .. } = &hub.config.byoc;
        if orchestrator.is_empty() || secret.is_empty() {
            return Ok(None);
        }
        let config = &hub.config.byoc;
        let url = http::announced(&config.url, bound, "byoc.url")?;
        let name = if config.name.is_empty() { hub.config.model_id.clone() } else { config.name.clone() };
        let mut body = json!({
            "name": name,
            "url": url,
            "description": config.description,
            "price_per_unit": config.price_per_unit,
            "price_scaling": config.price_scaling,
        });
        if !config.currency.is_empty() {
            body["currency"] = config.currency.clone().into();
        }
        // Sent back as a bearer token with every call.
        let token = if hub.config.auth_token.is_empty() { hub.worker_token() } else { &hub.config.auth_token };
        if !token.is_empty() {
            body["token"] = token.into();
        }
        let mut secret =
            HeaderValue::from_str(secret).map_err(|_| "the secret cannot be sent as a header".to_owned())?;
        secret.set_sensitive(true);
        let http = http::client(&config.tls)?;
        Ok(Some(Self { http, orchestrator: orchestrator.clone(), secret, name, body }))
    }

    /// One exchange; `capacity` is what the runner has room for now.
    async fn ask(&self, step: Step, capacity: usize, limit: Duration) -> Answer {
        let (path, body) = match step {
            Step::Register => {
                let mut body = self.body.clone();
                body["capacity"] = capacity.into();
                ("register", body.to_string())
            }
            _ => ("unregister", self.name.clone()),
        };
        let request = self
            .http
            .post(format!("{}/capability/{path}", self.orchestrator))
            .header(AUTHORIZATION, self.secret.clone())
            .header("content-type", if step == Step::Register { "application/json" } else { "text/plain" })
            .body(body)
            .timeout(limit);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Answer::Failed(http::reason(&error)),
        };
        let status = response.status().as_u16();
        let said = http::body(&mut response, MOST_ANSWER).await;
        let secrets = [self.secret.to_str().unwrap_or(""), self.body["token"].as_str().unwrap_or("")];
        meaning(status, &http::hidden(&said, &secrets))
    }
}

fn meaning(status: u16, said: &str) -> Answer {
    match status {
        200..=299 => Answer::Done,
        401 | 403 => Answer::Refused(format!("the secret is wrong ({status} {said})")),
        400 if said.contains("authorization") => Answer::Refused(format!("the secret is wrong ({status} {said})")),
        404 | 405 => Answer::Refused(format!("it takes no capabilities ({status} {said})")),
        400..=499 => Answer::Refused(format!("it says {status} {said}")),
        _ => Answer::Failed(format!("it says {status} {said}")),
    }
}

/// Keeps the capability registered until the process ends, then takes it back.
pub(in crate::supervisor) async fn keep(hub: Arc<Hub>, bound: SocketAddr) {
    let announcement = match Announcement::new(&hub, bound) {
        Ok(Some(announcement)) => announcement,
        Ok(None) => return,
        Err(why) => return error!("The capability cannot be registered: {why}"),
    };
    let mut register = Register::new(Duration::from_millis(hub.config.byoc.refresh_ms));
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = hub.ending.cancelled() => break,
            _ = look.tick() => {}
        }
        let step = register.step(hub.health().word, Instant::now());
        if step == Step::Wait {
            continue;
        }
        let capacity = hub.book().capacity();
        let answer = tokio::select! {
            answer = announcement.ask(step, capacity, EXCHANGE) => answer,
            () = hub.ending.cancelled() => {
                // It may be on its way.
                register.known |= step == Step::Register;
                break;
            }
        };
        let before = register.known && register.told.is_none();
        let news = register.did(step, &answer, Instant::now());
        hub.metrics.byoc(step == Step::Register, answer == Answer::Done);
        match (&answer, step, news) {
            (Answer::Done, Step::Register, _) if before => debug!("The capability is registered again."),
            (Answer::Done, Step::Register, _) => {
                info!(capability = announcement.name, "The capability is registered.");
            }
            (Answer::Done, ..) => info!(capability = announcement.name, "The capability is taken back."),
            (_, _, Some(why)) => warn!(capability = announcement.name, "The orchestrator has not taken it: {why}"),
            _ => {}
        }
    }
    if register.known {
        match announcement.ask(Step::Unregister, 0, FAREWELL).await {
            Answer::Done => {
                hub.metrics.byoc(false, true);
                info!(capability = announcement.name, "The capability is taken back.");
            }
            Answer::Refused(why) | Answer::Failed(why) => warn!("The capability could not be taken back: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn failed() -> Answer {
        Answer::Failed("x".into())
    }

    #[test]
    fn registers_when_warm_and_repeats_only_while_idle() {
        let now = Instant::now();
        let mut register = Register::new(60 * S);
        assert_eq!(register.step(Word::Loading, now), Step::Wait);
        assert_eq!(register.step(Word::Idle, now), Step::Register);
        assert_eq!(register.did(Step::Register, &Answer::Done, now), None);
        assert_eq!(register.step(Word::Idle, now + 59 * S), Step::Wait);
        for word in [Word::Ok, Word::Loading] {
            assert_eq!(register.step(word, now + 1000 * S), Step::Wait);
        }
        assert_eq!(register.step(Word::Idle, now + 60 * S), Step::Register);
    }

    #[test]
    fn an_engine_that_is_given_up_is_taken_back_and_may_come_again() {
        let now = Instant::now();
        let mut register = Register::new(S);
        assert_eq!(register.step(Word::Error, now), Step::Wait);
        register.did(Step::Register, &Answer::Done, now);
        assert_eq!(register.step(Word::Error, now + S), Step::Unregister);
        register.did(Step::Unregister, &Answer::Done, now + S);
        assert_eq!(register.step(Word::Error, now + 9 * S), Step::Wait);
        assert_eq!(register.step(Word::Idle, now + 9 * S), Step::Register);
    }

    #[test]
    fn failures_wait_longer_and_longer_and_are_told_once() {
        let mut now = Instant::now();
        let mut register = Register::new(60 * S);
        let mut waits = Vec::new();
        for turn in 0..8 {
            assert_eq!(register.step(Word::Idle, now), Step::Register);
            assert_eq!(register.did(Step::Register, &failed(), now).is_some(), turn == 0);
            let begin = now;
            while register.step(Word::Idle, now) == Step::Wait {
                now += S;
            }
            waits.push((now - begin).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        // An answer that was lost may have been a yes.
        assert!(register.known);
        assert!(register.did(Step::Register, &Answer::Refused("y".into()), now).is_some());
        register.did(Step::Register, &Answer::Done, now);
        assert!(register.did(Step::Register, &failed(), now).is_some());
        assert_eq!(register.step(Word::Idle, now + S), Step::Register);
    }

    #[test]
    fn answers() {
        assert_eq!(meaning(200, "ok"), Answer::Done);
        for (status, said, part) in [
            (400, "invalid authorization", "the secret is wrong"),
            (401, "", "the secret is wrong"),
            (400, "Error registering capability: x", "Error registering"),
            (404, "", "takes no capabilities"),
        ] {
            let Answer::Refused(why) = meaning(status, said) else { panic!("{status}") };
            assert!(why.contains(part), "{why}");
        }
        assert!(matches!(meaning(500, "x"), Answer::Failed(_)));
        assert!(matches!(meaning(302, "x"), Answer::Failed(_)));
    }
}
