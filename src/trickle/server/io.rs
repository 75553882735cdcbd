//! A connection that can carry interim answers, which the HTTP library does not send of its own accord, and that
//! lingers before it closes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// A close with unread bytes resets the connection and may take the answer along, so those bytes are read first.
const LINGER: Duration = Duration::from_millis(500);

/// Asks for an interim answer on the connection of a request that has no answer yet.
#[derive(Clone)]
pub(super) struct Interim(Arc<AtomicBool>);

impl Interim {
    /// The request's own task must do this: the connection looks for it after polling that task.
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Wraps a connection.
pub(super) fn wrap<IO>(io: IO) -> (InterimIo<IO>, Interim) {
    let wanted = Arc::new(AtomicBool::new(false));
    (InterimIo { io, wanted: wanted.clone(), left: &[], clean: true, linger: None }, Interim(wanted))
}

pub(super) struct InterimIo<IO> {
    io: IO,
    wanted: Arc<AtomicBool>,
    /// What is left to write of an interim answer.
    left: &'static [u8],
    /// Everything handed over before has been flushed, so that no message is cut in two.
    clean: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<IO: AsyncWrite + Unpin> InterimIo<IO> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.left = &self.left[written..];
        }
        Poll::Ready(Ok(()))
    }

    /// Makes way for an answer: an interim one that has not begun is too late.
    fn before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wanted.store(false, Ordering::Release);
        self.clean = false;
        self.poll_interim(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for InterimIo<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for InterimIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    // The HTTP library flushes after it has polled the request, and only once its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.clean && self.left.is_empty() && self.wanted.swap(false, Ordering::AcqRel) {
            self.left = CONTINUE;
        }
        ready!(self.poll_interim(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.clean = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let until = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scrap = [0; 4096];
        loop {
            if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
