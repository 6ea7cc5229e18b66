//! Plain English in comments, documents, messages and names: phrases to avoid, with replacements.
//!
//! Must always hold: a phrase is found across the end of a line and in names with underscores, but
//! not across punctuation. Must not know: the syntax of the files.

use std::collections::HashMap;

use super::File;

/// Phrases to avoid, each with advice for a replacement.
const AVOIDED: [(&str, &str); 57] = [
    ("whoever", WHO),
    ("whomever", WHO),
    ("whosoever", WHO),
    ("whom", WHO),
    ("somebody", WHO),
    ("everybody", WHO),
    ("anybody", WHO),
    ("nobody", "name it: no process, no node, no operation, the unknown entry"),
    ("those who", WHO),
    ("those that", "repeat the noun, or write `the ones that`"),
    ("of ours", "write `our own`, or leave it out"),
    ("for ever", "write `forever`, or say what ends it"),
    ("for good", "write `permanently`"),
    ("anew", "write `again` or `new`; for a process, `restarted`"),
    ("all the same", "write `anyway`"),
    ("in vain", "say what did not happen: `without work`, `timed out`"),
    ("goes on", CONTINUES),
    ("go on", CONTINUES),
    ("told of", TOLD),
    ("told to", TOLD),
    ("told that", TOLD),
    ("is told", TOLD),
    ("are told", TOLD),
    ("was told", TOLD),
    ("tells of", "write `reports`"),
    ("tell of", "write `report`"),
    ("lies where", "write `is`, and name the place"),
    ("lie where", "write `are`, and name the place"),
    ("what runs", NOUN),
    ("what waits", NOUN),
    ("what comes", NOUN),
    ("what came", NOUN),
    ("what is remembered", NOUN),
    ("only what is", "use a noun: only durable entries, only new rows"),
    ("comes of", "name it: `the result`, `the effect`"),
    ("came of", "name it: `the result`, `the effect`"),
    ("so many", "write `this many`, or name the number"),
    ("so much", "write `this much`, or name the amount"),
    ("of no account", "write `ignored`"),
    ("lest", "write `so that ... not`"),
    ("whence", "write `from where`"),
    ("thereof", "write `of it`"),
    ("hitherto", "write `until now`"),
    ("henceforth", "write `from now on`"),
    ("hear of", HEARS),
    ("hears of", HEARS),
    ("heard of", HEARS),
    ("nobody knows", "write `it is unknown`"),
    ("what is said", "name it: the output, the report, the answer"),
    ("under way", "write `in flight`, `in progress` or `running`"),
    ("for people", "write `for display` or `for users`"),
    ("what people", "name it: the library, the option, what users see"),
    ("the way of", "name it: the path, the connection, the distribution"),
    ("give way", YIELDS),
    ("gives way", YIELDS),
    ("see the module", "say in a line what the item is"),
    ("has come about", "write `has happened`, or name the event"),
];

const WHO: &str = "name the actor: the caller, the client, the subscriber, the user, another node";
const HEARS: &str = "write `is notified of`, `gets` or `receives`";
const TOLD: &str = "write `asked to`, `gets`, `learns`, `reported`, or name the message";
const YIELDS: &str = "write `yields`, `waits`, or `is dropped`";
const CONTINUES: &str = "write `continues`";
const NOUN: &str = "use a noun: running entries, waiting entries, later messages";

/// Files that need an avoided phrase, with the reason.
const ALLOWED: [(&str, &str, &str); 1] = [("CHANGELOG.md", "go on", "the old name `go_on_alone`")];

/// Parts of the tree that are not rewritten yet. May only shrink.
const NOT_YET: [&str; 0] = [];

/// This file quotes the phrases.
const THIS_FILE: &str = "tests/tidy/language.rs";

/// Maximum width of a line with a comment.
const COMMENT_COLUMNS_MAX: usize = 100;

/// A word in lower case with the number of its line; `None` for punctuation.
type Word = Option<(usize, String)>;

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        // Comment and list marks at the start of a line do not separate words.
        let line = line.trim_start().trim_start_matches(['/', '!', '#', '*', '>', ' ']);
        for character in line.chars().chain(['\n']) {
            if character.is_alphanumeric() || character == '\'' {
                word.extend(character.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                words.push(Some((number, std::mem::take(&mut word))));
            }
            if !character.is_whitespace() && !matches!(character, '_' | '\\' | '*') {
                words.push(None);
            }
        }
    }
    words
}

/// Whether the words begin with this phrase.
fn begin_with(words: &[Word], phrase: &str) -> bool {
    let mut words = words.iter();
    phrase.split(' ').all(|wanted| {
        words.next().is_some_and(|word| word.as_ref().is_some_and(|(_, word)| word == wanted))
    })
}

fn is_allowed(path: &str, phrase: &str) -> bool {
    path == THIS_FILE
        || NOT_YET.iter().any(|part| path.contains(part))
        || ALLOWED.iter().any(|(file, allowed, _)| *file == path && *allowed == phrase)
}

/// Avoided phrases, with advice.
pub(super) fn avoided(files: &[File]) -> Vec<String> {
    let mut by_first_word: HashMap<&str, Vec<(&str, &str)>> = HashMap::new();
    for (phrase, advice) in AVOIDED {
        let first = phrase.split(' ').next().unwrap_or_default();
        by_first_word.entry(first).or_default().push((phrase, advice));
    }
    let mut complaints = Vec::new();
    for file in files {
        let words = words(&file.text);
        for (at, word) in words.iter().enumerate() {
            let Some((number, word)) = word else { continue };
            for (phrase, advice) in by_first_word.get(word.as_str()).into_iter().flatten() {
                if begin_with(&words[at..], phrase) && !is_allowed(&file.path, phrase) {
                    complaints.push(format!("{}:{number}: `{phrase}`: {advice}", file.path));
                }
            }
        }
    }
    complaints
}

/// Comments in sources and scripts that are too wide; examples within them are exempt.
pub(super) fn wide_comments(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| !is_allowed(&file.path, "")) {
        let mark = if file.path.ends_with(".sh") { "#" } else { "//" };
        let mut is_code = false;
        for (number, line) in (1..).zip(file.text.lines()) {
            let Some(comment) = line.trim_start().strip_prefix(mark) else {
                is_code = false;
                continue;
            };
            is_code ^= comment.contains("```");
            let width = line.chars().count();
            if !is_code && width > COMMENT_COLUMNS_MAX {
                complaints.push(format!("{}:{number}: {width} columns: wrap it", file.path));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        avoided(&[File::sample(path, text)])
    }

    #[test]
    fn phrases_are_found_in_comments_strings_and_names() {
        let bad = [
            "/// Whoever waits is answered.",
            "//! The run goes\n//! on without it.",
            "let text = \"it waits for \\\n    ever\";",
            "fn a_lock_is_made_anew() {}",
            "It is kept *for good*.",
        ];
        for text in bad {
            assert_eq!(found("a.rs", text).len(), 1, "{text}");
        }
        assert!(found("a.rs", bad[1])[0].starts_with("a.rs:1: `goes on`: write `continues`"));
    }

    #[test]
    fn punctuation_separates_and_longer_words_are_others() {
        let good = [
            "It was heard. Of these two the first counts.",
            "let (heard, of) = pair();",
            "It renews the lease.",
            "It goes. On the way it stops.",
        ];
        for text in good {
            assert_eq!(found("a.rs", text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn the_list_itself_is_allowed() {
        assert!(found(THIS_FILE, "anew").is_empty());
        assert_eq!(found("tests/tidy/other.rs", "anew").len(), 1);
    }

    #[test]
    fn wide_comments_are_found() {
        let wide = format!("    // {}\n", "x".repeat(94));
        let code = format!("let x = \"{}\";\n", "x".repeat(100));
        let example = format!("    /// ```\n    /// {}\n    /// ```\n", "x".repeat(100));
        let files = [&wide, &code, &example].map(|text| File::sample("a.rs", text));
        assert_eq!(wide_comments(&files), ["a.rs:1: 101 columns: wrap it"]);
    }
}
