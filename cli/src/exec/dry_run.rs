//! `--dry-run`: prints the commands, without a data directory.
//!
//! Must always hold: nothing is run, stored or created.

use std::{
    collections::HashSet,
    io::{self, Write},
};

use serde::Serialize;
use tokio::sync::mpsc;

use super::{feed::Fed, interrupt::Exit, item::Prepared, run::ExecError, summary::Summary};
use crate::console::unwritten;

/// Bytes that need no quotes in a shell.
const PLAIN: &[u8] = b"_-./,:=@%+^";

/// A command as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    line: u64,
    item: String,
    argv: Vec<String>,
    directory: String,
    scope: Option<&'a str>,
    limit_key: Option<String>,
    key: Option<&'a str>,
}

/// Prints the commands of all items; the exit code is 1 when a line is bad.
pub(super) async fn dry_run(
    mut fed: mpsc::Receiver<Fed>,
    is_strict: bool,
    is_quiet: bool,
    as_json: bool,
) -> Result<Exit, ExecError> {
    let mut summary = Summary::default();
    let mut seen = HashSet::new();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let print_note = |text: &str| drop(writeln!(io::stderr().lock(), "{text}"));
    let mut written = Ok(());
    while let Some(next) = fed.recv().await {
        match next {
            Fed::Item(item, _) if !seen.insert(item.id.uuid) => summary.duplicates += 1,
            Fed::Item(item, _) => {
                summary.accepted += 1;
                written = write(&mut out, &item, as_json);
            }
            Fed::Bad(reason) if is_strict => return Err(ExecError::Strict(reason)),
            Fed::Bad(reason) => {
                summary.skipped += 1;
                print_note(&format!("error: {reason}; skipped"));
            }
            Fed::Inside => summary.inside += 1,
            Fed::Note(note) => print_note(&format!("forebay: {note}")),
            Fed::Broken(reason) => return Err(ExecError::Broken(reason)),
        }
        if written.is_err() {
            break;
        }
    }
    match written.and_then(|()| out.flush()) {
        // As with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.map_err(|error| unwritten("standard output", &error))?,
    }
    if !is_quiet {
        let Summary { accepted, duplicates, skipped, .. } = summary;
        let mut text = format!("{accepted} would run");
        for (count, what) in [(duplicates, "named twice"), (skipped, "bad lines skipped")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        print_note(&format!("{text}; nothing was run or stored"));
    }
    Ok(Exit::Code(summary.exit_code()))
}

fn write(out: &mut impl Write, item: &Prepared, as_json: bool) -> io::Result<()> {
    let (job, vqueue) = (&item.job, &item.vqueue);
    if !as_json {
        let words: Vec<_> = job.argv.iter().map(|word| quoted(word)).collect();
        out.write_all(&words.join(&b' '))?;
        return out.write_all(b"\n");
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = Line {
        line: job.number,
        item: text(&job.item()),
        argv: job.argv.iter().map(|word| text(word)).collect(),
        directory: text(&job.directory),
        scope: vqueue.scope.as_deref(),
        limit_key: vqueue.l1.is_some().then(|| vqueue.limit_key()),
        key: vqueue.object_key.as_deref(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// A word, quoted for a shell.
fn quoted(word: &[u8]) -> Vec<u8> {
    if !word.is_empty() && word.iter().all(|b| b.is_ascii_alphanumeric() || PLAIN.contains(b)) {
        return word.to_vec();
    }
    let mut quoted = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, text) in [
            ("a/b.c", "a/b.c"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$(x)", "'$(x)'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quoted(word.as_bytes()), text.as_bytes());
        }
    }
}
