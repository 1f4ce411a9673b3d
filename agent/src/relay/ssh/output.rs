//! One output stream on its way to the client: what is masked in it, and how long it may be held back for that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::log::masker;
use crate::mask::http::BodyMasks;
use crate::mask::terminal::TerminalMasker;

/// How long what a terminal shows may be held back because it could be the beginning of a secret; then it is shown, for it may
/// be a prompt. The pieces of one write come closer together than this, and no human sees the delay.
const HOLD_BACK_TIME_MAX: Duration = Duration::from_millis(50);

/// The same where no terminal is: programs talk to programs, which wait longer, and slow ones write a line in pieces. Some ask
/// something on a pipe all the same.
const PIPE_HOLD_BACK_TIME_MAX: Duration = Duration::from_secs(1);

/// Longest output that is taken for the echo of what was typed, in bytes: one key.
const ECHO_BYTES_MAX: usize = 8;

/// Typed bytes whose echo has not come that are remembered.
const TYPED_BYTES_MAX: usize = 64;

/// One output stream on its way to the client.
pub(super) struct Output {
    /// `None` when no mask reads it.
    pub(super) masker: Option<TerminalMasker>,
    /// How long something may be held back.
    patience: Duration,
    /// When what is held back is shown at the latest.
    pub(super) due: Option<Instant>,
}

impl Output {
    pub(super) fn new(masks: Option<&Arc<BodyMasks>>, terminal: bool) -> Self {
        let patience = if terminal { HOLD_BACK_TIME_MAX } else { PIPE_HOLD_BACK_TIME_MAX };
        Self { masker: masker(masks), patience, due: None }
    }

    /// `echo`: it is but what the client typed, who does not wait to see that.
    pub(super) fn push(&mut self, data: Bytes, echo: bool) -> Bytes {
        let Some(masker) = &mut self.masker else { return data };
        let (came, held) = (data.len(), masker.held());
        let shown = masker.push(data);
        if echo && held == 0 && shown.is_empty() {
            return masker.relent();
        }
        self.due = match masker.held() {
            0 => None,
            // All of it has just come.
            held if held <= came => Some(Instant::now() + self.patience),
            _ => Some(self.due.unwrap_or_else(|| Instant::now() + self.patience)),
        };
        shown
    }

    pub(super) fn relent(&mut self, now: Instant) -> Bytes {
        if self.due.is_some_and(|due| due <= now) { self.finish() } else { Bytes::new() }
    }

    pub(super) fn finish(&mut self) -> Bytes {
        self.due = None;
        self.masker.as_mut().map(TerminalMasker::relent).unwrap_or_default()
    }
}

/// What was typed at a terminal and has not been echoed.
#[derive(Default)]
pub(super) struct Typed {
    keys: VecDeque<u8>,
}

impl Typed {
    /// The client typed, or pasted.
    pub(super) fn note(&mut self, data: &[u8]) {
        if data.len() > ECHO_BYTES_MAX {
            return self.keys.clear();
        }
        self.keys.extend(data);
        let excess = self.keys.len().saturating_sub(TYPED_BYTES_MAX);
        self.keys.drain(..excess);
    }

    /// Whether this output is one key's echo.
    pub(super) fn echoes(&mut self, data: &[u8]) -> bool {
        if data.len() > ECHO_BYTES_MAX {
            return false;
        }
        let Some(at) = memchr::memmem::find(self.keys.make_contiguous(), data) else { return false };
        self.keys.drain(..at + data.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_what_was_typed_key_by_key() {
        let mut typed = Typed::default();
        for key in [b"l", b"s", b" ", b"4"] {
            typed.note(key);
        }
        assert!(typed.echoes(b"l") && typed.echoes(b"s 4"));
        assert!(!typed.echoes(b"4"), "once");
        typed.note(b"5");
        typed.note(b"pasted: 4111111111111111");
        assert!(!typed.echoes(b"4111") && !typed.echoes(b"5"));
        for _ in 0..1000 {
            typed.note(b"12345678");
        }
        assert!(typed.keys.len() <= TYPED_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_back_for_longer_than_it_may_be() {
        use crate::mask::{Detector, HashKey, Method};

        let detect = [(Detector::PaymentCard, Method::Redact)];
        let key = Arc::new(HashKey::new(zeroize::Zeroizing::new([7; 32])));
        let masks = BodyMasks::new(Vec::new(), Vec::new(), Vec::new(), &detect, Vec::new(), key).unwrap();
        let masks = Arc::new(masks);
        let mut output = Output::new(Some(&masks), true);
        let begun = Instant::now();
        assert_eq!(output.push(Bytes::from_static(b"4"), false), Bytes::new());
        tokio::time::advance(HOLD_BACK_TIME_MAX / 2).await;
        assert_eq!(output.push(Bytes::from_static(b"1"), false), Bytes::new());
        assert_eq!(output.due, Some(begun + HOLD_BACK_TIME_MAX), "since the first");
        assert_eq!(output.relent(Instant::now()), Bytes::new());
        tokio::time::advance(HOLD_BACK_TIME_MAX / 2).await;
        assert_eq!(output.relent(Instant::now()), Bytes::from_static(b"41"));
        assert_eq!(output.push(Bytes::from_static(b"1"), true), Bytes::from_static(b"1"), "an echo");
        assert_eq!(output.due, None);
        assert_eq!(output.push(Bytes::from_static(b" 4"), false), Bytes::new());
        assert_eq!(output.due, Some(Instant::now() + HOLD_BACK_TIME_MAX));
        assert_eq!(output.push(Bytes::from_static(b" \r\n"), false), Bytes::from_static(b" 4 \r\n"));
        assert_eq!(output.due, None);
    }
}
