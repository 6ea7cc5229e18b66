//! Rules of style that no compiler checks: layers, import circles, file length, headers, plain
//! English, and statements in documents.
//!
//! Owns: reading the checkout. The checks are pure functions from text to complaints in the modules
//! below, each tested with a bad sample that it must refuse.

mod circles;
mod documents;
mod language;
mod layers;
mod sources;

use std::{fs, path::Path};

use crate::root;

/// A text file of the checkout.
#[derive(Clone)]
struct File {
    /// Relative to the root, with `/` between the parts.
    path: String,
    /// All of it.
    text: String,
}

impl File {
    /// A sample for the tests of the checks.
    fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

/// Directories without sources.
const NOT_OURS: [&str; 3] = ["target", "forebay-data", "forebay-results"];

/// Every file whose name ends in `ending`, in the order of their paths.
fn files(ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    collect(root(), ending, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "the checkout has no file that ends in {ending}");
    found
}

fn collect(directory: &Path, ending: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap_or_default();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !name.starts_with('.') && !NOT_OURS.contains(&name.as_str()) {
            collect(&entry.path(), ending, found);
        } else if kind.is_file() && name.ends_with(ending) {
            found.push(File { path: relative(&entry.path()), text: read(&entry.path()) });
        }
    }
}

fn relative(path: &Path) -> String {
    let parts = path.strip_prefix(root()).unwrap().components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with all violations of a rule, one per line.
#[track_caller]
fn hold(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

/// The workspace's crates and what their `Cargo.toml`s name.
fn crates() -> Vec<layers::Crate> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata describes the workspace");
    metadata.packages.iter().map(layers::Crate::from).collect()
}

#[test]
fn arrows_between_layers_point_down() {
    hold("layers (docs/architecture.md)", &layers::broken(&crates()));
}

#[test]
fn embedding_brings_no_crate_of_the_command_line() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = "tree -p forebay -e normal --prefix none --offline";
    let output = std::process::Command::new(cargo)
        .args(arguments.split(' '))
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments}: {stderr}");
    assert!(tree.starts_with("forebay v") && tree.contains("\ntokio v"), "{tree}");
    hold("forebay embeds without its command line", &layers::command_line_in_library(&tree));
    hold("forebay embeds without its server", &layers::server_in_library(&tree));
}

#[test]
fn rooms_do_not_import_each_other_in_a_circle() {
    hold("import circles (docs/architecture.md)", &circles::circles(&files(".rs")));
}

#[test]
fn sources_keep_to_the_style() {
    let sources = files(".rs");
    hold("files have at most 600 lines", &sources::too_long(&sources));
    hold("every file has a header", &sources::without_header(&sources));
    hold("no unwrap in shells", &sources::unwraps_in_shells(&sources));
    hold("no unfinished code", &sources::left_open(&sources));
}

#[test]
fn language_is_plain() {
    let sources = [files(".rs"), files(".sh")].concat();
    hold("comments have at most 100 columns", &language::wide_comments(&sources));
    let mut texts = [sources, files(".md"), files(".toml")].concat();
    texts.push(File::sample("Makefile", &read(&root().join("Makefile"))));
    hold("plain English (tests/tidy/language.rs)", &language::avoided(&texts));
}

#[test]
fn tables_pin_their_bytes() {
    hold("every table has a golden test", &sources::tables_without_golden(&files(".rs")));
}

#[test]
fn documents_name_only_existing_things() {
    let (documents, makefile) = (files(".md"), read(&root().join("Makefile")));
    hold("commands exist", &documents::unknown_commands(&documents, &makefile));
    let exists = |path: &str| root().join(path).exists();
    hold("links lead somewhere", &documents::dead_links(&documents, exists));
}

#[test]
fn every_dependency_has_a_reason() {
    let table = read(&root().join("docs/dependencies.md"));
    hold("docs/dependencies.md", &documents::dependencies(&table, &crates()));
}

#[test]
fn decisions_are_numbered() {
    let decisions: Vec<_> =
        files(".md").into_iter().filter(|file| file.path.starts_with("docs/decisions/")).collect();
    hold("docs/decisions", &documents::decisions(&decisions));
}
