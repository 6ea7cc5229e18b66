//! The work of an entry, from its payload: the command of an item of `exec`, otherwise a preview.
//!
//! Must always hold: any bytes give text that is safe on a terminal; a payload of which only the
//! beginning is known is shown as far as it goes.

use bilrost::OwnedMessage;
use bytes::Bytes;
use forebay::BytesView;
use serde_json::{Map, Value, json};

use crate::exec::{item::Job, report::Report, runs::SERVICE};

/// Maximum bytes of a payload in a preview, unless it is a command.
const PREVIEW_BYTES_MAX: usize = 256;

/// The work of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A command.
    Command {
        /// The known part of it.
        job: Job,
        /// All of it is known.
        is_whole: bool,
    },
    /// Anything else.
    Payload(BytesView),
    /// Nothing of it is stored any more.
    Unknown,
}

/// Whether `forebay exec` runs the entries of a service.
pub(super) fn is_exec(service: &str) -> bool {
    service.strip_prefix(SERVICE).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Work {
    /// From an entry's payload, or otherwise from the report in its result.
    pub(super) fn of(
        service: &str,
        payload: Option<&BytesView>,
        result: Option<&BytesView>,
    ) -> Self {
        let Some(payload) = payload else {
            let job = result.filter(|_| is_exec(service)).and_then(|result| job_of(&result.head));
            return match job {
                Some((job, is_whole)) => Self::Command { job, is_whole },
                None => Self::Unknown,
            };
        };
        if !is_exec(service) {
            return Self::Payload(payload.clone());
        }
        match Job::decode(payload.head.clone()) {
            Ok(job) if payload.is_whole() => Self::Command { job, is_whole: true },
            _ => match cut_job(&payload.head) {
                Some(job) => Self::Command { job, is_whole: false },
                None => Self::Payload(payload.clone()),
            },
        }
    }

    /// One line.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Command { job, is_whole } => {
                let mut line = command_line(&job.argv);
                if !is_whole {
                    line.push('…');
                }
                line
            }
            Self::Payload(payload) => preview(payload),
            Self::Unknown => super::columns::NONE.to_owned(),
        }
    }

    /// As fields of a JSON object.
    pub(super) fn put_json(&self, object: &mut Map<String, Value>) {
        match self {
            Self::Command { job, is_whole } => {
                let argv: Vec<_> =
                    job.argv.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
                object.insert("command".to_owned(), json!(argv));
                object
                    .insert("directory".to_owned(), json!(String::from_utf8_lossy(&job.directory)));
                object.insert("line".to_owned(), json!(job.number));
                if let Some(item) = item_of(job) {
                    object.insert("item".to_owned(), json!(item));
                }
                if !is_whole {
                    object.insert("command_truncated".to_owned(), json!(true));
                }
            }
            Self::Payload(payload) => {
                object.insert("payload".to_owned(), json!(payload));
            }
            Self::Unknown => {}
        }
    }
}

/// The item as in the input; items of earlier versions do not have it.
pub(super) fn item_of(job: &Job) -> Option<String> {
    let item = job.item();
    (!item.is_empty()).then(|| String::from_utf8_lossy(&item).into_owned())
}

/// The job in a report, and whether all of it is known.
fn job_of(report: &Bytes) -> Option<(Job, bool)> {
    if let Ok(report) = Report::decode(report.clone()) {
        return report.job.map(|job| (job, true));
    }
    // Of a report with long outputs only the beginning is stored; the job comes first.
    let mut rest = &report[..];
    let (tag, field) = field(&mut rest, 0)?;
    match field {
        Field::Bytes { bytes, .. } if tag == 0 => Some((cut_job(bytes)?, false)),
        _ => None,
    }
}

/// The known beginning of a job.
fn cut_job(mut rest: &[u8]) -> Option<Job> {
    let (mut job, mut tag) = (Job::default(), 0);
    while let Some((found, field)) = field(&mut rest, tag) {
        tag = found;
        match (tag, field) {
            (1, Field::Bytes { bytes, is_whole }) if is_whole || !bytes.is_empty() => {
                job.argv.push(Bytes::copy_from_slice(bytes));
            }
            (2, Field::Bytes { bytes, is_whole: true }) => {
                job.directory = Bytes::copy_from_slice(bytes);
            }
            (3, Field::Number(number)) => job.number = number,
            _ => {}
        }
    }
    (!job.argv.is_empty()).then_some(job)
}

enum Field<'a> {
    Number(u64),
    Bytes { bytes: &'a [u8], is_whole: bool },
}

/// The next field of a bilrost message that may be cut off; `None` at its end. `before` is the tag
/// of the previous field.
fn field<'a>(rest: &mut &'a [u8], before: u64) -> Option<(u64, Field<'a>)> {
    let key = number(rest)?;
    let tag = before.checked_add(key >> 2)?;
    let field = match key & 3 {
        0 => Field::Number(number(rest)?),
        1 => {
            let len = usize::try_from(number(rest)?).ok()?;
            let (bytes, is_whole) = (&rest[..len.min(rest.len())], len <= rest.len());
            *rest = &rest[bytes.len()..];
            Field::Bytes { bytes, is_whole }
        }
        // Fixed numbers of 4 or 8 bytes: the messages read here have none.
        _ => return None,
    };
    Some((tag, field))
}

/// A number in bilrost's encoding: seven bits per byte, each continued byte counted in full.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number = number.checked_add(u64::from(*byte).checked_shl(shift)?)?;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A command as it can be typed into a shell.
pub(crate) fn command_line(argv: &[Bytes]) -> String {
    let words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

fn quoted(word: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(byte);
    let text = String::from_utf8_lossy(word);
    if !word.is_empty() && word.iter().all(is_plain) {
        return text.into_owned();
    }
    if text.chars().any(char::is_control) {
        let escaped: String = text.chars().map(escape).collect();
        return format!("$'{}'", escaped.replace('\'', "\\'"));
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn escape(c: char) -> String {
    if c.is_control() || c == '\\' { c.escape_default().collect() } else { c.to_string() }
}

/// Any text, with control characters escaped.
pub(crate) fn safe(text: &str) -> String {
    if text.chars().any(char::is_control) {
        return text
            .chars()
            .map(|c| if c.is_control() { escape(c) } else { c.to_string() })
            .collect();
    }
    text.to_owned()
}

/// The beginning of a payload, on one line.
fn preview(payload: &BytesView) -> String {
    let head = &payload.head[..payload.head.len().min(PREVIEW_BYTES_MAX)];
    if payload.len == 0 {
        return "(empty)".to_owned();
    }
    let is_cut = (head.len() as u64) < payload.len;
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The end of the head may be within a character.
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return format!("({} bytes that are not text)", payload.len),
    };
    let mark = if is_cut { "…" } else { "" };
    format!("{}{mark}", safe(text))
}

#[cfg(test)]
mod tests {
    use bilrost::Message;

    use super::*;
    use crate::exec::report::{End, Output};

    fn job(words: &[&str]) -> Job {
        let argv = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Job { argv, directory: Bytes::from_static(b"/here"), number: 300, ..Job::default() }
    }

    fn view(bytes: &[u8], known: usize) -> BytesView {
        let head = Bytes::copy_from_slice(&bytes[..bytes.len().min(known)]);
        BytesView { len: bytes.len() as u64, head }
    }

    fn line(service: &str, payload: &BytesView) -> String {
        Work::of(service, Some(payload), None).line()
    }

    #[test]
    fn a_command_is_shown_as_it_can_be_typed() {
        let bytes = job(&["sh", "-c", "echo \"$1\"", "_", "it's", "", "a\nb"]).encode_to_vec();
        let said = r#"sh -c 'echo "$1"' _ 'it'\''s' '' $'a\nb'"#;
        assert_eq!(line("exec", &view(&bytes, 9_999)), said);
        assert_eq!(line("exec.abc", &view(&bytes, 9_999)), said);
        assert!(is_exec("exec") && !is_exec("executor") && !is_exec("mail"));
    }

    /// Any beginning of a job gives a beginning of its command, or nothing.
    #[test]
    fn a_cut_job_is_shown_as_far_as_it_goes() {
        let whole = job(&["convert", &"x".repeat(400), "b"]);
        let bytes = whole.encode_to_vec();
        for known in 0..bytes.len() {
            let work = Work::of("exec", Some(&view(&bytes, known)), None);
            let Work::Command { job, is_whole } = work else { continue };
            assert!(!is_whole && command_line(&whole.argv).starts_with(&command_line(&job.argv)));
        }
        assert!(line("exec", &view(&bytes, 100)).starts_with("convert xxxx"));
        let cut = cut_job(&bytes).unwrap();
        assert_eq!((cut.argv, cut.directory, cut.number), (whole.argv, whole.directory, 300));
    }

    #[test]
    fn the_report_of_a_success_contains_the_job_even_with_long_outputs() {
        let stdout = Output { head: vec![b'x'; 60_000].into(), len: 60_000, ..Output::default() };
        let ran = Some(job(&["echo", "1"]));
        let report = Report { end: Some(End::Exit(0)), stdout, job: ran, ..Report::default() };
        let bytes = report.encode_to_vec();
        for known in [4_096, 99_999] {
            let work = Work::of("exec", None, Some(&view(&bytes, known)));
            assert!(work.line().starts_with("echo 1"), "{work:?}");
        }
        let old = Report { job: None, ..report }.encode_to_vec();
        assert_eq!(Work::of("exec", None, Some(&view(&old, 4_096))), Work::Unknown);
    }

    #[test]
    fn other_payloads_are_previewed_without_control_characters() {
        assert_eq!(
            line("mail", &view(b"{\"to\":\"a\"}\n\x1b[2J", 999)),
            r#"{"to":"a"}\n\u{1b}[2J"#
        );
        assert_eq!(line("mail", &view(b"", 9)), "(empty)");
        assert_eq!(line("mail", &view(b"\xff\xfe", 9)), "(2 bytes that are not text)");
        assert_eq!(
            line("mail", &view("\u{e9}".repeat(400).as_bytes(), 255)),
            "\u{e9}".repeat(127) + "…"
        );
        // Service `exec`, but not a job.
        assert_eq!(line("exec", &view(b"hello", 9)), "hello");
        assert_eq!(Work::of("mail", None, None).line(), "-");
    }
}
