//! Answering requests about tokens for the HTTP server.

use forebay_actors::{error::NodeError, node::Node};
use forebay_api::{TokenRole, TokenView};
use forebay_engine::tokens::{Role, TOKEN_HASH_LEN, Token, Tokens};

use super::{Request, Response, answer::Refused};

/// The role of a stored token.
pub(crate) fn role_view(role: Role) -> TokenRole {
    match role {
        Role::Read => TokenRole::Read,
        Role::Write => TokenRole::Write,
        Role::Admin => TokenRole::Admin,
    }
}

fn stored_role(role: TokenRole) -> Result<Role, Refused> {
    match role {
        TokenRole::Read => Ok(Role::Read),
        TokenRole::Write => Ok(Role::Write),
        TokenRole::Admin => Ok(Role::Admin),
        other => Err(Refused::Usage(format!("`{other}` is no role of this version of forebay"))),
    }
}

fn hash(hex: &str) -> Result<[u8; TOKEN_HASH_LEN], Refused> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    let pair = |pair: &[u8]| u8::try_from(digit(&pair[0])? << 4 | digit(&pair[1])?).ok();
    let bytes: Option<Vec<u8>> = hex.as_bytes().chunks_exact(2).map(pair).collect();
    let hash = bytes.filter(|_| hex.len() == 2 * TOKEN_HASH_LEN).and_then(|it| it.try_into().ok());
    hash.ok_or_else(|| {
        let digits = 2 * TOKEN_HASH_LEN;
        Refused::Usage(format!("the hash of a token has {digits} hexadecimal digits"))
    })
}

/// Answers a request about tokens; other requests are answered elsewhere.
pub(super) async fn answer(node: &Node, request: Request) -> Result<Response, Refused> {
    match request {
        Request::Tokens => Ok(views(&node.tokens().list().await?)),
        Request::TokenCreate { name, role, sha256 } => {
            let created_at = node.tokens().now();
            let token = Token { role: stored_role(role)?, hash: hash(&sha256)?, created_at };
            Ok(views(&node.tokens().add(&name, token).await?))
        }
        Request::TokenRevoke { name } => Ok(views(&node.tokens().remove(&name).await?)),
        other => Err(NodeError::Unexpected(format!("{other:?} is answered elsewhere")).into()),
    }
}

fn views(tokens: &Tokens) -> Response {
    let view = |(name, token): (&str, &Token)| TokenView {
        name: name.to_owned(),
        role: role_view(token.role),
        created_at: token.created_at.0,
    };
    Response::Tokens { tokens: tokens.iter().map(view).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_64_hexadecimal_digits() {
        assert_eq!(hash(&"0f".repeat(32)).ok(), Some([15; TOKEN_HASH_LEN]));
        for text in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            assert!(hash(text).is_err(), "{text}");
        }
    }
}
