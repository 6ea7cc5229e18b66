//! Rules for every source file.
//!
//! The checks read lines, not syntax: rustfmt (checked by `make check`) makes the shape of the
//! lines reliable.

use super::File;

/// Maximum length of a source file, in lines.
const FILE_LINES_MAX: usize = 600;

/// Words that mark unfinished work. Split in two, so that this file is not a finding.
const LEFT_OPEN: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[", "ignore"),
];

pub(super) fn too_long(files: &[File]) -> Vec<String> {
    let lines = files.iter().map(|file| (file, file.text.lines().count()));
    lines
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(file, lines)| {
            format!("{} has {lines} lines, at most {FILE_LINES_MAX}: split it", file.path)
        })
        .collect()
}

/// A header is a non-empty `//!` comment at the very start.
pub(super) fn without_header(files: &[File]) -> Vec<String> {
    let header = |file: &File| {
        let first = file.text.lines().next().unwrap_or_default();
        first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty())
    };
    files
        .iter()
        .filter(|file| !header(file))
        .map(|file| format!("{} does not start with a //! header", file.path))
        .collect()
}

/// A panic in a shell stops its partition: it may only happen on a broken invariant, with a message
/// saying what was expected.
pub(super) fn unwraps_in_shells(files: &[File]) -> Vec<String> {
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let shells =
        files.iter().filter(|file| file.path.starts_with("actors/src/") && !is_test(&file.path));
    shells.flat_map(unwraps).collect()
}

fn unwraps(file: &File) -> Vec<String> {
    let silent = [".unwrap()", ".unwrap_err()", ".expect(\"\")", "panic!()", "unreachable!()"];
    let code = outside_of_tests(&file.text);
    let lines = code.iter().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines
        .filter_map(|(number, line)| {
            let found = silent.iter().find(|text| line.contains(**text))?;
            Some(format!("{}:{number}: {found} in a shell", file.path))
        })
        .collect()
}

/// The numbered lines outside `#[cfg(test)]` items: such an item ends at the first line of its own
/// indentation that closes it.
fn outside_of_tests(text: &str) -> Vec<(usize, &str)> {
    let mut code = Vec::new();
    let mut inside: Option<usize> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let indentation = line.len() - line.trim_start().len();
        match inside {
            Some(depth) => {
                let ends = line.ends_with('}') || line.ends_with(';') || line.ends_with("},");
                if indentation == depth && ends && !line.trim().is_empty() {
                    inside = None;
                }
            }
            None if line.trim_start().starts_with("#[cfg(test)]") => inside = Some(indentation),
            None => code.push((number, line)),
        }
    }
    code
}

pub(super) fn left_open(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.text.lines()) {
            for word in LEFT_OPEN.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    complaints
}

/// The encoded bytes of a table must not change: each table file pins them in a test with `golden`
/// in its name.
pub(super) fn tables_without_golden(files: &[File]) -> Vec<String> {
    let is_table = |file: &&File| {
        let parts: Vec<_> = file.path.split('/').collect();
        parts.starts_with(&["storage", "src"])
            && parts.iter().any(|part| *part == "table" || *part == "tables")
            && parts.last() != Some(&"mod.rs")
    };
    let tables: Vec<_> = files.iter().filter(is_table).collect();
    if tables.is_empty() {
        return vec!["storage/src has no table in a directory called table or tables".to_owned()];
    }
    let pinned = |file: &File| {
        let mut lines = file.text.lines().map(str::trim_start);
        lines.any(|line| line.starts_with("fn ") && line.contains("golden"))
    };
    tables
        .into_iter()
        .filter(|file| !pinned(file))
        .map(|file| format!("{} has no golden test", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, text: &str) -> [File; 1] {
        [File::sample(path, text)]
    }

    #[test]
    fn a_long_file_is_refused() {
        let lines = |count| one("engine/src/inbox.rs", &"\n".repeat(count));
        assert!(too_long(&lines(FILE_LINES_MAX)).is_empty());
        let complaint = ["engine/src/inbox.rs has 601 lines, at most 600: split it"];
        assert_eq!(too_long(&lines(601)), complaint);
    }

    #[test]
    fn a_file_without_a_header_is_refused() {
        assert!(without_header(&one("a.rs", "//! Owns a.\n")).is_empty());
        for text in ["", "//!\nuse a;", "\n//! Late.", "use a;\n//! Late.", "// Not a header."] {
            let complaint = ["a.rs does not start with a //! header"];
            assert_eq!(without_header(&one("a.rs", text)), complaint, "{text:?}");
        }
    }

    #[test]
    fn an_unwrap_in_a_shell_is_refused() {
        let shell = |text| unwraps_in_shells(&one("actors/src/partition.rs", text));
        assert_eq!(
            shell("fn a() {\n    b.unwrap();\n}"),
            ["actors/src/partition.rs:2: .unwrap() in a shell"]
        );
        assert_eq!(shell("a.expect(\"\")").len(), 1);
        assert_eq!(shell("unreachable!()").len(), 1);
        assert!(shell("a.expect(\"the gate is open\")").is_empty());
        assert!(shell("/// let a = b.unwrap();").is_empty());
        assert!(unwraps_in_shells(&one("engine/src/a.rs", "a.unwrap()")).is_empty());
        assert!(unwraps_in_shells(&one("actors/src/a/tests.rs", "a.unwrap()")).is_empty());
    }

    #[test]
    fn unwraps_in_tests_pass_and_later_ones_do_not() {
        let text = "#[cfg(test)]\nuse a;\nb.unwrap()\n#[cfg(test)]\nmod tests {\n    \
                    #[test]\n    fn c() {\n        d.unwrap();\n    }\n}\ne.unwrap()\n";
        let complaints = unwraps_in_shells(&one("actors/src/a.rs", text));
        assert_eq!(
            complaints,
            ["actors/src/a.rs:3: .unwrap() in a shell", "actors/src/a.rs:11: .unwrap() in a shell",]
        );
    }

    #[test]
    fn work_left_open_is_refused() {
        for word in LEFT_OPEN {
            let complaints = left_open(&one("a.rs", &format!("fn a() {{\n    // {word}\n}}")));
            assert_eq!(complaints, [format!("a.rs:2: {word}")]);
        }
        assert!(left_open(&one("a.rs", "// the method of least squares")).is_empty());
    }

    #[test]
    fn a_table_without_a_golden_test_is_refused() {
        let path = "storage/src/tables/inbox.rs";
        let complaint = ["storage/src/tables/inbox.rs has no golden test"];
        assert_eq!(tables_without_golden(&one(path, "// golden\nfn key() {}")), complaint);
        assert!(tables_without_golden(&one(path, "    fn golden_bytes() {}")).is_empty());
        let nothing = tables_without_golden(&one("storage/src/tables/mod.rs", ""));
        assert_eq!(nothing.len(), 1, "no table at all is a complaint too");
    }
}
