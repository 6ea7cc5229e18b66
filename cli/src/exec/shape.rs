//! A whole command line in one word: the most common mistake of users of tools that pass
//! their command to a shell.
//!
//! Must not know: items, how commands are run.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use thiserror::Error;

use super::program::check_program;

/// Characters that only a shell understands.
const SHELL_ONLY: &[u8] = b"|;&<>";

/// The command is one word where several are meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ShapeError {
    /// With a pipe or the like in it.
    #[error(
        "`{0}` is one word, and there is no program of this name: no shell reads the command. Run \
         one, and give it the item as an argument: forebay exec … -- sh -c '{script}' _ {{}}",
        script = script(.0)
    )]
    NeedsShell(String),
    /// Only words.
    #[error(
        "`{0}` is one word, and there is no program of this name: leave the quotes out, so that \
         the program and its arguments are words of their own: forebay exec … -- {0}"
    )]
    OneWord(String),
}

/// The command as a script that takes the item as its first argument.
fn script(command: &str) -> String {
    command.replace("{}", "\"$1\"").replace('\'', "\"")
}

/// Checks that a command of one word is not a whole command line.
///
/// # Errors
/// [`ShapeError`] when its first part is a program and the word is not.
pub(crate) fn check_shape(command: &[OsString]) -> Result<(), ShapeError> {
    let [word] = command else { return Ok(()) };
    let bytes = word.as_bytes();
    let end = |byte: &u8| byte.is_ascii_whitespace() || SHELL_ONLY.contains(byte);
    let Some(at) = bytes.iter().position(end) else { return Ok(()) };
    if check_program(&bytes[..at]).is_err() || check_program(bytes).is_ok() {
        return Ok(());
    }
    let text = word.to_string_lossy().into_owned();
    match bytes.iter().any(|byte| SHELL_ONLY.contains(byte)) {
        true => Err(ShapeError::NeedsShell(text)),
        false => Err(ShapeError::OneWord(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::{ShapeError, check_shape};

    #[test]
    fn a_command_line_in_one_word_is_found() {
        let check = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
            check_shape(&words)
        };
        let pipe = check(&["cat {} | wc"]).unwrap_err();
        assert_eq!(pipe, ShapeError::NeedsShell("cat {} | wc".to_owned()));
        assert!(pipe.to_string().contains("-- sh -c 'cat \"$1\" | wc' _ {}"), "{pipe}");
        assert_eq!(check(&["ls -l"]), Err(ShapeError::OneWord("ls -l".to_owned())));
        assert!(check(&["cat;ls"]).is_err());
        for words in [&["cat"][..], &["cat", "{} | wc"], &["{}"], &["{} x"], &["no such tool x"]] {
            assert_eq!(check(words), Ok(()), "{words:?}");
        }
    }
}
