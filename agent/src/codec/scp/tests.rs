//! The old protocol as real programs speak it, and as they could be made to misread it.

use super::*;

fn all(bytes: &'static [u8], piece: usize) -> Result<Vec<Message>, ScpError> {
    let (mut lines, mut all) = (Lines::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        let mut input = Bytes::from_static(piece);
        while !input.is_empty() {
            all.extend(lines.message(&mut input)?);
        }
    }
    Ok(all)
}

fn entry(mode: u32, size: u64, name: &'static str) -> Entry {
    Entry { mode, size, name: Bytes::from_static(name.as_bytes()) }
}

#[test]
fn a_conversation_is_read_whole_and_byte_by_byte() {
    let said =
        b"T1700000000 0 1600000000 0\nD0755 0 in\nC0644 12 a b.txt\nE\n\x01scp: x: No such file\n\x02gone\n";
    let expected = [
        Message::Times { modified: 1_700_000_000, accessed: 1_600_000_000 },
        Message::Folder(entry(0o755, 0, "in")),
        Message::File(entry(0o644, 12, "a b.txt")),
        Message::End,
        Message::Failed(Failure::new("scp: x: No such file")),
        Message::Failed(Failure { fatal: true, text: Bytes::from_static(b"gone") }),
    ];
    for piece in [1, 2, 3, 7, said.len()] {
        assert_eq!(all(said, piece).as_deref(), Ok(expected.as_slice()), "{piece}");
    }
    let again: Vec<u8> = expected.iter().flat_map(|message| message.encode().to_vec()).collect();
    assert_eq!(again, said);
}

#[test]
fn what_programs_could_read_otherwise_is_refused() {
    for line in [
        "C644 1 x\n",
        "C00644 1 x\n",
        "C0648 1 x\n",
        "C0644 +1 x\n",
        "C0644 -1 x\n",
        "C0644 18446744073709551615 x\n",
        "C0644 9223372036854775808 x\n",
        "C0644  1 x\n",
        "C0644 1 \n",
        "C0644 1 a/b\n",
        "C0644 1 ..\n",
        "C0644 1 .\n",
        "C0644 1 a\0b\n",
        "C0644 1\n",
        "E \n",
        "T1 0 1\n",
        "T1 0 1 0 1\n",
        "X\n",
        "\n",
    ] {
        assert!(all(line.as_bytes(), 100).is_err(), "{line:?}");
    }
}

#[test]
fn no_line_is_longer_than_every_programs_buffer() {
    let long = |beginning: &str, bytes: usize| {
        let text = format!("{beginning}{}\n", "A".repeat(bytes));
        let mut input = Bytes::from(text);
        Lines::default().message(&mut input)
    };
    assert_eq!(long("C0644 1 ", LINE_BYTES_MAX), Err(ScpError::Length));
    let Ok(Some(told)) = long("\x01", 4096) else { panic!() };
    assert!(told.encode().len() < LINE_BYTES_MAX);
    assert_eq!(long("\x01", 1 << 20), Err(ScpError::Length));
    let mut endless = Lines::default();
    let piece = Bytes::from_static(&[b'C'; 512]);
    assert_eq!(endless.message(&mut piece.clone()), Ok(None));
    assert_eq!(endless.message(&mut piece.clone()), Ok(None));
    assert_eq!(endless.message(&mut piece.clone()), Err(ScpError::Length));
}

#[test]
fn answers_are_yes_or_a_text() {
    let (mut lines, mut input) = (Lines::default(), Bytes::from_static(b"\0\x01no\n\0"));
    let mut next = || lines.reply(&mut input);
    assert_eq!(next(), Ok(Some(Reply::Done)));
    assert_eq!(next(), Ok(Some(Reply::Failed(Failure::new("no")))));
    assert_eq!(next(), Ok(Some(Reply::Done)));
    assert_eq!(next(), Ok(None));
    assert_eq!(lines.reply(&mut Bytes::from_static(b"hello\n")), Err(ScpError::Reply));
}
