//! Ways of the network to this process that it opens itself.

pub(super) mod byoc;
pub(super) mod control;
mod http;
pub(super) mod runner;
mod say;
pub(super) mod webrtc;
