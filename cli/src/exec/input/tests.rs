//! Inputs, good and bad, byte for byte.

use std::io::{self, BufReader, Read};

use proptest::prelude::*;

use super::{BadItem, Format, ITEM_BYTES_MAX, Input, InputError, NonZeroUsize, Reading};

/// The result of a read: number and arguments, or the error.
type Row = (u64, Result<Vec<Vec<u8>>, BadItem>);

fn rows_in(bytes: &[u8], reading: impl Into<Reading>, buffer: usize) -> Vec<Row> {
    Input::new(BufReader::with_capacity(buffer, bytes), reading)
        .map(|next| match next {
            Ok(numbered) => (numbered.number, Ok(numbered.item.args().to_vec())),
            Err(InputError::Bad { number, reason, .. }) => (number, Err(reason)),
            Err(error) => panic!("{error}"),
        })
        .collect()
}

fn rows(bytes: &[u8], reading: impl Into<Reading>) -> Vec<Row> {
    rows_in(bytes, reading, 8192)
}

fn arg(number: u64, text: &[u8]) -> Row {
    (number, Ok(vec![text.to_vec()]))
}

#[test]
fn lines_keep_their_bytes_and_numbers() {
    let input = b"a\n\n b \xff\r\nlast";
    assert_eq!(rows(input, Format::Lines), [arg(1, b"a"), arg(3, b" b \xff\r"), arg(4, b"last")]);
    assert_eq!(rows(b"", Format::Lines), []);
    assert_eq!(rows(b"\n\n", Format::Lines), []);
    assert_eq!(rows(b"a\n", Format::Lines), [arg(1, b"a")]);
}

#[test]
fn nul_separated_items_may_hold_newlines_and_be_empty() {
    let input = b"a\nb\0\0c\0";
    assert_eq!(rows(input, Format::Nul), [arg(1, b"a\nb"), arg(2, b""), arg(3, b"c")]);
    assert_eq!(rows(b"a\0b", Format::Nul), [arg(1, b"a"), arg(2, b"b")]);
}

#[test]
fn another_delimiter_keeps_empty_items_and_takes_no_newline_at_the_end() {
    let comma = Format::Delimited(b',');
    assert_eq!(
        rows(b"a,,b\nc,d\n", comma),
        [arg(1, b"a"), arg(2, b""), arg(3, b"b\nc"), arg(4, b"d")]
    );
    assert_eq!(rows(b"a,\n", comma), [arg(1, b"a")]);
    assert_eq!(rows(b"a\n,", comma), [arg(1, b"a\n")], "only at the very end");
    assert_eq!(rows(b"a\0,b", comma), [(1, Err(BadItem::Nul)), arg(2, b"b")]);
}

#[test]
fn crlf_is_reported_once_and_can_be_removed() {
    let bytes = &b"a\nb\r\nc\r\n\r\n"[..];
    let mut input = Input::new(bytes, Format::Lines);
    let notes: Vec<_> = std::iter::from_fn(|| input.next().map(|_| input.take_note())).collect();
    let texts: Vec<_> = notes.iter().map(|note| note.as_deref().unwrap_or("")).collect();
    assert!(texts[1].starts_with("line 2 ends with CR LF"), "{texts:?}");
    assert_eq!((texts.len(), texts[0], texts[2], texts[3]), (4, "", "", ""));
    let reading = Reading { crlf: true, ..Format::Lines.into() };
    assert_eq!(rows(bytes, reading), [arg(1, b"a"), arg(2, b"b"), arg(3, b"c")]);
}

#[test]
fn several_lines_make_one_item() {
    let two = |format: Format| {
        let per_item = NonZeroUsize::new(2).unwrap();
        Reading { per_item, ..format.into() }
    };
    let args = |number, args: &[&[u8]]| (number, Ok(args.iter().map(|arg| arg.to_vec()).collect()));
    let lines = two(Format::Lines);
    assert_eq!(rows(b"a\n\nb\nc\n", lines), [args(1, &[b"a", b"b"]), args(4, &[b"c"])]);
    assert_eq!(rows(b"", lines), []);
    let expected: Vec<Row> = vec![(2, Err(BadItem::Nul)), args(1, &[b"a", b"b"])];
    assert_eq!(rows(b"a\n\0\nb\n", lines), expected, "a bad line is not one of them");
    let mut long = vec![b'x'; ITEM_BYTES_MAX];
    long.extend_from_slice(b"\ny\nz\n");
    let expected = vec![(1, Err(BadItem::TogetherTooLong)), args(3, &[b"z"])];
    assert_eq!(rows(&long, lines), expected);
}

#[test]
fn a_nul_in_a_line_is_refused_with_a_hint() {
    assert_eq!(rows(b"a\0b\nc\n", Format::Lines), [(1, Err(BadItem::Nul)), arg(2, b"c")]);
}

#[test]
fn objects_give_arguments_and_fields() {
    let input = br#"{"args": ["a", 1, true], "key": "k", "size": 3}
{"user": "u"}

{"args": []}"#;
    let items: Vec<_> = Input::new(&input[..], Format::Ndjson).map(Result::unwrap).collect();
    assert_eq!(items.iter().map(|item| item.number).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(items[0].item.args(), [b"a".to_vec(), b"1".to_vec(), b"true".to_vec()]);
    assert_eq!(items[0].item.fields()["size"], 3);
    assert!(items[1].item.args().is_empty());
}

#[test]
fn bad_objects_are_refused_by_line_and_reading_continues() {
    let input = b"{\"args\": [\"a\"}\n[1]\n{\"args\": \"a\"}\n{\"args\": [null]}\n\
        {\"args\": [\"x\\u0000\"]}\n{\"args\": [\"\xff\"]}\n{} x\n{\"args\": [\"ok\"]}\n";
    let rows = rows(input, Format::Ndjson);
    assert!(matches!(&rows[0], (1, Err(BadItem::Json { column: 14, .. }))), "{rows:?}");
    assert_eq!(rows[1], (2, Err(BadItem::NotAnObject)));
    assert_eq!(rows[2], (3, Err(BadItem::Args)));
    assert_eq!(rows[3], (4, Err(BadItem::Args)));
    assert_eq!(rows[4], (5, Err(BadItem::NulInArgs { index: 1 })));
    assert!(matches!(&rows[5], (6, Err(BadItem::Json { .. }))), "{rows:?}");
    assert!(matches!(&rows[6], (7, Err(BadItem::Json { .. }))), "{rows:?}");
    assert_eq!(rows[7], arg(8, b"ok"));
}

#[test]
fn the_error_has_reason_and_position() {
    let mut input = Input::new(&b"\n{\"args\": [}\n"[..], Format::Ndjson);
    let error = input.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "line 2: not valid JSON: expected value (column 11)");
}

#[test]
fn an_item_that_is_too_long_is_skipped_in_bounded_memory() {
    let mut input = vec![b'x'; ITEM_BYTES_MAX];
    input.extend_from_slice(b"\n");
    input.extend(std::iter::repeat_n(b'y', ITEM_BYTES_MAX + 1));
    input.extend_from_slice(b"\nz\n");
    let rows = rows(&input, Format::Lines);
    assert_eq!(rows[0].1.as_ref().unwrap()[0].len(), ITEM_BYTES_MAX);
    assert_eq!(rows[1..], [(2, Err(BadItem::TooLong)), arg(3, b"z")]);
}

/// Returns some bytes, then fails.
struct Broken(&'static [u8]);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.read(buffer)
    }
}

#[test]
fn a_failed_read_ends_the_input_without_half_an_item() {
    let mut input = Input::new(BufReader::new(Broken(b"a\nhal")), Format::Lines);
    assert!(input.next().unwrap().is_ok());
    let error = input.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cannot read the input after line 1: the disk is gone");
    assert!(input.next().is_none());
}

proptest! {
    /// Compared with a simple model, split and number; for any buffer size.
    #[test]
    fn lines_are_the_lines(
        bytes in prop::collection::vec(prop::sample::select(vec![b'a', b'\n', b'\r', 0xff]), 0..64),
        buffer in 1_usize..9,
    ) {
        let mut model: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        if model.last().is_some_and(|last| last.is_empty()) {
            model.pop();
        }
        let expected: Vec<Row> = (1..).zip(model).filter(|(_, line)| !line.is_empty())
            .map(|(number, line)| arg(number, line)).collect();
        prop_assert_eq!(rows_in(&bytes, Format::Lines, buffer), expected);
    }

    #[test]
    fn nul_items_are_the_items(
        items in prop::collection::vec(prop::collection::vec(1_u8..=255, 0..6), 0..8),
        buffer in 1_usize..9,
    ) {
        let bytes: Vec<u8> = items.iter().flat_map(|item| item.iter().copied().chain([0])).collect();
        let expected: Vec<Row> = (1..).zip(&items).map(|(number, item)| arg(number, item)).collect();
        prop_assert_eq!(rows_in(&bytes, Format::Nul, buffer), expected);
    }

    /// Any JSON strings become equal arguments.
    #[test]
    fn any_text_survives_json(args in prop::collection::vec("[^\0]{0,8}", 0..5)) {
        let line = serde_json::json!({ "args": args }).to_string();
        let expected: Vec<Vec<u8>> = args.iter().map(|arg| arg.clone().into_bytes()).collect();
        prop_assert_eq!(rows(line.as_bytes(), Format::Ndjson), vec![(1, Ok(expected))]);
    }
}
