//! A second stream through the same runner, by the door of workers that registered themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lab::{Channel, Channels, Lab};
use super::ledger::{Ledger, Summary};
use super::reader::{Reader, Side, Taps};
use super::runner::Runner;
use super::source::{Ready, Source};
use super::{DRAIN, RigError};
use crate::pipeline::Params;

/// The stream. It has channels, a source and readers of its own.
pub struct Beside {
    channels: Channels,
    ledger: Arc<Ledger>,
    source: Source,
    floor: Reader,
    output: Reader,
}

impl Beside {
    /// Orders the stream by `POST /stream/start` and feeds it.
    ///
    /// # Errors
    /// The runner refuses it, or a channel does not open.
    pub(super) async fn start(lab: &Lab, runner: &Runner, params: &Params, source: Ready) -> Result<Self, RigError> {
        let channels = lab.open();
        runner.order_worker(&channels, params).await?;
        let (ledger, client) = (Arc::new(Ledger::new()), lab.client());
        let read = |channel, side| {
            let taps = Taps { ledger: Some((ledger.clone(), side)), ..Taps::default() };
            Reader::open(client, &channels.url(channel), taps)
        };
        let floor = read(Channel::Input, Side::Input)?;
        let output = read(Channel::Output, Side::Output)?;
        let source = Source::start(source, client, &channels.url(Channel::Input), ledger.clone()).await?;
        Ok(Self { channels, ledger, source, floor, output })
    }

    /// Ends the stream, as its input ends. Gives what it came to.
    ///
    /// # Errors
    /// The source failed, or the output cannot be read.
    pub(super) async fn finish(self, lab: &Lab) -> Result<Summary, RigError> {
        let Self { channels, ledger, source, floor, output } = self;
        let stopped = source.stop().await;
        let patience = Instant::now() + DRAIN;
        while ledger.last_received() < ledger.last_sent() && !output.ended() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lab.close_channel(&channels, Channel::Input);
        let found = output.end(Instant::now() + DRAIN).await;
        let _ = floor.end(Instant::now() + Duration::from_millis(200)).await;
        lab.close_channel(&channels, Channel::Output);
        stopped?;
        Ok(ledger.finish(found?.first_byte))
    }
}
