//! What a client sends: messages with the right lengths, made of statements that mean something here and of the fuzzer's
//! bytes, or bytes as they come.

use bytes::BytesMut;
use portcullis::codec::postgres::encode::{backend, frontend};
use portcullis::codec::postgres::frontend::Object;
use portcullis::codec::postgres::{Format, Text};

use super::statements::{KNOWN, MAKERS, OTHERS, USERS};
use crate::input::Input;

/// Bytes of a parameter that makes its Bind too long to be taken in one piece.
const LONG_BYTES: usize = 300 * 1024;

/// Functions by their OIDs in `pg_proc`: one that writes and one that reads.
pub const LO_OPEN: u32 = 952;
pub const LOWER: u32 = 870;

/// Names of statements and portals. Some are those of SQL's own, and one is the relay's.
const NAMES: [&[u8]; 6] = [b"", b"p", b"q", b"c", b"d", b"portcullis_refused"];

const FORMATS: [Format; 2] = [Format::Text, Format::Binary];

/// Appends one message, or a few that belong together.
pub fn message(input: &mut Input<'_>, kind: u8, out: &mut BytesMut) {
    let name = input.pick(&NAMES);
    let name = Text::before_nul(name);
    // None of these is longer than a message.
    let written = match kind % 16 {
        0..=2 => frontend::query(out, Text::before_nul(&sql(input))),
        3 | 4 => frontend::parse(out, name, Text::before_nul(&sql(input)), types(input).into_iter()),
        5 => bind(input, out),
        6 => frontend::describe(out, object(input, name)),
        7 => frontend::execute(out, name, i32::from(input.byte() % 4) - i32::from(input.byte() == 255)),
        8 => {
            frontend::sync(out);
            Ok(())
        }
        9 => {
            frontend::flush(out);
            Ok(())
        }
        10 => frontend::close(out, object(input, name)),
        11 => copy(input, out),
        12 => {
            function_call(input, out);
            Ok(())
        }
        13 => {
            // As drivers do.
            let text = sql(input);
            let whole = frontend::parse(out, name, Text::before_nul(&text), [].into_iter());
            whole
                .and_then(|()| bind_to(input, name, name, out))
                .and_then(|()| frontend::execute(out, name, 0))
        }
        14 => {
            out.extend_from_slice(&[input.byte()]);
            let body = input.piece();
            out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            out.extend_from_slice(body);
            Ok(())
        }
        _ => {
            match input.byte() {
                0..=15 => frontend::terminate(out),
                _ => out.extend_from_slice(input.piece()),
            }
            Ok(())
        }
    };
    written.expect("it fits");
}

/// One statement or several.
fn sql(input: &mut Input<'_>) -> Vec<u8> {
    let count = [1, 1, 1, 2, 3].get(input.below(8)).copied().unwrap_or(1);
    let each: Vec<Vec<u8>> = (0..count).map(|_| statement(input)).collect();
    each.join(&b"; "[..])
}

fn statement(input: &mut Input<'_>) -> Vec<u8> {
    let known = |input: &mut Input<'_>| KNOWN[input.below(KNOWN.len())].0.as_bytes().to_vec();
    match input.below(8) {
        0 | 1 => known(input),
        2 | 3 => input.pick(&OTHERS).as_bytes().to_vec(),
        4 => [input.pick(&MAKERS).as_bytes(), &known(input)].concat(),
        5 | 6 => input.pick(&USERS).as_bytes().to_vec(),
        _ => input.text(),
    }
}

fn types(input: &mut Input<'_>) -> Vec<u32> {
    (0..input.below(3)).map(|_| input.pick(&[0, 25, 23])).collect()
}

fn object<'a>(input: &mut Input<'_>, name: Text<'a>) -> Object<'a> {
    if input.below(2) == 0 { Object::Portal(name) } else { Object::Statement(name) }
}

fn bind(
    input: &mut Input<'_>,
    out: &mut BytesMut,
) -> Result<(), portcullis::codec::postgres::encode::EncodeError> {
    let (portal, statement) = (input.pick(&NAMES), input.pick(&NAMES));
    bind_to(input, Text::before_nul(portal), Text::before_nul(statement), out)
}

fn bind_to(
    input: &mut Input<'_>,
    portal: Text<'_>,
    statement: Text<'_>,
    out: &mut BytesMut,
) -> Result<(), portcullis::codec::postgres::encode::EncodeError> {
    let formats: Vec<Format> = (0..input.below(3)).map(|_| input.pick(&FORMATS)).collect();
    let results: Vec<Format> = (0..input.below(3)).map(|_| input.pick(&FORMATS)).collect();
    let mut values: Vec<Option<Vec<u8>>> = Vec::new();
    for _ in 0..input.below(3) {
        values.push((input.below(4) > 0).then(|| input.piece().to_vec()));
    }
    if input.byte() == 254 {
        values.push(Some(vec![b'x'; LONG_BYTES]));
    }
    frontend::bind(out, portal, statement, &formats, values.iter().map(Option::as_deref), &results)
}

fn copy(
    input: &mut Input<'_>,
    out: &mut BytesMut,
) -> Result<(), portcullis::codec::postgres::encode::EncodeError> {
    match input.below(4) {
        0 => {
            frontend::copy_done(out);
            Ok(())
        }
        1 => frontend::copy_fail(out, Text::before_nul(&input.text())),
        _ => backend::copy_data(out, input.piece()),
    }
}

fn function_call(input: &mut Input<'_>, out: &mut BytesMut) {
    let oid: u32 = input.pick(&[0, LO_OPEN, LOWER, 20_500]);
    let argument = input.piece();
    let mut body = BytesMut::new();
    body.extend_from_slice(&oid.to_be_bytes());
    body.extend_from_slice(&[0, 0, 0, 1]);
    body.extend_from_slice(&(argument.len() as u32).to_be_bytes());
    body.extend_from_slice(argument);
    body.extend_from_slice(&[0, input.byte() % 2]);
    out.extend_from_slice(b"F");
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&body);
}
