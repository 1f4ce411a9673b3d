//! Streams of packets, fed whole, byte by byte and split at random.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::request::{ExtendedRequest, OpenFlags};
use super::{
    Direction, Packet, Piece, Request, SftpError, Splitter, Status, StatusCode, kind, known_extensions,
    status,
};

/// One field.
enum Field<'f> {
    U32(u32),
    U64(u64),
    Text(&'f [u8]),
}

fn packet(kind: u8, fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u8(kind);
    for field in fields {
        match field {
            Field::U32(value) => body.put_u32(*value),
            Field::U64(value) => body.put_u64(*value),
            Field::Text(text) => {
                body.put_u32(u32::try_from(text.len()).unwrap());
                body.put_slice(text);
            }
        }
    }
    let mut all = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    all.extend_from_slice(&body);
    all
}

fn parsed(kind: u8, fields: &[Field<'_>]) -> Result<Request, SftpError> {
    Request::parse(&Packet { raw: packet(kind, fields).into() })
}

/// All pieces of a stream that comes in these lengths, with parts joined; and the stream as it would be passed on.
fn pieces(stream: &[u8], lengths: impl Iterator<Item = usize>) -> (Vec<Piece>, Vec<u8>) {
    let mut splitter = Splitter::new(Direction::ToServer);
    let (mut found, mut passed) = (Vec::new(), Vec::new());
    let mut rest = Bytes::copy_from_slice(stream);
    for length in lengths {
        let mut input = rest.split_to(length.min(rest.len()));
        while let Some(piece) = splitter.next(&mut input).unwrap() {
            match &piece {
                Piece::Packet(packet) => passed.extend_from_slice(&packet.raw),
                Piece::Bulk(bulk) => passed.extend_from_slice(&bulk.raw),
                Piece::Part(part) => passed.extend_from_slice(part),
            }
            match (found.last_mut(), piece) {
                (Some(Piece::Part(before)), Piece::Part(part)) => {
                    *before = [before.as_ref(), part.as_ref()].concat().into();
                }
                (_, piece) => found.push(piece),
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    (found, passed)
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
    let mut stream = packet(kind::INIT, &[Field::U32(3)]);
    stream.extend(packet(
        kind::OPEN,
        &[Field::U32(1), Field::Text(b"/srv/x"), Field::U32(26), Field::U32(4), Field::U32(0o644)],
    ));
    for number in 0..3_u64 {
        let data = vec![b'd'; 1000];
        let fields =
            [Field::U32(2), Field::Text(b"\0\0\0\x01"), Field::U64(number * 1000), Field::Text(&data)];
        stream.extend(packet(kind::WRITE, &fields));
    }
    stream.extend(packet(kind::WRITE, &[Field::U32(9), Field::Text(b"h"), Field::U64(0), Field::Text(b"")]));
    stream.extend(packet(kind::CLOSE, &[Field::U32(3), Field::Text(b"\0\0\0\x01")]));
    let (whole, passed) = pieces(&stream, std::iter::repeat(stream.len()));
    assert_eq!(passed, stream);
    assert_eq!(whole.len(), 2 + 6 + 1 + 1);
    assert_eq!(pieces(&stream, std::iter::repeat(1)), (whole.clone(), passed.clone()));
    let mut state = 7_usize;
    for _ in 0..200 {
        let lengths = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            1 + (state >> 33) % 700
        });
        assert_eq!(pieces(&stream, lengths), (whole.clone(), passed.clone()));
    }
}

#[test]
fn what_lies_in_a_message_is_not_copied() {
    let stream = Bytes::from(packet(kind::CLOSE, &[Field::U32(3), Field::Text(b"h")]));
    let mut input = stream.clone();
    let Some(Piece::Packet(found)) = Splitter::new(Direction::ToServer).next(&mut input).unwrap() else {
        panic!("no packet")
    };
    assert_eq!(found.raw.as_ptr(), stream.as_ptr());
}

#[test]
fn lengths_are_checked_before_anything_is_kept() {
    let next = |bytes: &[u8], direction| Splitter::new(direction).next(&mut Bytes::copy_from_slice(bytes));
    assert_eq!(next(&[0, 0, 0, 0], Direction::ToServer), Err(SftpError::Length(0)));
    assert_eq!(next(&[0xff, 0, 0, 0], Direction::ToServer), Err(SftpError::Length(0xff00_0000)));
    let handle = [0, 0, 1, 0, 6, 0, 0, 0, 1, 0, 0, 2, 0];
    assert_eq!(next(&handle, Direction::ToServer), Err(SftpError::Handle(512)));
    // A WRITE whose data does not fill the packet, or overflows it.
    let good = packet(kind::WRITE, &[Field::U32(1), Field::Text(b"h"), Field::U64(0), Field::Text(b"abc")]);
    for (at, wrong) in [(3, good[3] + 1), (3, good[3] - 1), (25, 9)] {
        let mut bad = good.clone();
        bad[at] = wrong;
        assert_eq!(next(&bad, Direction::ToServer), Err(SftpError::Malformed(kind::WRITE)), "{at}");
    }
    let short = [0, 0, 0, 5, 103, 0, 0, 0, 1];
    assert_eq!(next(&short, Direction::ToClient), Err(SftpError::Malformed(kind::DATA)));
}

#[test]
fn requests_are_understood_whole_or_not_at_all() {
    let path = || Bytes::from_static(b"/x");
    let (id, text) = (|| Field::U32(1), || Field::Text(b"/x"));
    assert_eq!(parsed(kind::REMOVE, &[id(), text()]), Ok(Request::Remove(path())));
    assert_eq!(parsed(kind::RMDIR, &[id(), text()]), Ok(Request::Remove(path())));
    assert_eq!(parsed(kind::STAT, &[id(), text()]), Ok(Request::LookAtPath(path())));
    assert_eq!(
        parsed(kind::RENAME, &[id(), text(), Field::Text(b"/y")]),
        Ok(Request::Rename { from: path(), to: Bytes::from_static(b"/y") })
    );
    let rename = [id(), Field::Text(b"posix-rename@openssh.com"), text(), Field::Text(b"/y")];
    assert_eq!(
        parsed(kind::EXTENDED, &rename),
        Ok(Request::Rename { from: path(), to: Bytes::from_static(b"/y") })
    );
    assert_eq!(
        parsed(kind::EXTENDED, &[id(), Field::Text(b"x@y"), Field::U32(7)]),
        Ok(Request::Extended(ExtendedRequest::Unknown))
    );
    for (kind, fields) in [
        (kind::REMOVE, &[id(), text(), Field::U32(0)][..]),
        (kind::REMOVE, &[id()]),
        (kind::OPEN, &[id(), text(), Field::U32(1)]),
        (kind::SETSTAT, &[id(), text(), Field::U32(16)]),
        (kind::EXTENDED, &[id()]),
        // The server would see another name.
        (kind::REMOVE, &[id(), Field::Text(b"/srv/x\0/y")]),
        (kind::RENAME, &[id(), text(), Field::Text(b"/y\0")]),
        (kind::CLOSE, &[id(), Field::Text(&[0; 300])]),
    ] {
        assert_eq!(parsed(kind, fields), Err(SftpError::Malformed(kind)), "{kind}");
    }
    assert_eq!(parsed(kind::STATUS, &[id()]), Err(SftpError::Kind(kind::STATUS)));
    assert_eq!(parsed(77, &[id()]), Err(SftpError::Kind(77)));
}

#[test]
fn flags_say_what_an_open_file_is_for() {
    for (flags, reads, writes) in [
        (1, true, false),
        (0, true, false),
        (2, false, true),
        (3, true, true),
        (17, true, true),
        (26, false, true),
    ] {
        let flags = OpenFlags(flags);
        assert_eq!((flags.reads(), flags.writes()), (reads, writes), "{flags:?}");
    }
}

#[test]
fn answers_are_made_and_read() {
    let raw = status(7, StatusCode::PermissionDenied, "portcullis: no");
    let packet_of = |raw: Bytes| Packet { raw };
    let read = Status::parse(&packet_of(raw.clone())).unwrap();
    assert_eq!((read.code, read.message.as_str()), (StatusCode::PermissionDenied, "portcullis: no"));
    assert_eq!(packet_of(raw).id(), Some(7));
    let offered = packet(
        kind::VERSION,
        &[
            Field::U32(3),
            Field::Text(b"posix-rename@openssh.com"),
            Field::Text(b"1"),
            Field::Text(b"strange@example.com"),
            Field::Text(b"1"),
        ],
    );
    let wanted =
        packet(kind::VERSION, &[Field::U32(3), Field::Text(b"posix-rename@openssh.com"), Field::Text(b"1")]);
    assert_eq!(known_extensions(&packet_of(offered.into())).unwrap(), wanted);
    let newer = packet(kind::VERSION, &[Field::U32(4)]);
    assert_eq!(known_extensions(&packet_of(newer.into())), None);
}
