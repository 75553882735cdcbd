//! What a stream and a process look like from outside: states as functions of observations and time, rates, and the
//! status object of the events channel. Nothing here waits, reads a clock or knows a socket.

mod hash;
mod rate;
mod state;
mod status;
mod word;

pub use hash::params_hash;
pub use rate::Rate;
pub use state::{Observations, PipelineState, State, Thresholds, evaluate};
pub use status::{Status, status_json};
pub use word::{LOADING_SHOWN, Word, word};
