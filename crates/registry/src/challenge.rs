//! What a registry wants to see before it answers: `WWW-Authenticate` (RFC 9110, 11.6.1).

/// One of the ways in which a client can prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Challenge {
    /// `bearer`, `basic`, …, in lower case.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter, by its name in lower case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let found = parameters.find(|(other, _)| other == name)?;
        Some(&found.1)
    }
}

/// The challenges of one header, as far as they can be read. `Bearer realm="…",service="…", Basic realm="…"`: a word that
/// no `=` follows begins the next one.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        let word = word.to_ascii_lowercase();
        let Some(value) = after.trim_start().strip_prefix('=') else {
            challenges.push(Challenge {
                scheme: word,
                ..Challenge::default()
            });
            rest = after;
            continue;
        };
        let (value, after) = self::value(value.trim_start());
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word, value));
        }
        rest = after;
    }
}

/// A quoted or a plain value, and what comes after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return (value.to_owned(), after);
    };
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, character) in quoted.char_indices() {
        match character {
            _ if is_escaped => {
                value.push(character);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(header: &str) -> String {
        let show =
            |challenge: &Challenge| format!("{} {:?}", challenge.scheme, challenge.parameters);
        parse(header)
            .iter()
            .map(show)
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn challenges_are_read() {
        assert_eq!(
            read(r#"Bearer realm="https://auth.example.com/token",service="r", scope="a:b,c""#),
            r#"bearer [("realm", "https://auth.example.com/token"), ("service", "r"), ("scope", "a:b,c")]"#
        );
        assert_eq!(
            read(r#"Basic realm="a \"b\"", Bearer realm = plain,error=x"#),
            r#"basic [("realm", "a \"b\"")]; bearer [("realm", "plain"), ("error", "x")]"#
        );
        assert_eq!(read("Negotiate, Basic"), "negotiate []; basic []");
        assert_eq!(
            read(r#"Bearer realm="never ends"#),
            r#"bearer [("realm", "never ends")]"#
        );
        assert_eq!(read(r#"realm="of nobody""#), "");
        assert_eq!(read(" ,,= "), "");
    }

    proptest! {
        #[test]
        fn anything_is_read(header in r#"[a-z=", \\é]{0,60}"#) {
            parse(&header);
        }
    }
}
