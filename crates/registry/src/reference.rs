//! Names of images in registries.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// Most characters of a registry's host, `/` and the repository together: clients commonly refuse more, says the OCI
/// distribution specification ("Pulling manifests").
const MAX_NAME: usize = 255;
/// Most characters of a tag, by the same specification.
const MAX_TAG: usize = 128;
/// Longest text that is looked at: a name, a tag, a digest and what separates them.
const MAX_TEXT: usize = MAX_NAME + 1 + MAX_TAG + 1 + 71;
/// The tag that is meant when neither a tag nor a digest is written, as with all clients.
const DEFAULT_TAG: &str = "latest";

/// An image in a registry: `registry[:port]/repository[:tag][@sha256:…]`.
///
/// What stands before the first `/` is a registry if it contains a `.` or a `:`, or is `localhost`. A text without a
/// registry, such as `promptflow:0.1.0`, is the name of something local and no image reference. The registry is kept in
/// lower case. With neither a tag nor a digest, the tag `latest` is meant; with both, the digest counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is no image reference.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// There is no registry in it, so it may be the name of something local.
    #[error(
        "`{0}` names no registry; an image reference begins with one, as in `registry.example.com/{0}`"
    )]
    NoRegistry(String),
    /// It is too long.
    #[error("`{start}…` is too long for an image reference: {what} has at most {limit} characters")]
    TooLong {
        /// How the text begins.
        start: String,
        /// What is too long.
        what: &'static str,
        /// Most characters of it.
        limit: usize,
    },
    /// A part of it has characters that it must not have.
    #[error("`{text}` is not an image reference: `{part}` is not {what}")]
    Malformed {
        /// The whole text.
        text: String,
        /// The part.
        part: String,
        /// What the part should be, and what that consists of.
        what: &'static str,
    },
    /// What comes after `@` is not a digest.
    #[error("`{text}` is not an image reference")]
    Digest {
        /// The whole text.
        text: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
}

impl ImageReference {
    /// The registry's host, in lower case, with its port if one is written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository: the path in the registry, without tag and digest.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one is written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image by this digest; the tag stays, for people.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// What names the manifest in a request: the digest, or else the tag.
    pub(crate) fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let too_long = |what, limit| ReferenceError::TooLong {
            start: text.chars().take(60).collect(),
            what,
            limit,
        };
        let malformed = |part: &str, what| ReferenceError::Malformed {
            text: text.to_owned(),
            part: part.to_owned(),
            what,
        };
        if text.len() > MAX_TEXT {
            return Err(too_long("all of it", MAX_TEXT));
        }
        let no_registry = || ReferenceError::NoRegistry(text.to_owned());
        let (first, rest) = text.split_once('/').ok_or_else(no_registry)?;
        let is_registry = first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost");
        if !is_registry {
            return Err(no_registry());
        }
        let registry = registry(first)
            .ok_or_else(|| malformed(first, "the host of a registry, `host` or `host:port`"))?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let digest = digest.map(str::parse).transpose();
        let digest = digest.map_err(|source| ReferenceError::Digest {
            text: text.to_owned(),
            source,
        })?;
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(too_long("registry and repository", MAX_NAME));
        }
        if !repository.split('/').all(is_component) {
            return Err(malformed(
                repository,
                "a repository, which has parts of lowercase letters and digits, separated by `/`, inside of them `.`, `_`, `__` or `-`",
            ));
        }
        if let Some(tag) = tag {
            if tag.len() > MAX_TAG {
                return Err(too_long("a tag", MAX_TAG));
            }
            if !is_tag(tag) {
                return Err(malformed(
                    tag,
                    "a tag, which has letters, digits, `_`, and after its first character also `.` and `-`",
                ));
            }
        }
        Ok(Self {
            registry,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    bytes.next().is_some_and(is_word)
        && text.len() <= MAX_TAG
        && bytes.all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_alphanumeric(first)
        && is_alphanumeric(last)
        && bytes
            .split(is_alphanumeric)
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || is_dashes(between))
}

fn is_dashes(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'-')
}

/// A host and its port, if it has one, as this crate writes them.
pub(crate) fn registry(text: &str) -> Option<String> {
    // What is left of an address in brackets begins with `:`.
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match port {
            "" => None,
            port => Some(port.strip_prefix(':')?),
        };
        (format!("[{address}]"), port)
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        (host_name(host)?, port)
    };
    let Some(port) = port else {
        return Some(host);
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = port.parse().ok().filter(|port| is_number && *port > 0)?;
    Some(format!("{host}:{port}"))
}

/// Labels of letters, digits and inner hyphens.
pub(crate) fn host_name(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(inner)
    };
    if !text.split('.').all(is_label) {
        return None;
    }
    let host = text.to_ascii_lowercase();
    // `127.1` and `0x7f000001` are addresses to whoever looks up a name, and not the host that they look like.
    let last = host.rsplit('.').next().unwrap_or(&host);
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if is_number && host.parse::<Ipv4Addr>().is_err() {
        return None;
    }
    Some(host)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ImageReference, ReferenceError> {
        text.parse()
    }

    #[test]
    fn its_parts() {
        let digest = Digest::of(b"abc");
        let text = format!("registry.example.com:5000/team/tools:1.2@{digest}");
        let reference = parse(&text).unwrap();
        assert_eq!(reference.registry(), "registry.example.com:5000");
        assert_eq!(reference.repository(), "team/tools");
        assert_eq!(reference.tag(), Some("1.2"));
        assert_eq!(reference.digest(), Some(digest));
        assert_eq!(reference.to_string(), text);
        assert_eq!(reference.manifest_name(), digest.to_string());

        let reference = parse("LOCALHOST/a").unwrap();
        assert_eq!(reference.registry(), "localhost");
        assert_eq!((reference.tag(), reference.digest()), (None, None));
        assert_eq!(reference.manifest_name(), "latest");
        assert_eq!(parse("[::0:1]:80/a").unwrap().registry(), "[::1]:80");
        assert_eq!(parse("[::1]/a").unwrap().registry(), "[::1]");
        for repository in ["a", "a.b", "a_b", "a__b", "a---b", "0/a-1/b"] {
            assert!(parse(&format!("r.example.com/{repository}")).is_ok());
        }
    }

    #[test]
    fn without_a_registry_it_is_something_local() {
        for text in [
            "promptflow:0.1.0",
            "promptflow",
            "",
            "team/tools:1",
            "example.com",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, ReferenceError::NoRegistry(text.to_owned()));
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let digest = Digest::of(b"abc");
        for text in [
            "r.example.com/",
            "r.example.com/A",
            "r.example.com/a//b",
            "r.example.com/a/",
            "r.example.com//a",
            "r.example.com/a..b",
            "r.example.com/a___b",
            "r.example.com/a-_b",
            "r.example.com/-a",
            "r.example.com/../a",
            "r.example.com/a?b",
            "r.example.com/a:",
            "r.example.com/a:.b",
            "r.example.com/a:b:c",
            "r.example.com/a:b/c",
            "r.example.com/a@",
            "r.example.com/a@sha256:abc",
            &format!("r.example.com/a@{digest}@{digest}"),
            "r.example.com:/a",
            "r.example.com:0/a",
            "r.example.com:+5/a",
            "r.example.com:65536/a",
            "r..example.com/a",
            "-r.example.com/a",
            "user@r.example.com/a",
            "user:password@r.example.com/a",
            "https://r.example.com/a",
            "127.1/a",
            "127.0.0.0x1/a",
            "256.1.1.1/a",
            "0127.0.0.1/a",
            "[::1/a",
            "[::1]5/a",
            "[127.0.0.1]/a",
            "::1/a",
            "r.example.com /a",
            "ŕ.example.com/a",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                !matches!(error, ReferenceError::NoRegistry(_)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let longest = "a".repeat(MAX_NAME - "r.example.com/".len());
        assert!(parse(&format!("r.example.com/{longest}")).is_ok());
        let error = parse(&format!("r.example.com/{longest}a")).unwrap_err();
        assert!(matches!(
            error,
            ReferenceError::TooLong {
                limit: MAX_NAME,
                ..
            }
        ));
        let longest = "a".repeat(MAX_TAG);
        assert!(parse(&format!("r.example.com/a:{longest}")).is_ok());
        let error = parse(&format!("r.example.com/a:{longest}a")).unwrap_err();
        assert!(matches!(
            error,
            ReferenceError::TooLong { limit: MAX_TAG, .. }
        ));
        let error = parse(&"é".repeat(1_000_000)).unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(
            registry in r"([a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.){1,3}[a-z]{2,5}(:[1-9][0-9]{0,3})?",
            repository in r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}){0,3}",
            tag in proptest::option::of(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"),
            content in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let mut text = format!("{registry}/{repository}");
            if let Some(tag) = &tag {
                text.push_str(&format!(":{tag}"));
            }
            if let Some(content) = content {
                text.push_str(&format!("@{}", Digest::of(&content)));
            }
            let reference = parse(&text).unwrap();
            prop_assert_eq!(reference.tag(), tag.as_deref());
            prop_assert_eq!(reference.digest(), content.map(|content| Digest::of(&content)));
            prop_assert_eq!(reference.to_string(), text);
        }

        #[test]
        fn any_text_is_read_or_refused(text in r"[a-zA-Z0-9.:/@\[\]_é-]{0,40}") {
            if let Ok(reference) = parse(&text) {
                prop_assert_eq!(parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
