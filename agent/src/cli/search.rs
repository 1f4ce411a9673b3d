//! Looks for text in recorded sessions: in what was asked, and in what commands and shells showed.

use std::collections::HashMap;

use crate::codec::terminal::{Effect, Piece, Splitter};
use crate::flow::SessionId;
use crate::record::event::Event;
use crate::record::read::{Catalogue, ReadError};
use crate::record::stream::{StreamBlock, StreamName};

/// What is looked for. Upper and lower case count as one, as far as ASCII goes.
pub(super) struct Search<'s> {
    /// In statements, requests and command lines.
    pub(super) command: Option<&'s str>,
    /// In what an SSH command or shell showed, without its colours.
    pub(super) output: Option<&'s str>,
}

impl Search<'_> {
    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.command.is_none() && self.output.is_none()
    }

    /// Whether a session has everything that is looked for, as far as `go_on` lets it look.
    ///
    /// # Errors
    /// Its recording cannot be read.
    pub(super) fn is_in(
        &self,
        session: SessionId,
        catalogue: &Catalogue,
        go_on: &dyn Fn() -> bool,
    ) -> Result<bool, ReadError> {
        let (mut command, mut output) = (self.command, self.output);
        let mut shown = HashMap::new();
        for recorded in catalogue.events(session)? {
            if !go_on() {
                return Ok(false);
            }
            match recorded?.event {
                Some(Event::Intent(intent)) if has(command, &intent.asked.text.text) => command = None,
                Some(Event::Refused(refused)) if has(command, &refused.asked.text.text) => command = None,
                Some(Event::Held(held)) if has(command, &held.asked.text.text) => command = None,
                Some(Event::Stream(block)) => {
                    if let Some(wanted) = output
                        && let StreamName::Stdout | StreamName::Stderr = block.stream
                    {
                        let shown: &mut Shown = shown.entry((block.operation, block.stream)).or_default();
                        output = if shown.has(&block, wanted) { None } else { Some(wanted) };
                    }
                }
                Some(_) | None => {}
            }
            if command.is_none() && output.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn has(wanted: Option<&str>, text: &str) -> bool {
    wanted.is_some_and(|wanted| contains(text.as_bytes(), wanted))
}

fn contains(text: &[u8], wanted: &str) -> bool {
    memchr::memmem::find(&text.to_ascii_lowercase(), wanted.to_ascii_lowercase().as_bytes()).is_some()
}

/// The visible text of one stream, of which the end is kept: what is looked for may be cut by a block.
#[derive(Default)]
struct Shown {
    splitter: Splitter,
    text: Vec<u8>,
}

impl Shown {
    fn has(&mut self, block: &StreamBlock, wanted: &str) -> bool {
        let text = &mut self.text;
        self.splitter.push(&block.bytes, &mut |piece| match piece {
            Piece::Text(part) => text.extend_from_slice(part),
            Piece::Sequence(_, Effect::None) | Piece::String(..) => {}
            Piece::Sequence(_, Effect::Gap) => text.push(b' '),
            Piece::Sequence(_, Effect::Move) => text.push(b'\n'),
        });
        let found = contains(text, wanted);
        let kept = text.len().saturating_sub(wanted.len());
        text.drain(..kept);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_through_colours_and_across_blocks() {
        let mut shown = Shown::default();
        let block = |bytes: &[u8]| StreamBlock {
            operation: 1,
            stream: StreamName::Stdout,
            offset: 0,
            bytes: bytes.to_vec(),
        };
        assert!(!shown.has(&block(b"all is well\r\n\x1b[31mfatal"), "fatal error"));
        assert!(shown.has(&block(b"\x1b[1m ERR\x1b[0mOR: disk"), "fatal error"));
        assert!(
            !Shown::default().has(&block(b"\x1b]0;fatal error\x07"), "fatal error"),
            "a title is not shown"
        );
    }
}
