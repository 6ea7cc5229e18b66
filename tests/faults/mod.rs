//! Storage faults: each one leads to a clear stop or to a recovery, and no acknowledged entry is
//! lost silently.
//!
//! Generates the table in `docs/reliability.md`: each row is an observation of this test. After a
//! change, `FOREBAY_BLESS=1` rewrites the table.

mod cases;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The markers around the table in the document.
const BEGIN: &str = "<!-- made by tests/faults/mod.rs -->\n";
const END: &str = "<!-- end -->";

/// Outcome of a fault.
struct Row {
    fault: &'static str,
    /// The message to the user, or `nothing`.
    message: String,
    /// The state after the remedy.
    after: &'static str,
}

fn document() -> PathBuf {
    crate::root().join("docs/reliability.md")
}

fn table(rows: &[Row]) -> String {
    let mut text = "| fault | message | afterwards |\n|---|---|---|\n".to_owned();
    for Row { fault, message, after } in rows {
        text.push_str(&format!("| {fault} | {message} | {after} |\n"));
    }
    text
}

/// A message without the parts that vary between runs: directories, numbers of files and records,
/// checksums.
fn settled(message: &str, directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    // The first damaged byte that is read varies too.
    let detail = [" (the record at byte", " (Corruption"].iter().find_map(|at| message.find(at));
    let message = &message[..detail.unwrap_or(message.len())];
    let text = message.replace(&directory.display().to_string(), "DIR").replace('|', "/");
    let is_id = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ids: Vec<_> = text.split([' ', ',', ':', ';']).filter(|word| is_id(word)).collect();
    let text = ids.iter().fold(text.clone(), |text, id| text.replace(id, "ID"));
    let mut settled = String::new();
    let mut number = false;
    for (at, letter) in text.char_indices() {
        let is_digit = letter.is_ascii_digit();
        if is_digit && !number {
            settled.push('N');
        } else if !is_digit {
            settled.push(letter);
        }
        number = is_digit;
        if at > 400 {
            settled.push('…');
            break;
        }
    }
    settled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_ends_in_a_clear_stop_or_in_a_recovery() {
    let rows = cases::all().await;
    let made = table(&rows);
    let text = fs::read_to_string(document()).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the table's beginning is marked");
    let (kept, tail) = rest.split_once(END).expect("the table's end is marked");
    if std::env::var_os("FOREBAY_BLESS").is_some_and(|value| value == "1") {
        fs::write(document(), format!("{head}{BEGIN}{made}{END}{tail}")).unwrap();
    } else {
        assert_eq!(kept, made, "docs/reliability.md lists other outcomes");
    }
}
