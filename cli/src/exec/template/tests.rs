//! Templates: results and refusals.

use proptest::prelude::*;
use serde_json::json;

use super::{CommandTemplate, Fields, Item, Offer, RenderError, Template, TemplateError};

fn object(value: serde_json::Value) -> Item {
    let fields: Fields = value.as_object().unwrap().clone();
    let args = fields.get("args").and_then(|args| args.as_array()).cloned().unwrap_or_default();
    Item::object(args.iter().map(|a| a.as_str().unwrap().into()).collect(), fields)
}

fn rendered(template: &str, item: &Item) -> Result<String, RenderError> {
    let template = Template::compile(template.as_bytes(), Offer::Object).unwrap();
    template.render(item).map(|bytes| String::from_utf8(bytes).unwrap())
}

fn line(template: &str, line: &str) -> String {
    rendered(template, &Item::line(line.into())).unwrap()
}

#[test]
fn path_forms() {
    for (path, base, directory, stem, extension) in [
        ("a/b/c.tar.gz", "c.tar.gz", "a/b", "a/b/c.tar", "gz"),
        ("c.txt", "c.txt", ".", "c", "txt"),
        ("/c", "c", "/", "/c", ""),
        ("/", "/", "/", "/", ""),
        ("a/b/", "b", "a", "a/b/", ""),
        ("a//b", "b", "a", "a//b", ""),
        (".bashrc", ".bashrc", ".", ".bashrc", ""),
        ("a.d/b", "b", "a.d", "a.d/b", ""),
        ("x.", "x.", ".", "x", ""),
        ("", "", ".", "", ""),
    ] {
        assert_eq!(line("{}", path), path);
        assert_eq!(line("{/}", path), base, "base of {path}");
        assert_eq!(line("{//}", path), directory, "directory of {path}");
        assert_eq!(line("{.}", path), stem, "stem of {path}");
        assert_eq!(line("{ext}", path), extension, "extension of {path}");
    }
    assert_eq!(line("out/{//}/{/}.{ext:-none}!", "d/x"), "out/d/x.none!");
    for (path, base_stem) in [("a/b.tar.gz", "b.tar"), ("a.d/b", "b"), (".bashrc", ".bashrc")] {
        assert_eq!(line("{/.}", path), base_stem, "base of {path} without its extension");
    }
}

#[test]
fn defaults_replace_empty_or_missing_values() {
    assert_eq!(line("{ext:-none}", "Makefile"), "none");
    assert_eq!(line("{ext:-none}", "a.rs"), "rs");
    assert_eq!(line("{:-empty}", ""), "empty");
    let item = object(json!({"name": "n", "empty": "", "nothing": null, "n": 1.5, "yes": true}));
    assert_eq!(rendered("{name:-x}-{empty:-x}-{nothing:-y}-{gone:-}", &item).unwrap(), "n-x-y-");
    assert_eq!(rendered("{n} {yes} {empty}", &item).unwrap(), "1.5 true ");
    assert_eq!(rendered("{:-no args}", &item).unwrap(), "no args");
}

#[test]
fn missing_and_non_scalar_fields_are_named() {
    let item = object(json!({"args": ["a", "b"], "nothing": null, "list": [], "map": {}}));
    let missing = |name: &str| RenderError::Missing { name: name.to_owned() };
    assert_eq!(rendered("{gone}", &item).unwrap_err(), missing("gone"));
    assert_eq!(rendered("{nothing}", &item).unwrap_err(), missing("nothing"));
    let kind = |name: &str, kind| RenderError::NotScalar { name: name.to_owned(), kind };
    assert_eq!(rendered("{list:-x}", &item).unwrap_err(), kind("list", "an array"));
    assert_eq!(rendered("{map}", &item).unwrap_err(), kind("map", "an object"));
    let two = |placeholder| RenderError::NotOneArgument { count: 2, placeholder };
    assert_eq!(rendered("x{}", &item).unwrap_err(), two("{}"));
    assert_eq!(rendered("{/:-x}", &item).unwrap_err(), two("{/}"));
}

#[test]
fn the_number_is_the_position_in_the_input() {
    let item = Item::line(b"a".to_vec()).at(12);
    assert_eq!(rendered("out.{#}", &item).unwrap(), "out.12");
    assert_eq!(rendered("{{#}} ${#} {#x}", &item).unwrap(), "{#} ${#} {#x}");
}

#[test]
fn a_field_of_a_line_is_unknown() {
    let error = Template::compile(b"x-{user}", Offer::Line).unwrap_err();
    let TemplateError::UnknownField { name, template } = &error;
    assert_eq!((name.as_str(), template.as_str()), ("user", "x-{user}"));
    assert!(error.to_string().contains("`{{user}}` for the literal text"), "{error}");
    assert!(Template::compile(b"{/} {//} {.} {ext} {}", Offer::Line).is_ok());
}

#[test]
fn foreign_braces_are_left_alone() {
    for text in [
        "{print $1}",
        "${HOME}",
        "${1:-none}",
        "${x:-y}",
        "{1..3}",
        "{a,b}",
        r#"{"a":{"b":1}}"#,
        "{",
        "}",
        "{{",
        "}}",
        "{a",
        "{{.Name}}",
        "{{json .}}",
        "{a b}",
        "{a:b}",
        "$${x}",
        "{{{",
    ] {
        let template = Template::compile(text.as_bytes(), Offer::Line).unwrap();
        assert_eq!(template.literal(), Some(text.as_bytes()), "{text}");
    }
}

#[test]
fn doubled_braces_are_literal() {
    assert_eq!(line("{{}}", "x"), "{}");
    assert_eq!(line("{{name}}-{}", "x"), "{name}-x");
    assert_eq!(line("{{{.}}}", "x"), "{{.}}");
    assert_eq!(line("{{x:-y}}", "x"), "{x:-y}");
    assert_eq!(line("{{{}}", "x"), "{{}");
    assert_eq!(line("{{}", "x"), "{x");
}

fn argv(words: &[&str], item: &Item) -> Vec<String> {
    let command = CommandTemplate::compile(words, Offer::Object).unwrap();
    let argv = command.render(item).unwrap();
    argv.into_iter().map(|arg| String::from_utf8(arg).unwrap()).collect()
}

#[test]
fn arguments_are_spread_where_braces_stand_alone() {
    let three = object(json!({"args": ["a", "b", "c"], "to": "t"}));
    assert_eq!(argv(&["cp", "{}", "{to}"], &three), ["cp", "a", "b", "c", "t"]);
    assert_eq!(argv(&["cp"], &three), ["cp", "a", "b", "c"]);
    let none = object(json!({"to": "t"}));
    assert_eq!(argv(&["cp", "{}", "{to}"], &none), ["cp", "t"]);
    let one = object(json!({"args": ["a/b"]}));
    assert_eq!(argv(&["cp", "x{}y", "{/}"], &one), ["cp", "xa/by", "b"]);
}

#[test]
fn the_item_is_appended_only_without_a_placeholder() {
    let item = Item::line(b"d/f".to_vec());
    assert_eq!(argv(&["echo", "-n"], &item), ["echo", "-n", "d/f"]);
    assert_eq!(argv(&["echo", "{/}"], &item), ["echo", "f"]);
    assert_eq!(argv(&["echo", "{{}}", "${x}"], &item), ["echo", "{}", "${x}", "d/f"]);
}

#[test]
fn the_program_is_known_when_it_has_no_placeholder() {
    let program = |word: &str| {
        let command = CommandTemplate::compile([word, "{}"], Offer::Line).unwrap();
        command.program().map(<[u8]>::to_vec)
    };
    assert_eq!(program("sha256sum"), Some(b"sha256sum".to_vec()));
    assert_eq!(program("{}"), None);
}

#[test]
fn any_bytes_pass_through() {
    let template = Template::compile(b"\xff{}\xfe", Offer::Line).unwrap();
    assert_eq!(template.render(&Item::line(vec![0xfd])).unwrap(), [0xff, 0xfd, 0xfe]);
}

fn soup() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{", "}", "{{", "}}", "$", "/", "//", ".", "ext", "name", ":-", " ", "1", "\\", "é",
    ]);
    prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat().into_bytes())
}

proptest! {
    /// Text without a brace stays unchanged.
    #[test]
    fn text_without_braces_is_literal(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes: Vec<u8> = bytes.into_iter().filter(|b| *b != b'{').collect();
        let template = Template::compile(&bytes, Offer::Line).unwrap();
        prop_assert_eq!(template.literal(), Some(bytes.as_slice()));
    }

    /// Compiling never panics, and doubling the braces of a placeholder always gives its literal
    /// text.
    #[test]
    fn any_placeholder_can_be_escaped(soup in soup(), name in "(|/|//|\\.|ext|[a-z_][a-z0-9_-]{0,5})(:-[a-z ]{0,3})?") {
        let _ = Template::compile(&soup, Offer::Object);
        let text = format!("{{{{{name}}}}}");
        let template = Template::compile(text.as_bytes(), Offer::Line).unwrap();
        prop_assert_eq!(template.literal().map(<[u8]>::to_vec), Some(format!("{{{name}}}").into_bytes()));
    }

    /// A line is inserted unchanged: braces in it are not placeholders.
    #[test]
    fn items_are_not_templates(soup in soup()) {
        let template = Template::compile(b"<{}>", Offer::Line).unwrap();
        let rendered = template.render(&Item::line(soup.clone())).unwrap();
        prop_assert_eq!(rendered, [b"<".as_slice(), &soup, b">"].concat());
    }

    /// Directory and base name make the path; so do stem and extension.
    #[test]
    fn parts_make_the_path(path in "[ab.]{1,4}(/[ab.]{1,4}){0,3}") {
        let rejoined = match line("{//}", &path).as_str() {
            "." if !path.contains('/') => line("{/}", &path),
            directory => format!("{directory}/{}", line("{/}", &path)),
        };
        prop_assert_eq!(&rejoined, &path);
        let (stem, extension) = (line("{.}", &path), line("{ext}", &path));
        let whole = if stem == path { stem } else { format!("{stem}.{extension}") };
        prop_assert_eq!(&whole, &path);
    }
}
