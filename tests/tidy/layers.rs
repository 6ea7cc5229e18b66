//! Allowed dependencies: `messages <- engine <- storage <- actors <- forebay <- cli`,
//! `messages <- api <- actors`, and `api <- http <- forebay`.
//!
//! Must always hold: every crate of the workspace has a layer here; a crate without one is a
//! complaint, so that a new crate cannot be missed.

use cargo_metadata::{DependencyKind, Package};

/// A crate of the workspace.
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) dependencies: Vec<Dependency>,
}

/// A dependency named in a section of a `Cargo.toml`.
pub(super) struct Dependency {
    pub(super) name: String,
    /// Only for tests.
    pub(super) dev: bool,
    /// Whether it is a crate of this workspace.
    pub(super) ours: bool,
}

impl From<&Package> for Crate {
    fn from(package: &Package) -> Self {
        let dependency = |dependency: &cargo_metadata::Dependency| Dependency {
            name: dependency.name.clone(),
            dev: dependency.kind == DependencyKind::Development,
            ours: dependency.path.is_some(),
        };
        Self {
            name: package.name.to_string(),
            dependencies: package.dependencies.iter().map(dependency).collect(),
        }
    }
}

/// Permitted and forbidden dependencies of a crate.
struct Layer {
    name: &'static str,
    /// The layers below it.
    below: &'static [&'static str],
    /// Foreign crates that it must not use outside of its tests; a trailing `*`
    /// stands for any ending.
    forbidden: &'static [&'static str],
}

/// Threads, clocks, randomness, files, network, terminals: forbidden in pure code.
const IMPURE: &[&str] = &[
    "actix*",
    "async-*",
    "axum*",
    "chrono",
    "clap*",
    "comfy-table",
    "crossbeam*",
    "dashmap",
    "fastrand",
    "fs4",
    "futures*",
    "getrandom",
    "indicatif",
    "jiff",
    "libc",
    "nix",
    "parking_lot*",
    "rand*",
    "rayon*",
    "rocksdb",
    "rustix",
    "signal-hook",
    "tempfile",
    "time",
    "tokio*",
    "tracing-subscriber",
    "uuid",
];
const ACTORS_AND_TERMINALS: &[&str] =
    &["actix*", "axum*", "clap*", "comfy-table", "indicatif", "tokio*", "tracing-subscriber"];
const STORES_AND_TERMINALS: &[&str] =
    &["axum*", "clap*", "comfy-table", "indicatif", "rocksdb", "tracing-subscriber"];

const QUEUES_AND_TERMINALS: &[&str] = &[
    "actix*",
    "axum*",
    "clap*",
    "comfy-table",
    "forebay*",
    "indicatif",
    "omnipaxos*",
    "rocksdb",
    "tracing-subscriber",
];

const ACTORS_AND_STORES: &[&str] =
    &["actix*", "clap*", "comfy-table", "indicatif", "rocksdb", "tracing-subscriber"];
/// With the feature `http`, the library names axum's router.
const STORES_AND_TERMINALS_ONLY: &[&str] =
    &["clap*", "comfy-table", "indicatif", "rocksdb", "tracing-subscriber"];

/// Crates of the command line. A program that embeds `forebay` must not build them, not even
/// indirectly.
const COMMAND_LINE: &[&str] = &[
    "clap*",
    "comfy-table",
    "crossterm*",
    "forebay-cli",
    "indicatif",
    "jiff*",
    "ratatui*",
    "signal-hook",
    "tikv-*",
    "tracing-subscriber",
];

/// Reports every crate of the command line in `tree`, the output of `cargo tree --prefix none` for
/// the library.
pub(super) fn command_line_in_library(tree: &str) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| COMMAND_LINE.iter().any(|pattern| matches(pattern, name)))
        .map(|name| format!("a program that embeds forebay builds {name}"))
        .collect()
}

/// Crates of the HTTP server. A program that embeds `forebay` without the feature `http` must not
/// build them, not even indirectly.
const SERVER: &[&str] =
    &["axum*", "forebay-http", "http*", "hyper*", "prometheus-client", "sha2", "tower*", "utoipa*"];

/// Reports every crate of the HTTP server in `tree`, as [`command_line_in_library`].
pub(super) fn server_in_library(tree: &str) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| SERVER.iter().any(|pattern| matches(pattern, name)))
        .map(|name| format!("a program that embeds forebay without `http` builds {name}"))
        .collect()
}

const LAYERS: [Layer; 9] = [
    Layer { name: "forebay-messages", below: &[], forbidden: IMPURE },
    Layer { name: "forebay-engine", below: &["forebay-messages"], forbidden: IMPURE },
    Layer { name: "forebay-api", below: &["forebay-messages"], forbidden: IMPURE },
    // Depends on no other crate: groups are numbers, messages are bytes.
    Layer { name: "forebay-net", below: &[], forbidden: QUEUES_AND_TERMINALS },
    Layer {
        name: "forebay-storage",
        below: &["forebay-messages", "forebay-engine"],
        forbidden: ACTORS_AND_TERMINALS,
    },
    Layer {
        name: "forebay-actors",
        below: &[
            "forebay-messages",
            "forebay-api",
            "forebay-engine",
            "forebay-net",
            "forebay-storage",
        ],
        forbidden: STORES_AND_TERMINALS,
    },
    // A runtime is a port here, so that the library can have this crate as a feature.
    Layer {
        name: "forebay-http",
        below: &["forebay-messages", "forebay-api"],
        forbidden: ACTORS_AND_STORES,
    },
    Layer {
        name: "forebay",
        below: &[
            "forebay-messages",
            "forebay-api",
            "forebay-engine",
            "forebay-net",
            "forebay-storage",
            "forebay-actors",
            "forebay-http",
        ],
        forbidden: STORES_AND_TERMINALS_ONLY,
    },
    Layer {
        name: "forebay-cli",
        below: &[
            "forebay-messages",
            "forebay-api",
            "forebay-engine",
            "forebay-net",
            "forebay-storage",
            "forebay-actors",
            "forebay-http",
            "forebay",
        ],
        forbidden: &["rocksdb"],
    },
];

/// Reports every dependency that points up and every forbidden one.
pub(super) fn broken(crates: &[Crate]) -> Vec<String> {
    let mut complaints = Vec::new();
    for layer in &LAYERS {
        if !crates.iter().any(|one| one.name == layer.name) {
            complaints.push(format!("the crate {} is gone", layer.name));
        }
    }
    for one in crates {
        match LAYERS.iter().find(|layer| layer.name == one.name) {
            Some(layer) => complaints.extend(broken_in(layer, one)),
            None => complaints.push(format!("{} has no layer in tests/tidy/layers.rs", one.name)),
        }
    }
    complaints
}

fn broken_in(layer: &Layer, one: &Crate) -> Vec<String> {
    let refused = one.dependencies.iter().filter(|dependency| {
        if dependency.ours {
            // A crate may use itself, with features, in its own tests.
            let itself = dependency.dev && dependency.name == layer.name;
            !itself && !layer.below.contains(&dependency.name.as_str())
        } else {
            !dependency.dev && layer.forbidden.iter().any(|name| matches(name, &dependency.name))
        }
    });
    refused.map(|dependency| format!("{} must not know {}", layer.name, dependency.name)).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Vec<Crate> {
        let one = |layer: &Layer| Crate { name: layer.name.to_owned(), dependencies: Vec::new() };
        LAYERS.iter().map(one).collect()
    }

    fn with(name: &str, dependency: Dependency) -> Vec<String> {
        let mut crates = workspace();
        let one = crates.iter_mut().find(|one| one.name == name).unwrap();
        one.dependencies.push(dependency);
        broken(&crates)
    }

    fn foreign(name: &str) -> Dependency {
        Dependency { name: name.to_owned(), dev: false, ours: false }
    }

    fn ours(name: &str, dev: bool) -> Dependency {
        Dependency { name: name.to_owned(), dev, ours: true }
    }

    #[test]
    fn a_valid_workspace_passes() {
        assert_eq!(broken(&workspace()), Vec::<String>::new());
        assert!(with("forebay-engine", ours("forebay-messages", false)).is_empty());
        assert!(with("forebay-engine", foreign("hashbrown")).is_empty());
        assert!(with("forebay-actors", foreign("tokio")).is_empty());
        assert!(with("forebay", ours("forebay", true)).is_empty());
    }

    #[test]
    fn an_upward_dependency_is_refused_even_for_tests() {
        let complaint = ["forebay-engine must not know forebay-storage"];
        assert_eq!(with("forebay-engine", ours("forebay-storage", false)), complaint);
        assert_eq!(with("forebay-engine", ours("forebay-storage", true)), complaint);
        assert_eq!(with("forebay-messages", ours("forebay-engine", false)).len(), 1);
        assert_eq!(with("forebay-actors", ours("forebay", true)).len(), 1);
    }

    #[test]
    fn a_forbidden_crate_is_refused_outside_tests() {
        for name in ["tokio", "tokio-util", "actix", "rocksdb", "rand", "rand_chacha", "uuid"] {
            assert_eq!(with("forebay-engine", foreign(name)).len(), 1, "{name}");
        }
        assert_eq!(with("forebay-storage", foreign("actix")).len(), 1);
        assert_eq!(with("forebay-actors", foreign("rocksdb")).len(), 1);
        assert_eq!(with("forebay", foreign("rocksdb")).len(), 1);
        let for_tests = Dependency { dev: true, ..foreign("rand") };
        assert!(with("forebay-engine", for_tests).is_empty());
    }

    #[test]
    fn a_crate_of_the_command_line_in_the_library_is_refused() {
        let tree = "forebay v0.1.0 (/checkout)\nbytes v1.0.0\nclap_lex v1.0.0\n";
        assert_eq!(
            command_line_in_library(tree),
            ["a program that embeds forebay builds clap_lex"]
        );
        assert!(command_line_in_library("forebay v0.1.0\nsignal-hook-registry v1.4.0").is_empty());
    }

    #[test]
    fn a_crate_of_the_server_in_the_library_is_refused() {
        let tree = "forebay v0.1.0 (/checkout)\nbytes v1.0.0\nhttp-body v1.0.0\n";
        let said = "a program that embeds forebay without `http` builds http-body";
        assert_eq!(server_in_library(tree), [said]);
    }

    #[test]
    fn a_crate_without_a_layer_is_refused() {
        let mut crates = workspace();
        crates.push(Crate { name: "forebay-utils".to_owned(), dependencies: Vec::new() });
        assert_eq!(broken(&crates), ["forebay-utils has no layer in tests/tidy/layers.rs"]);
        crates.retain(|one| one.name == "forebay");
        assert_eq!(broken(&crates).len(), LAYERS.len() - 1);
    }
}
