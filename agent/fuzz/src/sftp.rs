//! Bytes of both directions of an SFTP channel, cut at will: what is passed on is what came, and nothing is understood twice.

use bytes::Bytes;
use portcullis::codec::sftp::{Direction, Outgoing, Piece, Request, Splitter, Status, known_extensions};
use portcullis::request::ssh::sftp::operations;

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let (stream, cuts) = crate::cut(data);
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut splitter = Splitter::new(direction);
        let mut rest = Bytes::copy_from_slice(stream);
        let mut passed = Vec::new();
        let mut cuts = cuts.iter();
        'stream: while !rest.is_empty() {
            let length = cuts.next().map_or(rest.len(), |cut| usize::from(*cut).max(1)).min(rest.len());
            let message = rest.split_to(length);
            let mut outgoing = Outgoing::of(&message);
            let mut part = message.clone();
            loop {
                let piece = match splitter.next(&mut part) {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break,
                    Err(_) => break 'stream,
                };
                match piece {
                    Piece::Packet(packet) => {
                        if let Ok(request) = Request::parse(&packet) {
                            assert!(operations(&request, Some("/home/x")).len() <= 2);
                        }
                        let _ = (Status::parse(&packet), known_extensions(&packet));
                        outgoing.pass(&packet.raw);
                    }
                    Piece::Bulk(bulk) => outgoing.pass(&bulk.raw),
                    Piece::Part(bytes) => outgoing.pass(&bytes),
                }
            }
            for bytes in outgoing.take() {
                passed.extend_from_slice(&bytes);
            }
        }
        assert!(stream.starts_with(&passed));
    }
}
