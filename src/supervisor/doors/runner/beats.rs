//! When to send a heartbeat, with which secret, and what its answer means. Pure: time and answers come in.

use std::time::{Duration, Instant};

use serde_json::Value;

/// First and longest wait after a failure. The orchestrator forgets a runner after 20 s of silence.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];
/// Wait after a refusal, which stays one until somebody changes something.
const REFUSED: Duration = Duration::from_secs(30);
/// Time between two heartbeats where the orchestrator names none, and the bounds of what it may name.
const INTERVAL: [Duration; 3] = [Duration::from_secs(5), Duration::from_millis(100), Duration::from_secs(15)];

/// What the orchestrator said to a heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// It knows the runner.
    Known(Known),
    /// It does not know the runner any more, or not by this secret.
    Forgotten(String),
    /// It says no, and will until something is changed; why.
    Refused(String),
    /// It could not be asked, or could not answer; why.
    Failed(String),
}

/// A heartbeat's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// Where the orchestrator says that it is reached.
    pub orchestrator: String,
    /// Time between two heartbeats.
    pub interval: Option<Duration>,
    /// What later heartbeats are signed with; with the first answer only.
    pub secret: Option<String>,
    /// Where it tells of sessions; with the first answer only.
    pub hints: Option<String>,
    /// The sessions that it has.
    pub sessions: Vec<String>,
}

/// Reads an answer.
pub(super) fn meaning(status: u16, body: &[u8], said: String, registering: bool) -> Answer {
    match status {
        200..=299 => match serde_json::from_slice(body) {
            Ok(value) => known(&value),
            Err(error) => Answer::Failed(format!("its answer is no JSON: {error}")),
        },
        401 | 403 | 404 if !registering => Answer::Forgotten(format!("{status} {said}")),
        401 | 403 => Answer::Refused(format!("the secret is wrong ({status} {said})")),
        404 | 405 => Answer::Refused(format!("it takes no live runners ({status} {said})")),
        400..=499 => Answer::Refused(format!("it says {status} {said}")),
        _ => Answer::Failed(format!("it says {status} {said}")),
    }
}

fn known(value: &Value) -> Answer {
    if value["runner_id"].as_str().is_none_or(str::is_empty) {
        return Answer::Failed("its answer names no runner_id".into());
    }
    let text = |field: &Value| field.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let ids = value["session_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
    Answer::Known(Known {
        orchestrator: text(&value["orchestrator"]).unwrap_or_default(),
        interval: value["heartbeat_interval"].as_str().and_then(|text| humantime::parse_duration(text).ok()),
        secret: text(&value["heartbeat_secret"]),
        hints: text(&value["o2r"]["internal_url"]).or_else(|| text(&value["o2r"]["url"])),
        sessions: ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect(),
    })
}

/// The runner as the orchestrator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    /// Made anew for every registration: a forgotten one is refused under its old name for a while.
    pub id: String,
    /// What heartbeats are signed with; `None` while the registration is under way.
    pub secret: Option<String>,
}

/// The state of the heartbeats.
#[derive(Debug)]
pub(super) struct Beats {
    registration: Option<Registration>,
    next: Option<Instant>,
    interval: Duration,
    wait: Duration,
    /// The failure that was told last.
    told: Option<String>,
}

impl Beats {
    /// Unknown, and due at once.
    pub fn new() -> Self {
        Self { registration: None, next: None, interval: INTERVAL[0], wait: WAITS[0], told: None }
    }

    /// When the next heartbeat is due; `None` for at once.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// The runner as the orchestrator knows it, if it does.
    pub fn registered(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }

    /// Whom the next heartbeat is for; `fresh` makes a name.
    pub fn begin(&self, fresh: impl FnOnce() -> String) -> Registration {
        self.registration.clone().unwrap_or_else(|| Registration { id: fresh(), secret: None })
    }

    /// Takes in what became of the heartbeat for `asked`. Gives what is new and worth a line.
    pub fn did(&mut self, asked: &Registration, answer: &Answer, now: Instant) -> Option<String> {
        let (wait, told) = match answer {
            Answer::Known(known) => {
                let secret = known.secret.clone().or_else(|| asked.secret.clone());
                self.wait = WAITS[0];
                self.interval = known.interval.unwrap_or(INTERVAL[0]).clamp(INTERVAL[1], INTERVAL[2]);
                match secret {
                    Some(secret) => {
                        self.registration = Some(Registration { id: asked.id.clone(), secret: Some(secret) });
                        (self.interval, None)
                    }
                    None => (WAITS[1], Some("it gave no heartbeat_secret".to_owned())),
                }
            }
            Answer::Forgotten(why) => {
                self.registration = None;
                (Duration::ZERO, Some(format!("it has forgotten the runner ({why}), which registers again")))
            }
            Answer::Refused(why) => {
                self.registration = None;
                (REFUSED, Some(why.clone()))
            }
            Answer::Failed(why) => {
                let wait = self.wait;
                self.wait = (wait * 2).min(WAITS[1]);
                (wait, Some(why.clone()))
            }
        };
        self.next = Some(now + wait);
        let new = told != self.told;
        self.told = told;
        if new { self.told.clone() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: Value, registering: bool) -> Answer {
        meaning(status, body.to_string().as_bytes(), "said".into(), registering)
    }

    fn first() -> Value {
        json!({"runner_id": "r", "orchestrator": "http://o:1", "heartbeat_interval": "5s", "heartbeat_ttl": "20s",
               "heartbeat_secret": "hush", "o2r": {"name": "o2r", "channel_name": "c", "url": "http://o/c",
               "mime_type": "application/json"}, "session_ids": ["a", "b"]})
    }

    #[test]
    fn answers_are_read() {
        let Answer::Known(known) = answer(200, first(), true) else { panic!("known") };
        assert_eq!(known.interval, Some(Duration::from_secs(5)));
        assert_eq!((known.secret.as_deref(), known.hints.as_deref()), (Some("hush"), Some("http://o/c")));
        assert_eq!((known.orchestrator.as_str(), known.sessions.len()), ("http://o:1", 2));
        assert!(matches!(answer(200, json!({}), true), Answer::Failed(_)));
        assert!(matches!(answer(200, json!([1]), false), Answer::Failed(_)));
        for status in [401, 404] {
            assert!(matches!(answer(status, json!(0), false), Answer::Forgotten(_)));
            assert!(matches!(answer(status, json!(0), true), Answer::Refused(_)));
        }
        assert!(matches!(answer(400, json!(0), false), Answer::Refused(_)));
        assert!(matches!(answer(500, json!(0), false), Answer::Failed(_)));
        assert!(matches!(answer(302, json!(0), true), Answer::Failed(_)));
    }

    #[test]
    fn the_first_secret_signs_what_follows_and_a_forgotten_runner_takes_another_name() {
        let now = Instant::now();
        let mut beats = Beats::new();
        let asked = beats.begin(|| "one".into());
        assert_eq!(asked, Registration { id: "one".into(), secret: None });
        assert_eq!(beats.did(&asked, &answer(200, first(), true), now), None);
        assert_eq!(beats.due(), Some(now + Duration::from_secs(5)));
        let asked = beats.begin(|| "two".into());
        assert_eq!(asked, Registration { id: "one".into(), secret: Some("hush".into()) });
        // Later answers hold no secret.
        let later = json!({"runner_id": "one", "session_ids": []});
        assert_eq!(beats.did(&asked, &answer(200, later, false), now), None);
        assert_eq!(beats.registered(), Some(&asked));
        assert!(beats.did(&asked, &answer(404, json!(0), false), now).is_some_and(|why| why.contains("forgotten")));
        assert_eq!(beats.due(), Some(now));
        assert_eq!(beats.begin(|| "two".into()).id, "two");
    }

    #[test]
    fn failures_keep_the_name_and_are_told_once() {
        let now = Instant::now();
        let mut beats = Beats::new();
        let asked = beats.begin(|| "one".into());
        beats.did(&asked, &answer(200, first(), true), now);
        let asked = beats.begin(|| "two".into());
        let waits: Vec<u64> = (0..6)
            .map(|turn| {
                assert_eq!(beats.did(&asked, &Answer::Failed("x".into()), now).is_some(), turn == 0);
                (beats.due().expect("a time") - now).as_millis() as u64
            })
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 4000, 4000]);
        assert_eq!(beats.begin(|| "two".into()).id, "one");
        beats.did(&asked, &Answer::Refused("no".into()), now);
        assert_eq!((beats.registered(), beats.due()), (None, Some(now + REFUSED)));
    }

    #[test]
    fn an_interval_out_of_reason_is_not_followed() {
        for (given, expected) in [("1ms", INTERVAL[1]), ("1h", INTERVAL[2]), ("soon", INTERVAL[0])] {
            let now = Instant::now();
            let mut beats = Beats::new();
            let asked = beats.begin(|| "one".into());
            let mut body = first();
            body["heartbeat_interval"] = given.into();
            beats.did(&asked, &answer(200, body, true), now);
            assert_eq!(beats.due(), Some(now + expected), "{given}");
        }
    }
}
