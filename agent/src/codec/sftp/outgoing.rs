//! What of a message passes on: as much of it as lies together goes as one, without a copy.

use bytes::Bytes;

/// Pieces that pass, in order.
pub struct Outgoing {
    message: Bytes,
    /// The stretch of the message that passes and is not handed out yet.
    from: usize,
    to: usize,
    ready: Vec<Bytes>,
}

impl Outgoing {
    /// For one message.
    #[must_use]
    pub fn of(message: &Bytes) -> Self {
        Self { message: message.clone(), from: 0, to: 0, ready: Vec::new() }
    }

    /// A piece passes: of the message, or another one.
    pub fn pass(&mut self, piece: &Bytes) {
        let at = (piece.as_ptr() as usize).wrapping_sub(self.message.as_ptr() as usize);
        let within = at.checked_add(piece.len()).is_some_and(|end| end <= self.message.len());
        if within && at == self.to && self.to > self.from {
            self.to += piece.len();
            return;
        }
        self.flush();
        if within {
            (self.from, self.to) = (at, at + piece.len());
        } else if !piece.is_empty() {
            self.ready.push(piece.clone());
        }
    }

    /// Everything that passes so far.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.flush();
        std::mem::take(&mut self.ready)
    }

    fn flush(&mut self) {
        if self.to > self.from {
            self.ready.push(self.message.slice(self.from..self.to));
        }
        self.from = self.to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_goes_together() {
        let message = Bytes::from_static(b"0123456789");
        let mut outgoing = Outgoing::of(&message);
        for piece in [message.slice(0..2), message.slice(2..5), message.slice(6..8)] {
            outgoing.pass(&piece);
        }
        outgoing.pass(&Bytes::from_static(b"other"));
        outgoing.pass(&message.slice(8..10));
        assert_eq!(outgoing.take(), [&b"01234"[..], b"67", b"other", b"89"]);
        assert!(outgoing.take().is_empty());
    }
}
