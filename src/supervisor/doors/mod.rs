//! Ways of the network to this process that it opens itself.

pub(super) mod byoc;
mod control;
mod http;
pub(super) mod runner;
pub(super) mod webrtc;
