//! Dynamic string tokens: `$ORIGIN`, `$LIB`, `$PLATFORM`, with braces or without.

/// What the tokens stand for. `None`: not known, and a path that has such a token is not used.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// Directory of the object whose string is expanded.
    pub origin: Option<Vec<u8>>,
    /// `lib`, `lib64`, or what the distribution has compiled in.
    pub lib: Option<Vec<u8>>,
    /// The name of the processor.
    pub platform: Option<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum Token {
    Origin,
    Platform,
    Lib,
}

/// Whether there is any token in `text`.
#[must_use]
pub fn has_tokens(text: &[u8]) -> bool {
    (0..text.len()).any(|at| text[at] == b'$' && token_at(&text[at + 1..]).is_some())
}

/// `text` with its tokens replaced; `None` where one of them is not known. A `$` that starts no token stays.
#[must_use]
pub fn expand(text: &[u8], tokens: &Tokens) -> Option<Vec<u8>> {
    let mut expanded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match (first == b'$').then(|| token_at(after)).flatten() {
            Some((token, len)) => {
                let value = match token {
                    Token::Origin => &tokens.origin,
                    Token::Platform => &tokens.platform,
                    Token::Lib => &tokens.lib,
                };
                expanded.extend_from_slice(value.as_ref()?);
                rest = &after[len..];
            }
            None => {
                expanded.push(first);
                rest = after;
            }
        }
    }
    Some(expanded)
}

/// The token that `after`, what follows a `$`, starts with, and its length. Without braces it ends where no letter, digit
/// or underscore follows: `$LIBS` is no token.
fn token_at(after: &[u8]) -> Option<(Token, usize)> {
    let (braced, inner) = match after.strip_prefix(b"{") {
        Some(inner) => (true, inner),
        None => (false, after),
    };
    let names: [(&[u8], Token); 3] = [
        (b"ORIGIN", Token::Origin),
        (b"PLATFORM", Token::Platform),
        (b"LIB", Token::Lib),
    ];
    names.into_iter().find_map(|(name, token)| {
        let next = inner.strip_prefix(name)?.first();
        if braced {
            (next == Some(&b'}')).then_some((token, name.len() + 2))
        } else {
            let goes_on = next.is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_');
            (!goes_on).then_some((token, name.len()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Option<String> {
        let tokens = Tokens {
            origin: Some(b"/opt/bin".to_vec()),
            lib: Some(b"lib64".to_vec()),
            platform: None,
        };
        expand(text.as_bytes(), &tokens).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn tokens_are_replaced_with_braces_and_without() {
        assert_eq!(
            expanded("$ORIGIN/../${LIB}/x").unwrap(),
            "/opt/bin/../lib64/x"
        );
        assert_eq!(expanded("a$LIB").unwrap(), "alib64");
    }

    #[test]
    fn what_only_looks_like_a_token_stays() {
        for text in ["$LIBS/x", "$ORIGIN_", "${ORIGIN", "$", "$$", "$HOME"] {
            assert_eq!(expanded(text).unwrap(), text);
            assert!(!has_tokens(text.as_bytes()));
        }
    }

    #[test]
    fn a_path_with_an_unknown_token_is_not_used() {
        assert_eq!(expanded("/lib/$PLATFORM"), None);
        assert!(has_tokens(b"/lib/$PLATFORM"));
    }
}
