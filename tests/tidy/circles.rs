//! Import circles: files of different rooms of a crate must not import each other in a circle. A
//! room is a folder or a file at the top of the crate's sources.
//!
//! Must always hold: a name counts as imported from the file that defines it, not from the ones
//! that re-export it. Must not know: the language, except for `use` declarations and paths that
//! begin with `crate`, `self` or `super`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::File;

/// Rooms that may form a circle: the crate's sources, the rooms, the reason.
const ALLOWED: [(&str, &[&str], &str); 1] = [(
    "src",
    &["attempt", "client", "environment", "handler", "runtime"],
    "handlers enqueue entries, so their context leads back to the runtime that calls them",
)];

/// Longest chain of re-exports that is followed.
const REEXPORTS_MAX: usize = 8;

/// A module by its path within the crate; the root is empty.
type Module = Vec<String>;

/// A module, and the rest of a path that begins there.
type Place = (Module, Vec<String>);

/// The sources of a crate.
#[derive(Default)]
struct Sources {
    files: BTreeMap<Module, String>,
    paths: BTreeMap<Module, Vec<String>>,
    /// Re-exported names; `None` for names of other crates.
    exports: BTreeMap<(Module, String), Option<Place>>,
}

/// The sources of which crate a file belongs to, and its module there; `None` for tests.
fn module_of(path: &str) -> Option<(&str, Module)> {
    let (root, rest) = match path.strip_prefix("src/") {
        Some(rest) => ("src", rest),
        None => {
            let at = path.find("/src/")?;
            (&path[..at + "/src".len()], &path[at + "/src/".len()..])
        }
    };
    let mut parts: Module = rest.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if parts.iter().any(|part| part == "tests") {
        return None;
    }
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] || parts == ["main"] {
        parts.pop();
    }
    Some((root, parts))
}

/// A line that begins a `use` declaration: whether it re-exports, and its tree.
fn declaration(line: &str) -> Option<(bool, &str)> {
    let line = line.trim_start();
    let found = match line.strip_prefix("use ") {
        Some(tree) => (false, tree),
        None => {
            let rest = line.strip_prefix("pub")?;
            let rest = match rest.strip_prefix('(') {
                Some(rest) => rest.split_once(')')?.1,
                None => rest,
            };
            (true, rest.trim_start().strip_prefix("use ")?)
        }
    };
    // Texts may contain such lines, too.
    let rest = found.1.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
    (rest.starts_with("::") || rest.starts_with(';') || rest.starts_with(" as ")).then_some(found)
}

/// The paths of a `use` tree.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let path = format!("{prefix}{}", path.trim());
        paths.push(path.trim_end_matches("::self").to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut from) = (0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        expand(&prefix, &inner[from..], paths);
    }
}

/// Paths in code that begin with `crate`, `self` or `super`.
fn inline_paths(code: &str, paths: &mut Vec<String>) {
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let is_part = |before: char| before.is_alphanumeric() || "_:$".contains(before);
            if code[..at].chars().next_back().is_some_and(is_part) {
                continue;
            }
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let len = code[at..].find(|c| !is_path(c)).unwrap_or(code.len() - at);
            paths.push(code[at..at + len].trim_end_matches(':').to_owned());
        }
    }
}

/// The paths that a file names: all of them, and the re-exported ones.
fn named(text: &str) -> (Vec<String>, Vec<String>) {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let (mut all, mut exported, mut code) = (Vec::new(), Vec::new(), String::new());
    let mut is_skipped = false;
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    while let Some(line) = lines.next() {
        let Some((is_export, tree)) = declaration(line) else {
            is_skipped = matches!(line.trim(), "#[cfg(test)]" | "#[cfg(doc)]");
            code.push_str(line);
            code.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            let Some(line) = lines.next() else { break };
            tree.push_str(line);
        }
        if !std::mem::take(&mut is_skipped) {
            let mut paths = Vec::new();
            expand("", tree.split(';').next().unwrap_or_default(), &mut paths);
            exported.extend(paths.iter().filter(|_| is_export).cloned());
            all.append(&mut paths);
        }
    }
    inline_paths(&code, &mut all);
    (all, exported)
}

impl Sources {
    fn add(&mut self, module: Module, file: &File) {
        self.files.insert(module, file.path.clone());
    }

    /// The module at the beginning of a path; `None` for paths of other crates.
    fn resolve(&self, from: &Module, path: &str) -> Option<Place> {
        let mut rest: VecDeque<&str> = path.split("::").collect();
        let mut at = from.clone();
        match *rest.front()? {
            "crate" => {
                rest.pop_front();
                at.clear();
            }
            "self" => drop(rest.pop_front()),
            "super" => {
                while rest.front() == Some(&"super") {
                    rest.pop_front();
                    at.pop();
                }
            }
            first if !self.has_child(&at, first) => return None,
            _ => {}
        }
        while let Some(next) = rest.front()
            && self.has_child(&at, next)
        {
            at.push((*next).to_owned());
            rest.pop_front();
        }
        Some((at, rest.into_iter().map(str::to_owned).collect()))
    }

    fn has_child(&self, module: &Module, name: &str) -> bool {
        let child = [module.as_slice(), &[name.to_owned()]].concat();
        self.files.contains_key(&child)
    }

    /// The module that defines the name at the end of a path; `None` if another crate does.
    fn definer(&self, from: &Module, path: &str) -> Option<Module> {
        let (mut module, mut rest) = self.resolve(from, path)?;
        for _ in 0..REEXPORTS_MAX {
            let Some(name) = rest.first() else { break };
            match self.exports.get(&(module.clone(), name.clone())) {
                Some(Some(next)) => (module, rest) = next.clone(),
                Some(None) => return None,
                None => break,
            }
        }
        Some(module)
    }

    fn read(&mut self, texts: &BTreeMap<Module, String>) {
        for (module, text) in texts {
            let (all, exported) = named(text);
            for path in exported {
                let name = path.rsplit("::").next().unwrap_or_default().to_owned();
                let place = self.resolve(module, &path);
                self.exports.insert((module.clone(), name), place);
            }
            self.paths.insert(module.clone(), all);
        }
    }

    /// The imports of each module.
    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, paths): (_, &Vec<String>)| {
            let definers = paths.iter().filter_map(|path| self.definer(module, path));
            (module, definers.filter(|definer| definer != module).collect())
        };
        self.paths.iter().map(of).collect()
    }
}

/// The shortest chain of imports between two modules.
fn chain<'a>(
    imports: &'a BTreeMap<&'a Module, BTreeSet<Module>>,
    from: &'a Module,
    to: &Module,
) -> Option<Vec<&'a Module>> {
    let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(module) = queue.pop_front() {
        if module == to {
            let back = std::iter::successors(Some(module), |module| before.get(module).copied());
            let mut chain: Vec<_> = back.collect();
            chain.reverse();
            return Some(chain);
        }
        for next in imports.get(module).into_iter().flatten() {
            if next != from && !before.contains_key(next) {
                before.insert(next, module);
                queue.push_back(next);
            }
        }
    }
    None
}

fn room(module: &Module) -> &str {
    module.first().map_or("", String::as_str)
}

fn is_allowed(root: &str, one: &str, other: &str) -> bool {
    let has_both = |rooms: &[&str]| rooms.contains(&one) && rooms.contains(&other);
    ALLOWED.iter().any(|(sources, rooms, _)| *sources == root && has_both(rooms))
}

/// Imports between rooms that are part of a circle, each with the chain that leads back.
pub(super) fn circles(files: &[File]) -> Vec<String> {
    let mut crates: BTreeMap<&str, (Sources, BTreeMap<Module, String>)> = BTreeMap::new();
    for file in files {
        if let Some((root, module)) = module_of(&file.path) {
            let (sources, texts) = crates.entry(root).or_default();
            sources.add(module.clone(), file);
            texts.insert(module, file.text.clone());
        }
    }
    let mut complaints = Vec::new();
    for (root, (mut sources, texts)) in crates {
        sources.read(&texts);
        let imports = sources.imports();
        for (module, definers) in &imports {
            for definer in definers {
                let (one, other) = (room(module), room(definer));
                if one == other || is_allowed(root, one, other) {
                    continue;
                }
                if let Some(chain) = chain(&imports, definer, module) {
                    let back: Vec<_> = chain.iter().map(|of| &*sources.files[*of]).collect();
                    let file = &sources.files[*module];
                    complaints.push(format!("{file} imports {}", back.join(", which imports ")));
                }
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(path, text)| File::sample(path, text)).collect();
        circles(&files)
    }

    #[test]
    fn a_circle_of_rooms_is_found_with_its_chain() {
        let files = [
            ("x/src/lib.rs", "mod a;\nmod b;\nmod c;\npub use c::C;\n"),
            ("x/src/a.rs", "use crate::{\n    b::{self, B},\n};\n"),
            ("x/src/b/mod.rs", "use super::C;\n"),
            ("x/src/c.rs", "fn f() {\n    crate::a::g();\n}\n"),
        ];
        let found = found(&files);
        assert_eq!(found.len(), 3, "{found:?}");
        let a = "x/src/a.rs imports x/src/b/mod.rs, which imports x/src/c.rs, which imports \
                 x/src/a.rs";
        assert_eq!(found[0], a);
    }

    #[test]
    fn tests_names_of_other_crates_and_circles_in_one_room_are_no_findings() {
        let files = [
            ("x/src/lib.rs", "mod a;\nmod b;\npub use other::Name;\n"),
            ("x/src/a/mod.rs", "mod child;\nuse child::D;\nuse crate::b::B;\n"),
            ("x/src/a/child.rs", "use super::A;\n"),
            ("x/src/b.rs", "// use crate::a::A;\n#[cfg(test)]\nuse crate::a::A;\n"),
            (
                "x/src/c.rs",
                "use crate::Name;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n",
            ),
            ("x/src/b/tests.rs", "use crate::a::A;\n"),
            ("x/tests/t.rs", "use x::a::A;\n"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn allowed_circles_are_those_of_their_crate() {
        let texts = ["use crate::handler::H;\n", "use crate::runtime::R;\n"];
        let of = |root: &str| {
            let paths = [format!("{root}/runtime.rs"), format!("{root}/handler.rs")];
            found(&[(&paths[0], texts[0]), (&paths[1], texts[1])]).len()
        };
        assert_eq!((of("src"), of("x/src")), (0, 2));
    }
}
