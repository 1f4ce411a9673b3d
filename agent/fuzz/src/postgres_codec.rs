//! Any bytes, from either side and cut anywhere: no panic, the same messages as when whole, and rows judged alike.

use std::fmt::Debug;

use bytes::BytesMut;
use portcullis::codec::postgres::backend::{self, decode_data_row};
use portcullis::codec::postgres::frame::HEADER_BYTES;
use portcullis::codec::postgres::frontend::{self, Bind, BindHead};
use portcullis::codec::postgres::row::{Edit, Rewritten, RowRewriter};
use portcullis::codec::postgres::split::{BindEvent, BindSplitter, RowEvent, RowSplitter};
use portcullis::codec::postgres::tag::SQL_BODY_BYTES_MAX;
use portcullis::codec::postgres::{BackendTag, DecodeError, Frame, FrontendTag, Item, Scanner, Tag, startup};

/// Where the next cut falls: the fuzzer's first bytes, over and over.
struct Cuts<'a> {
    lengths: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl Cuts<'_> {
    fn pieces<'b>(&mut self, mut rest: &'b [u8]) -> Vec<&'b [u8]> {
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let length = self.lengths.next().map_or(rest.len(), |length| usize::from(*length) + 1);
            let (piece, after) = rest.split_at(length.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// What a stream gives: tag and body of each message, and the error that ended it.
fn messages<T: Tag>(pieces: &[&[u8]]) -> (Vec<(T, Vec<u8>)>, Option<DecodeError>) {
    let (mut scanner, mut buffer, mut seen) = (Scanner::<T>::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut input = buffer.as_slice();
        loop {
            match scanner.next(&mut input) {
                Ok(Some(Item::Frame(frame))) => seen.push((frame.tag, frame.body().to_vec())),
                Ok(Some(Item::Large { tag, .. })) => seen.push((tag, Vec::new())),
                Ok(Some(Item::Chunk { bytes, .. })) => {
                    let (_, body) = seen.last_mut().expect("a chunk follows its head");
                    body.extend_from_slice(bytes);
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(scanner.wanted(input) <= SQL_BODY_BYTES_MAX + HEADER_BYTES);
        let used = buffer.len() - input.len();
        buffer.drain(..used);
    }
    (seen, None)
}

fn either_side<T: Tag + Debug>(
    stream: &[u8],
    cuts: &mut Cuts<'_>,
    check: impl Fn(Frame<'_, T>) -> Result<(), DecodeError>,
) {
    let whole = messages::<T>(&[stream]);
    let cut = messages::<T>(&cuts.pieces(stream));
    assert!(whole == cut, "a cut changes what is seen");
    for (tag, body) in whole.0 {
        let mut bytes = vec![tag.byte()];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(&body);
        if let Err(error) = check(Frame { tag, bytes: &bytes }) {
            assert_eq!(error.side(), T::SIDE);
        }
    }
}

fn row(body: &[u8], cuts: &mut Cuts<'_>) {
    let mut splitter = RowSplitter::new(body.len());
    let mut ended = false;
    let mut failed = false;
    for mut piece in cuts.pieces(body) {
        loop {
            match splitter.next(&mut piece) {
                Ok(Some(event)) => ended |= event == RowEvent::End,
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        if failed {
            break;
        }
    }
    if !body.is_empty() {
        assert_eq!(ended && !failed, decode_data_row(body).is_ok(), "whole and in pieces disagree");
    }
}

/// Rewriting every cell to what it is gives the same row, and only a row that can be read.
fn rewrite(body: &[u8]) {
    let mut bytes = vec![BackendTag::DataRow.byte()];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    let columns = decode_data_row(body).map_or(1, |cells| cells.len() as u16);
    let mut output = BytesMut::new();
    let frame = Frame { tag: BackendTag::DataRow, bytes: &bytes };
    let columns = (0..columns).collect::<Vec<_>>();
    let result = RowRewriter::default().rewrite(frame, &columns, &mut output, |_, cell, scratch| {
        scratch.extend_from_slice(cell);
        Edit::Replace
    });
    assert_eq!(result.is_ok(), decode_data_row(body).is_ok());
    match result {
        Ok(Rewritten::Changed) => assert!(output == bytes),
        Ok(Rewritten::Unchanged) | Err(_) => assert!(output.is_empty()),
    }
}

fn bind(body: &[u8], cuts: &mut Cuts<'_>) {
    let Ok(Some((head, used))) = BindHead::decode_prefix(body) else {
        assert!(Bind::decode(body).is_err(), "a Bind without a head was read");
        return;
    };
    let rest = body.get(used..).unwrap_or_default();
    let mut splitter = BindSplitter::new(head.parameters, rest.len());
    let mut ended = false;
    'pieces: for mut piece in cuts.pieces(rest) {
        loop {
            match splitter.next(&mut piece) {
                Ok(Some(event)) => ended |= event == BindEvent::End,
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
    }
    assert_eq!(ended, Bind::decode(body).is_ok(), "whole and in pieces disagree");
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let (lengths, stream) = data.split_at(data.len().min(4));
    let mut cuts = Cuts { lengths: lengths.iter().cycle() };
    if let Ok(Some((_, used))) = startup::decode(stream) {
        assert!(used <= stream.len());
    }
    either_side::<FrontendTag>(stream, &mut cuts, frontend::check);
    either_side::<BackendTag>(stream, &mut cuts, backend::check);
    row(stream, &mut cuts);
    rewrite(stream);
    bind(stream, &mut cuts);
}
