//! Output of terminals: tells text from escape sequences (ECMA-48, ISO/IEC 2022) in a stream of bytes, however it is cut. What is
//! no well-formed sequence is text: nothing is hidden from who reads the text because it begins like one. Pure.

/// Longest control sequence or escape, in bytes. The longest that programs write set both colours and all attributes and have
/// some sixty.
const SEQUENCE_BYTES_MAX: usize = 128;

/// Digits of one parameter. No terminal knows a larger number, but a card number is one.
const PARAMETER_DIGITS_MAX: usize = 8;

/// Longest string of a device or operating system command (window titles, hyperlinks), in bytes. What is longer is pictures.
const STRING_BYTES_MAX: usize = 4096;

/// Bytes that introduce a string: an escape and a letter, or one C1 control in UTF-8.
const INTRODUCER_BYTES: usize = 2;

/// Bytes of a UTF-8 character that may stand before its last one (RFC 3629).
const TAIL_BYTES: usize = 3;

/// Bytes that are looked at together.
const BLOCK_BYTES: usize = 32;

const BEL: u8 = 0x07;
const SO: u8 = 0x0e;
const SI: u8 = 0x0f;
const ESC: u8 = 0x1b;

/// `CSI` as one byte, for terminals of eight bits.
const CSI: u8 = 0x9b;

/// First byte of a C1 control in UTF-8.
const C1_LEAD: u8 = 0xc2;

/// What a sequence does to the text around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: what stands before and after it is read as one (colours, modes, titles).
    None,
    /// A gap in the line.
    Gap,
    /// What follows stands elsewhere.
    Move,
}

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'p> {
    /// What is read.
    Text(&'p [u8]),
    /// A control function.
    Sequence(&'p [u8], Effect),
    /// A control string: its introducer, and its content with the terminator. The content is text, but no part of the text
    /// around it.
    String(&'p [u8], &'p [u8]),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After a byte that begins a C1 control, or a character.
    Lead,
    Escape,
    EscapeIntermediate,
    Parameters,
    Intermediates,
    String,
    StringEscape,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct Splitter {
    state: State,
    /// The sequence that is not complete.
    held: Vec<u8>,
    /// Bytes of it, also those that were let go.
    length: usize,
    /// Digits of the parameter that is being read.
    digits: usize,
    /// The last bytes of text, if nothing else came after them: a character may be cut.
    tail: [u8; TAIL_BYTES],
}

impl Splitter {
    /// Takes the next bytes.
    pub fn push<'p>(&mut self, bytes: &'p [u8], emit: &mut impl FnMut(Piece<'_>)) {
        let mut rest: &'p [u8] = bytes;
        while let Some(first) = rest.first() {
            if self.state == State::Ground {
                let length = self.text_length(rest);
                if length > 0 {
                    let (text, more) = rest.split_at(length.min(rest.len()));
                    emit(Piece::Text(text));
                    self.remember(text);
                    rest = more;
                    continue;
                }
                if let Some((sequence, effect, more)) = whole_control(rest) {
                    emit(Piece::Sequence(sequence, effect));
                    self.tail = [0; TAIL_BYTES];
                    rest = more;
                    continue;
                }
            }
            if self.byte(*first, emit) {
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }

    /// Bytes of a sequence whose end has not come.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Nothing has come for a while, or nothing comes any more: lets go of what is held.
    pub fn relent(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        match self.state {
            State::Ground => {}
            State::Lead => {
                self.give_up(emit);
                self.remember(&[C1_LEAD]);
            }
            // A string is read as a whole or as text.
            State::String | State::StringEscape => {
                self.give_up(emit);
            }
            State::Escape | State::EscapeIntermediate | State::Parameters | State::Intermediates => {
                if !self.held.is_empty() {
                    emit(Piece::Sequence(&self.held, Effect::None));
                    self.held.clear();
                }
            }
        }
    }

    /// How many bytes of text there are before the next control.
    fn text_length(&self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if let Some(block) = rest.first_chunk::<BLOCK_BYTES>()
                // No branch, so that vector registers do it.
                && block.iter().fold(0, |found, byte| found | special(*byte)) == 0
            {
                at += BLOCK_BYTES;
                continue;
            }
            let Some(next) = rest.iter().position(|byte| special(*byte) != 0) else { return bytes.len() };
            at += next;
            let text = match bytes.get(at).copied().unwrap_or_default() {
                CSI => self.inside_character(bytes.get(..at).unwrap_or_default()),
                C1_LEAD => bytes.get(at + 1).is_some_and(|next| !is_c1(*next)),
                _ => false,
            };
            if !text {
                return at;
            }
            at += 1;
        }
    }

    /// Whether a byte after this text continues a character of several bytes (RFC 3629 §3).
    fn inside_character(&self, text: &[u8]) -> bool {
        let before = text.iter().rev().chain(self.tail.iter().rev()).take(TAIL_BYTES).enumerate();
        for (distance, byte) in before {
            let length = match byte {
                0x80..=0xbf => continue,
                0xc2..=0xdf => 1,
                0xe0..=0xef => 2,
                0xf0..=0xf4 => 3,
                0x00..=0x7f | 0xc0..=0xc1 | 0xf5..=0xff => 0,
            };
            return distance < length;
        }
        false
    }

    /// This text came last.
    fn remember(&mut self, text: &[u8]) {
        for byte in text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default() {
            self.tail.rotate_left(1);
            if let Some(last) = self.tail.last_mut() {
                *last = *byte;
            }
        }
    }

    /// One byte; `false` when it is to be looked at again, in another state.
    fn byte(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        match self.state {
            State::Ground => self.ground(byte, emit),
            State::Escape | State::EscapeIntermediate | State::Parameters | State::Intermediates
                if byte == ESC =>
            {
                // A terminal forgets the one and begins the other.
                emit(Piece::Sequence(&self.held, Effect::None));
                self.reset();
                self.begin(byte, State::Escape);
                true
            }
            State::Lead => self.lead(byte, emit),
            State::Escape => self.escape(byte, emit),
            State::EscapeIntermediate => match byte {
                0x20..=0x2f => self.more(byte, State::EscapeIntermediate, emit),
                // Character sets, mostly (ISO/IEC 2022).
                0x30..=0x7e => self.complete(byte, Effect::None, emit),
                _ => self.give_up(emit),
            },
            State::Parameters => self.parameters(byte, emit),
            State::Intermediates => match byte {
                0x20..=0x2f => self.more(byte, State::Intermediates, emit),
                0x40..=0x7e => self.complete(byte, control(byte), emit),
                _ => self.give_up(emit),
            },
            State::String => self.string(byte, emit),
            State::StringEscape if byte == b'\\' => self.complete_string(byte, emit),
            State::StringEscape => {
                // The escape ends the string and begins something else.
                self.held.pop();
                self.give_up(emit);
                self.begin(ESC, State::Escape);
                false
            }
        }
    }

    fn ground(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        self.tail = [0; TAIL_BYTES];
        match byte {
            ESC => self.begin(byte, State::Escape),
            CSI => self.begin(byte, State::Parameters),
            C1_LEAD => self.begin(byte, State::Lead),
            BEL | SO | SI => emit(Piece::Sequence(&[byte], Effect::None)),
            _ => emit(Piece::Text(&[byte])),
        }
        true
    }

    /// The second byte of a C1 control, or of a character (ECMA-48 §8.3 names them).
    fn lead(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        match byte {
            CSI => self.more(byte, State::Parameters, emit),
            // DCS, SOS, OSC, PM, APC.
            0x90 | 0x98 | 0x9d..=0x9f => self.more(byte, State::String, emit),
            // IND, NEL, RI.
            0x84 | 0x85 | 0x8d => self.complete(byte, Effect::Move, emit),
            _ if is_c1(byte) => self.complete(byte, Effect::None, emit),
            _ => {
                let again = self.give_up(emit);
                self.remember(&[C1_LEAD]);
                again
            }
        }
    }

    fn escape(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        match byte {
            b'[' => self.more(byte, State::Parameters, emit),
            // OSC, DCS, SOS, PM, APC.
            b']' | b'P' | b'X' | b'^' | b'_' => self.more(byte, State::String, emit),
            0x20..=0x2f => self.more(byte, State::EscapeIntermediate, emit),
            // DECSC, DECRC, IND, NEL, RI, RIS.
            b'7' | b'8' | b'D' | b'E' | b'M' | b'c' => self.complete(byte, Effect::Move, emit),
            0x30..=0x7e => self.complete(byte, Effect::None, emit),
            _ => self.give_up(emit),
        }
    }

    fn parameters(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        match byte {
            b'0'..=b'9' if self.digits >= PARAMETER_DIGITS_MAX => self.give_up(emit),
            b'0'..=b'9' => {
                self.digits += 1;
                self.more(byte, State::Parameters, emit)
            }
            0x3a..=0x3f => {
                self.digits = 0;
                self.more(byte, State::Parameters, emit)
            }
            0x20..=0x2f => self.more(byte, State::Intermediates, emit),
            0x40..=0x7e => self.complete(byte, control(byte), emit),
            _ => self.give_up(emit),
        }
    }

    fn string(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        const CAN: u8 = 0x18;
        const SUB: u8 = 0x1a;
        const ST: u8 = 0x9c;
        match byte {
            BEL => self.complete_string(byte, emit),
            ST if self.held.last() == Some(&C1_LEAD) => self.complete_string(byte, emit),
            CAN | SUB => self.give_up(emit),
            _ if self.held.len() >= STRING_BYTES_MAX => self.give_up(emit),
            ESC => {
                self.held.push(byte);
                self.state = State::StringEscape;
                true
            }
            _ => {
                self.held.push(byte);
                true
            }
        }
    }

    fn begin(&mut self, byte: u8, state: State) {
        self.held.push(byte);
        self.length = 1;
        self.digits = 0;
        self.state = state;
    }

    fn more(&mut self, byte: u8, state: State, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        if self.length >= SEQUENCE_BYTES_MAX {
            return self.give_up(emit);
        }
        self.held.push(byte);
        self.length += 1;
        self.state = state;
        true
    }

    fn complete(&mut self, byte: u8, effect: Effect, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        self.held.push(byte);
        emit(Piece::Sequence(&self.held, effect));
        self.reset()
    }

    fn complete_string(&mut self, byte: u8, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        self.held.push(byte);
        let (introducer, content) = self.held.split_at(INTRODUCER_BYTES.min(self.held.len()));
        emit(Piece::String(introducer, content));
        self.reset()
    }

    /// It is no sequence: what was taken for one is text. The byte that shows it is looked at again.
    fn give_up(&mut self, emit: &mut impl FnMut(Piece<'_>)) -> bool {
        let string = matches!(self.state, State::String | State::StringEscape);
        let (introducer, text) =
            self.held.split_at(if string { INTRODUCER_BYTES.min(self.held.len()) } else { 0 });
        if !introducer.is_empty() {
            emit(Piece::Sequence(introducer, Effect::Move));
        }
        if !text.is_empty() {
            emit(Piece::Text(text));
        }
        !self.reset()
    }

    fn reset(&mut self) -> bool {
        self.held.clear();
        self.state = State::Ground;
        true
    }
}

/// Not zero for what may end a run of text.
fn special(byte: u8) -> u8 {
    [ESC, BEL, SO, SI, CSI, C1_LEAD].iter().fold(0, |found, one| found | u8::from(byte == *one))
}

fn is_c1(byte: u8) -> bool {
    matches!(byte, 0x80..=0x9f)
}

/// A control sequence that is all there, as nearly all are, and what comes after it.
fn whole_control(bytes: &[u8]) -> Option<(&[u8], Effect, &[u8])> {
    let body = bytes.strip_prefix(b"\x1b[")?;
    let mut digits = 0;
    for (at, byte) in body.iter().take(SEQUENCE_BYTES_MAX - 2).enumerate() {
        match byte {
            b'0'..=b'9' if digits < PARAMETER_DIGITS_MAX => digits += 1,
            0x3a..=0x3f => digits = 0,
            0x40..=0x7e => {
                let (sequence, rest) = bytes.split_at_checked(at + 3)?;
                return Some((sequence, control(*byte), rest));
            }
            _ => return None,
        }
    }
    None
}

/// What a control sequence does, by its final byte (ECMA-48 §8.3 and xterm's control sequences).
fn control(last: u8) -> Effect {
    match last {
        // SGR, EL, SM, RM, DSR, DA, cursor style, window operations, soft reset.
        b'm' | b'K' | b'h' | b'l' | b'n' | b'c' | b'q' | b't' | b'p' => Effect::None,
        b'C' => Effect::Gap,
        _ => Effect::Move,
    }
}
