//! WebSocket frames (RFC 6455 section 5), as both sides send them. No extension is ever negotiated, so reserved bits are
//! errors.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Longest payload of a control frame (section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Bytes of a streamed message handed out at once.
const PART_BYTES_MAX: usize = 64 * 1024;

/// Who sends the bytes: clients mask their frames, servers do not (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// What a frame is (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// The end.
    Close,
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// A peer that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// A control frame that is long or in pieces.
    #[error("a WebSocket control frame is too long or in pieces")]
    Control,
    /// A message begins inside another, or goes on without having begun.
    #[error("a WebSocket message's pieces are out of order")]
    Fragments,
    /// A length not in its shortest form, or with its highest bit set.
    #[error("a WebSocket frame's length is malformed")]
    Length,
    /// A client's frame without a mask, or a server's with one.
    #[error("a WebSocket frame is masked by the wrong side")]
    Mask,
    /// A code that is not defined.
    #[error("a WebSocket frame has an unknown opcode")]
    Opcode,
    /// Bits of an extension that was not negotiated.
    #[error("a WebSocket frame uses an extension that was not negotiated")]
    Reserved,
    /// A text message that is no UTF-8.
    #[error("a WebSocket text message is not UTF-8")]
    Utf8,
}

/// What comes out of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A control frame; may stand between the pieces of a message.
    Control {
        /// Which.
        opcode: Opcode,
        /// Unmasked.
        payload: Bytes,
    },
    /// A whole message, its fragments joined.
    Message {
        /// Text or binary.
        opcode: Opcode,
        /// Unmasked.
        payload: Bytes,
    },
    /// A piece of a message that is too long to be gathered.
    Part {
        /// Text or binary.
        opcode: Opcode,
        /// Unmasked; may end inside a character.
        payload: Bytes,
        /// The message begins here.
        first: bool,
        /// The message ends here.
        last: bool,
    },
}

/// Takes one side's bytes apart.
pub struct Decoder {
    sender: Role,
    message_bytes_max: usize,
    frame: Option<Frame>,
    message: Option<Message>,
}

/// A frame whose payload is still coming.
struct Frame {
    opcode: Opcode,
    fin: bool,
    left: u64,
    mask: [u8; 4],
    /// Position within the mask.
    phase: usize,
    control: BytesMut,
}

/// A message whose end has not come.
struct Message {
    opcode: Opcode,
    gathered: BytesMut,
    /// It is handed out in parts; whether the first was.
    streams: bool,
    begun: bool,
}

impl Decoder {
    /// For the bytes of one side. Messages of up to `message_bytes_max` bytes come whole.
    #[must_use]
    pub fn new(sender: Role, message_bytes_max: usize) -> Self {
        Self { sender, message_bytes_max, frame: None, message: None }
    }

    /// Takes what can be taken from the front of `input`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The peer breaks the protocol; the connection cannot go on.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Item>, WebSocketError> {
        loop {
            if self.frame.is_none() {
                match self.header(input)? {
                    Some(frame) => self.frame = Some(frame),
                    None => return Ok(None),
                }
            }
            let before = input.len();
            if let Some(item) = self.payload(input)? {
                return Ok(Some(item));
            }
            // Nothing was taken, and the frame is still open: more bytes are needed.
            if input.len() == before && self.frame.is_some() {
                return Ok(None);
            }
        }
    }

    fn header(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, WebSocketError> {
        let Some([first, second, ..]) = input.first_chunk::<2>().copied() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WebSocketError::Reserved);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(WebSocketError::Opcode)?;
        let (fin, masked) = (first & 0x80 != 0, second & 0x80 != 0);
        if masked != (self.sender == Role::Client) {
            return Err(WebSocketError::Mask);
        }
        let short = u64::from(second & 0x7f);
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let total = 2 + extended + if masked { 4 } else { 0 };
        if input.len() < total {
            return Ok(None);
        }
        let mut header = input.split_to(total);
        header.advance(2);
        let length = match extended {
            2 => u64::from(header.get_u16()),
            8 => header.get_u64(),
            _ => short,
        };
        let shortest = match extended {
            2 => length > 125,
            8 => length > u64::from(u16::MAX) && length >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(WebSocketError::Length);
        }
        let mut mask = [0; 4];
        if masked {
            header.copy_to_slice(&mut mask);
        }
        self.check_order(opcode, fin, length)?;
        Ok(Some(Frame { opcode, fin, left: length, mask, phase: 0, control: BytesMut::new() }))
    }

    fn check_order(&mut self, opcode: Opcode, fin: bool, length: u64) -> Result<(), WebSocketError> {
        if opcode.is_control() {
            let fits = usize::try_from(length).is_ok_and(|length| length <= CONTROL_BYTES_MAX);
            return if fin && fits { Ok(()) } else { Err(WebSocketError::Control) };
        }
        match (&self.message, opcode) {
            (None, Opcode::Continuation) => Err(WebSocketError::Fragments),
            (Some(_), Opcode::Continuation) => Ok(()),
            (Some(_), _) => Err(WebSocketError::Fragments),
            (None, _) => {
                let (gathered, streams, begun) = (BytesMut::new(), false, false);
                self.message = Some(Message { opcode, gathered, streams, begun });
                Ok(())
            }
        }
    }

    /// Takes payload of the open frame, and closes it when it is complete.
    fn payload(&mut self, input: &mut BytesMut) -> Result<Option<Item>, WebSocketError> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let there = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len()).min(PART_BYTES_MAX);
        let mut piece = input.split_to(there);
        for byte in piece.iter_mut() {
            *byte ^= frame.mask.get(frame.phase).copied().unwrap_or_default();
            frame.phase = (frame.phase + 1) % 4;
        }
        frame.left -= there as u64;
        let (ends, fin, opcode) = (frame.left == 0, frame.fin, frame.opcode);
        if opcode.is_control() {
            frame.control.extend_from_slice(&piece);
            if !ends {
                return Ok(None);
            }
            let payload = std::mem::take(&mut frame.control).freeze();
            self.frame = None;
            return Ok(Some(Item::Control { opcode, payload }));
        }
        if ends {
            self.frame = None;
        }
        self.data(&piece, ends && fin)
    }

    fn data(&mut self, piece: &[u8], last: bool) -> Result<Option<Item>, WebSocketError> {
        let Some(message) = &mut self.message else { return Err(WebSocketError::Fragments) };
        message.gathered.extend_from_slice(piece);
        message.streams |= message.gathered.len() > self.message_bytes_max;
        let (opcode, streams) = (message.opcode, message.streams);
        if !streams && !last {
            return Ok(None);
        }
        let payload = message.gathered.split().freeze();
        let first = !message.begun;
        message.begun = true;
        if last {
            self.message = None;
        }
        if streams {
            let empty = payload.is_empty() && !first && !last;
            return Ok((!empty).then_some(Item::Part { opcode, payload, first, last }));
        }
        if opcode == Opcode::Text && std::str::from_utf8(&payload).is_err() {
            return Err(WebSocketError::Utf8);
        }
        Ok(Some(Item::Message { opcode, payload }))
    }
}

/// Appends one frame. `mask` is used by clients only and must be unpredictable (section 5.3).
pub fn encode(out: &mut BytesMut, sender: Role, mask: [u8; 4], opcode: Opcode, fin: bool, payload: &[u8]) {
    let masked = sender == Role::Client;
    let bit = if masked { 0x80 } else { 0 };
    out.put_u8(if fin { 0x80 } else { 0 } | opcode.bits());
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length <= 125 => out.put_u8(bit | length),
        (_, Ok(length)) => {
            out.put_u8(bit | 126);
            out.put_u16(length);
        }
        (_, Err(_)) => {
            out.put_u8(bit | 127);
            out.put_u64(payload.len() as u64);
        }
    }
    if !masked {
        out.put_slice(payload);
        return;
    }
    out.put_slice(&mask);
    let begin = out.len();
    out.put_slice(payload);
    for (byte, key) in out.iter_mut().skip(begin).zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn decode(sender: Role, bytes: &[u8], step: usize) -> Result<Vec<Item>, WebSocketError> {
        let mut decoder = Decoder::new(sender, 1024);
        let (mut input, mut items) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(item) = decoder.next(&mut input)? {
                items.push(item);
            }
        }
        Ok(items)
    }

    fn text(payload: &'static str) -> Item {
        Item::Message { opcode: Opcode::Text, payload: Bytes::from_static(payload.as_bytes()) }
    }

    #[test]
    fn the_standard_s_examples_decode_at_every_split() {
        // RFC 6455 section 5.7.
        let hello = Bytes::from_static(b"Hello");
        for step in [1, 2, 3, 100] {
            assert_eq!(decode(Role::Server, b"\x81\x05Hello", step).unwrap(), [text("Hello")]);
            let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
            assert_eq!(decode(Role::Client, &masked, step).unwrap(), [text("Hello")]);
            let pieces = b"\x01\x03Hel\x89\x05Hello\x80\x02lo";
            let ping = Item::Control { opcode: Opcode::Ping, payload: hello.clone() };
            assert_eq!(decode(Role::Server, pieces, step).unwrap(), [ping, text("Hello")]);
        }
    }

    #[test]
    fn what_is_encoded_decodes_again() {
        for length in [0, 1, 125, 126, 1000] {
            let payload = vec![b'x'; length];
            for sender in [Role::Client, Role::Server] {
                let mut out = BytesMut::new();
                encode(&mut out, sender, KEY, Opcode::Binary, true, &payload);
                let expected = Item::Message { opcode: Opcode::Binary, payload: payload.clone().into() };
                assert_eq!(decode(sender, &out, 7).unwrap(), [expected], "{length}");
            }
        }
    }

    #[test]
    fn a_long_message_comes_in_parts_and_whole_in_sum() {
        let payload: Vec<u8> = (0..200_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        let mut out = BytesMut::new();
        encode(&mut out, Role::Client, KEY, Opcode::Text, true, &payload);
        for step in [999, 70_000, 300_000] {
            let items = decode(Role::Client, &out, step).unwrap();
            let mut joined = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let Item::Part { opcode: Opcode::Text, payload, first, last } = item else {
                    panic!("{item:?}")
                };
                assert_eq!((*first, *last), (index == 0, index + 1 == items.len()));
                assert!(payload.len() <= PART_BYTES_MAX + 1024);
                joined.extend_from_slice(payload);
            }
            assert_eq!(joined, payload, "{step}");
        }
    }

    #[test]
    fn a_peer_that_breaks_the_protocol_is_told_apart() {
        for (sender, bytes, error) in [
            (Role::Server, &b"\xc1\x00"[..], WebSocketError::Reserved),
            (Role::Server, b"\x83\x00", WebSocketError::Opcode),
            (Role::Server, b"\x81\x80\0\0\0\0", WebSocketError::Mask),
            (Role::Client, b"\x81\x00", WebSocketError::Mask),
            (Role::Server, b"\x09\x00", WebSocketError::Control),
            (Role::Server, b"\x89\x7e\x00\x7e", WebSocketError::Control),
            (Role::Server, b"\x80\x00", WebSocketError::Fragments),
            (Role::Server, b"\x01\x00\x81\x00", WebSocketError::Fragments),
            (Role::Server, b"\x81\x7e\x00\x05", WebSocketError::Length),
            (Role::Server, b"\x81\x7f\x80\0\0\0\0\0\0\0", WebSocketError::Length),
            (Role::Server, b"\x81\x01\xff", WebSocketError::Utf8),
        ] {
            assert_eq!(decode(sender, bytes, 1), Err(error), "{bytes:?}");
        }
    }
}
